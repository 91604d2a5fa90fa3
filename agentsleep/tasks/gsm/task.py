"""Batches of word problems: sentences are evicted, then quantities are asked that take up to ``depth`` steps.

Source of the task: GSM-Infinite (Zhou et al., 2025) in the form of arXiv 2605.26099: distractor sentences, and an
answer without a chain of thought. Words and generator are our own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from random import Random

import numpy as np
from transformers import PreTrainedTokenizerFast

from agentsleep.errors import SettingsError
from agentsleep.tasks.base import Batch, Difficulty, Row, stack
from agentsleep.tasks.gsm.jsonl import Example
from agentsleep.tasks.gsm.problem import DERIVED, FROM_ONE, MOST_QUANTITIES, Problem, Quantity, grow
from agentsleep.tasks.gsm.text import (
    ANSWER,
    QUESTION_TOKENS,
    SENTENCE_TOKENS,
    lexicon,
    problem_text,
    question_pieces,
    question_text,
    sentence_pieces,
)
from agentsleep.tasks.gsm.trace import Told, latest, traced

FORMS = ("all", "copies", "last", "first")
PACKED = ("all", "copies")  # a question for every quantity, in one window


@dataclass(frozen=True, kw_only=True)
class Gsm:
    """Problems of ``quantities`` sentences with values in 0..max_value, asked up to op ``max_depth``.

    The sentences that a question does not need are its distractors; as ``quantities`` is above ``max_depth``, every
    question has some. ``window`` bounds the tokens of each window; the default is for 12 quantities in 2 or more.

    ``forms`` are the sentences that may define a quantity by others, beside plain numbers: ``copy`` ("equals the number
    of ..."), ``more``, ``times``, ``sum``, ``difference`` and ``total``; a list will do. Their order does not matter.

    Forms of a difficulty:
        ``all``: the question window packs one question for every quantity, in random order. They are read in parallel:
            answers are labels and are not fed back.
        ``copies``: the same, but quantities are defined by plain copies alone, whatever ``forms`` says: nothing is to
            be worked out, only followed.
        ``last``: one question, its op drawn uniformly from 1..depth.
        ``first``: the same, but the question is read at the head of the first context window, and the question window
            holds " Answer:" alone, as in the paper.

    Context windows carry a trace: the stop of a sentence is to tell the value of the sentence's quantity, if it follows
    from what was read by then; behind the first pass that is the text before it, behind later ones also the rest of its
    window.
    """

    quantities: int = 12
    max_depth: int = 8
    max_value: int = 20
    window: int = 64
    forms: tuple[str, ...] = DERIVED
    name: str = "gsm"

    def __post_init__(self) -> None:
        if not 1 <= self.max_depth < self.quantities:
            raise SettingsError(
                f"max_depth {self.max_depth} must lie in 1..{self.quantities - 1}, below the {self.quantities} "
                "quantities, else a question has no distractors"
            )
        if self.quantities > MOST_QUANTITIES:
            raise SettingsError(f"quantities is {self.quantities}; the words are enough for {MOST_QUANTITIES}")
        if not 4 <= self.max_value <= 100:
            raise SettingsError(f"max_value is {self.max_value}; it must lie in 4..100, each number being one token")
        known = ", ".join(DERIVED)
        if not self.forms:
            raise SettingsError(f"forms is {self.forms!r}; it must be a list with at least one of {known}")
        unknown = [form for form in self.forms if form not in DERIVED]
        if unknown:
            raise SettingsError(f"forms {self.forms!r} has {unknown[0]!r}; it must be a list of {known}")
        if self.max_depth > 1 and not any(form in FROM_ONE for form in self.forms):
            raise SettingsError(
                f"no question takes 2 steps with forms {list(self.forms)} alone; add one of {', '.join(FROM_ONE)}"
            )
        object.__setattr__(self, "forms", tuple(form for form in DERIVED if form in self.forms))

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """One token a phrase or number; it depends on ``max_value`` alone."""
        return lexicon(self.max_value).tokenizer

    @property
    def vocab_size(self) -> int:
        return len(self.tokenizer)

    @property
    def depths(self) -> Sequence[int]:
        return range(1, self.max_depth + 1)

    def chance(self) -> float:
        """The accuracy of always guessing the most common answer of an op, as a mean over the ops.

        Counted in 500 problems of ``max_depth`` from a fixed seed. Generous: the guesser is told the op.
        """
        return _chance(self.quantities, self.max_depth, self.max_value, self.forms)

    def batch(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        """``size`` problems, their sentences dealt to ``difficulty.windows`` windows, in the form that it names.

        Problems are grown for ``difficulty.depth``: each op in 1..depth occurs, none above.

        Raises:
            SettingsError: an unknown form, more windows than sentences, a depth that cannot be asked, or windows that
                could get longer than ``window``.
        """
        self._check(difficulty)
        ids = lexicon(self.max_value).encode
        answer_ids = ids([ANSWER])
        dice = Random(int(rng.integers(2**63)))  # many times faster on single draws than numpy
        context: list[list[Row]] = [[] for _ in range(difficulty.windows)]
        told: list[list[Told]] = [[] for _ in range(difficulty.windows)]
        questions: list[Row] = []
        for _ in range(size):
            problem = self._grow(dice, difficulty.depth, ("copy",) if difficulty.form == "copies" else self.forms)
            if difficulty.form in PACKED:
                asked = dice.sample(sorted(problem.ops), len(problem.ops))
            else:
                asked = [_draw(dice, problem, difficulty.depth)]
            sentences = [ids(sentence_pieces(problem.template, sentence)) for sentence in problem.sentences]
            values = [ids([f" {problem.values[sentence.quantity]}"])[0] for sentence in problem.sentences]
            last_needed = latest(problem)
            for i, part in enumerate(np.array_split(np.arange(len(sentences)), difficulty.windows)):
                row, known = Row(), Told()
                if difficulty.form == "first" and i == 0:
                    row.read(ids(question_pieces(problem.template, asked[0])))
                for sentence in part.tolist():
                    row.read(sentences[sentence])
                    if last_needed[sentence] <= part[-1]:
                        at_once = last_needed[sentence] == sentence
                        known.tell(len(row.ids) - 1, values[sentence], at_once=at_once)
                context[i].append(row)
                told[i].append(known)
            row = Row()
            for quantity in asked:
                if difficulty.form != "first":
                    row.read(ids(question_pieces(problem.template, quantity)))
                row.read(answer_ids)
                row.labels[-1] = ids([f" {problem.values[quantity]}"])[0]
                row.depth[-1] = problem.ops[quantity]
            questions.append(row)
        windows = [traced(stack(rows), known) for rows, known in zip(context, told, strict=True)]
        return Batch(context=windows, questions=[stack(questions)])

    def examples(self, rng: np.random.Generator, count: int, depth: int) -> list[Example]:
        """``count`` problems as text, each with one question, its op drawn uniformly from 1..depth.

        Raises:
            SettingsError: a depth that cannot be asked.
        """
        self._check_depth(depth)
        dice = Random(int(rng.integers(2**63)))
        examples = []
        for _ in range(count):
            problem = self._grow(dice, depth, self.forms)
            asked = _draw(dice, problem, depth)
            answer, op = problem.values[asked], problem.ops[asked]
            examples.append(Example(problem_text(problem), question_text(problem, asked), answer, op))
        return examples

    def _grow(self, dice: Random, depth: int, forms: tuple[str, ...]) -> Problem:
        return grow(dice, quantities=self.quantities, depth=depth, max_value=self.max_value, forms=forms)

    def _check_depth(self, depth: int) -> None:
        if not 1 <= depth <= self.max_depth:
            raise SettingsError(f"depth {depth} is outside of 1..{self.max_depth}")

    def _check(self, difficulty: Difficulty) -> None:
        if difficulty.form not in FORMS:
            raise SettingsError(f"form {difficulty.form!r} is not one of {', '.join(FORMS)}")
        if not 1 <= difficulty.windows <= self.quantities:
            raise SettingsError(f"{difficulty.windows} windows cannot share {self.quantities} sentences")
        self._check_depth(difficulty.depth)
        told = SENTENCE_TOKENS * -(-self.quantities // difficulty.windows)
        told += QUESTION_TOKENS if difficulty.form == "first" else 0
        if told > self.window:
            raise SettingsError(
                f"{self.quantities} sentences in {difficulty.windows} windows can take {told} tokens a window, but "
                f"window is {self.window}; use more windows or window={told}"
            )
        asked = (QUESTION_TOKENS + 1) * (self.quantities if difficulty.form in PACKED else 1)
        if asked > self.window:
            raise SettingsError(
                f"the questions of form {difficulty.form!r} take {asked} tokens, but window is {self.window}; "
                f"use window={asked}"
            )


def _draw(dice: Random, problem: Problem, depth: int) -> Quantity:
    """The quantity to ask for: first its op, so that all are asked equally often."""
    op = dice.randint(1, depth)
    return dice.choice([quantity for quantity, needs in problem.ops.items() if needs == op])


@cache
def _chance(quantities: int, depth: int, max_value: int, forms: tuple[str, ...]) -> float:
    dice = Random(0)
    counts = {op: Counter[int]() for op in range(1, depth + 1)}
    for _ in range(500):
        problem = grow(dice, quantities=quantities, depth=depth, max_value=max_value, forms=forms)
        for quantity, op in problem.ops.items():
            counts[op][problem.values[quantity]] += 1
    return sum(max(values.values()) / values.total() for values in counts.values()) / depth
