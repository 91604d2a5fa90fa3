"""Word problems as text, our own or GSM-Infinite's: read in windows, slept on, evicted, and answered freely."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from agentsleep.errors import SettingsError
from agentsleep.evals.intervals import wilson
from agentsleep.models.nap import NapForCausalLM
from agentsleep.sleep import check_depth, sleep
from agentsleep.state import FastWeights
from agentsleep.tasks.gsm import Example, grade
from agentsleep.tokens import encode_text

ANSWER = " Answer:"
WHERE = ("last", "first")
_BETWEEN = re.compile(r"(?<=\.)\s+")  # sentences


def evaluate_examples(
    model: NapForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    examples: Sequence[Example],
    *,
    passes: Sequence[int] = (1, 2, 4),
    windows: int = 3,
    question: str = "last",
    max_tokens: int = 8,
    progress: Callable[[float], None] | None = None,
) -> list[dict[str, Any]]:
    """Accuracy by op for every number of passes.

    Each problem is cut between sentences into ``windows`` windows, into more where one would be longer than the
    model's. The answer is greedy text behind "Answer:", graded by its first number.

    Args:
        question: ``last`` (behind everything, in a window of its own) or ``first`` (at the head of the first window).
        max_tokens: of an answer.

    Returns:
        Rows ``{"passes", "op", "accuracy", "interval", "questions"}``.

    Raises:
        SettingsError: no examples, no passes, or a setting out of range.
        InputError: a text that has no UTF-8 form.
    """
    if not examples:
        raise SettingsError("there are no problems to evaluate; give at least one")
    if question not in WHERE:
        raise SettingsError(f"question is {question!r}; it stands {' or '.join(WHERE)}")
    if windows < 1 or max_tokens < 1:
        raise SettingsError(f"windows is {windows} and max_tokens {max_tokens}; give at least 1 of each")
    if not passes:
        raise SettingsError("no passes to evaluate; give at least one, such as 4")
    for n in passes:
        check_depth(n)
    report = progress or (lambda part: None)
    counts: dict[tuple[int, int], list[int]] = {}
    with torch.inference_mode():
        for done, example in enumerate(examples, 1):
            context, asked = cut(example, tokenizer, windows, question, model.config.sleep_window)
            for n in passes:
                state = FastWeights()
                for ids in context:
                    state = sleep(model, torch.tensor([ids]), state, passes=n).state
                count = counts.setdefault((n, example.op), [0, 0])
                count[0] += grade(_answer(model, tokenizer, asked, state, max_tokens), example.answer)
                count[1] += 1
            report(done / len(examples))
    return [
        {"passes": n, "op": op, "accuracy": right / total, "interval": list(wilson(right, total)), "questions": total}
        for (n, op), (right, total) in sorted(counts.items())
    ]


def cut(
    example: Example, tokenizer: PreTrainedTokenizerFast, windows: int, question: str, longest: int
) -> tuple[list[list[int]], list[int]]:
    """The token ids of the context windows, each at most ``longest`` long, and of what the model is to go on from.

    Only a sentence that is itself longer than a window is cut.
    """
    sentences = [f" {sentence}" for sentence in _BETWEEN.split(example.problem.strip())]
    parts = [part.tolist() for part in np.array_split(np.array(sentences, dtype=object), windows) if len(part)]
    asked = f" {example.question.strip()}"
    if question == "first":
        parts[0].insert(0, asked)
    context = [ids for part in parts for ids in _fit([encode_text(tokenizer, text) for text in part], longest)]
    return context, encode_text(tokenizer, ANSWER if question == "first" else asked + ANSWER)


def _fit(sentences: Sequence[list[int]], longest: int) -> list[list[int]]:
    """Sentences in windows, in a further one wherever the next does not fit."""
    windows: list[list[int]] = [[]]
    for ids in sentences:
        for piece in (ids[start : start + longest] for start in range(0, len(ids), longest)):
            if len(windows[-1]) + len(piece) > longest:
                windows.append([])
            windows[-1] += piece
    return windows


def _answer(
    model: NapForCausalLM, tokenizer: PreTrainedTokenizerFast, ids: list[int], state: FastWeights, max_tokens: int
) -> str:
    said: list[int] = []
    for _ in range(max_tokens):
        hidden, _state = model.blocks(model.embed(torch.tensor([ids + said])), state)
        said.append(int(model.readout(hidden[0, -1]).argmax()))
        if said[-1] == tokenizer.eos_token_id or "." in tokenizer.decode(said[-1:]):
            break
    return str(tokenizer.decode(said))
