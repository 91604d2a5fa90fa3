"""Word problems: how a text is cut, what counts as an answer, and a tiny model against the reading of training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from agentsleep.errors import InputError, SettingsError
from agentsleep.evals.word_problems import cut, evaluate_examples
from agentsleep.state import FastWeights
from agentsleep.tasks import Difficulty
from agentsleep.tasks.gsm import Example, Gsm
from agentsleep.tokens import decode_text, encode_text
from agentsleep.training.episode import read_batch
from tests.tasks.helpers import real
from tests.tiny import tiny

TASK = Gsm()
SMALL = Gsm(quantities=4, max_depth=3, max_value=4)
TOKENIZER = TASK.tokenizer
OWN = TASK.examples(np.random.default_rng(0), 1, 8)[0]
ZOO = Example(
    "The number of fox in Ängelholm equals 2. The number of owl in Ängelholm equals 0.5 times the number of fox in "
    "Ängelholm.  The number of elk in Ängelholm equals the total number of adult animals in Jefferson Circus.\nThe "
    "number of adult otter in Misty Moor equals 3. ",
    "What is the total number of adult animals in Ängelholm?",
    11,
    2,
)


def ids(text: str) -> list[int]:
    return encode_text(TOKENIZER, text)


def joined(context: Sequence[list[int]]) -> list[int]:
    return [token for window in context for token in window]


def told(context: Sequence[list[int]]) -> list[str]:
    return [decode_text(TOKENIZER, window) for window in context]


# ------------------------------------------------------------------------------------------------------------ cut


@pytest.mark.parametrize("windows", [1, 2, 3, 5, 12])
def test_windows_hold_whole_sentences_and_are_even(windows: int) -> None:
    context, asked = cut(OWN, TOKENIZER, windows, "last", 1000)
    assert [text.count(".") for text in told(context)] == [len(p) for p in np.array_split(np.arange(12), windows)]
    assert all(re.fullmatch(r"( The number of [^.]+\.)+", text) for text in told(context))
    assert joined(context) == ids(f" {OWN.problem}")
    assert asked == ids(f" {OWN.question} Answer:")


def test_more_windows_than_sentences() -> None:
    context, _ = cut(OWN, TOKENIZER, 40, "last", 1000)
    assert [text.count(".") for text in told(context)] == [1] * 12


@pytest.mark.parametrize("question", ["last", "first"])
@pytest.mark.parametrize("windows", [2, 3, 5])
def test_tokens_are_those_of_training(windows: int, question: str) -> None:
    """Equal seeds draw equal problems, once as text and once as a batch."""
    batch = TASK.batch(np.random.default_rng(3), 20, Difficulty(windows=windows, depth=8, form=question))
    for row, example in enumerate(TASK.examples(np.random.default_rng(3), 20, 8)):
        context, asked = cut(example, TOKENIZER, windows, question, TASK.window)
        assert context == [real(window, row) for window in batch.context]
        assert asked == real(batch.questions[0], row)


def test_a_question_that_comes_first() -> None:
    context, asked = cut(ZOO, TOKENIZER, 2, "first", 1000)
    assert asked == ids(" Answer:")
    assert told(context)[0].startswith(f" {ZOO.question} The number of fox in Ängelholm equals 2. The")
    assert context[0][: len(ids(f" {ZOO.question}"))] == ids(f" {ZOO.question}")
    assert ZOO.question not in told(context)[1]


@pytest.mark.parametrize("longest", [9, 20, 64])
def test_where_a_window_would_be_too_long_there_is_one_more(longest: int) -> None:
    context, _ = cut(OWN, TOKENIZER, 1, "last", longest)
    assert len(context) > 1
    assert all(len(window) <= longest for window in context)
    assert all(text.endswith(".") for text in told(context))
    assert joined(context) == ids(f" {OWN.problem}")
    heads = [ids(f"{text.split('.')[0]}.") for text in told(context)]
    for window, head in zip(context, heads[1:], strict=False):
        assert len(window) + len(head) > longest  # none was opened too early


def test_every_part_is_fitted_by_itself() -> None:
    """An over-long first window does not shift the others."""
    sentence = "The number of adult otter in Misty Moor equals 3."  # 5 tokens
    example = Example(" ".join([sentence] * 6), "How many adult otter does Misty Moor have?", 3, 1)
    assert len(ids(f" {sentence}")) == 5
    assert [len(window) for window in cut(example, TOKENIZER, 2, "last", 10)[0]] == [10, 5, 10, 5]
    assert [len(window) for window in cut(example, TOKENIZER, 2, "first", 15)[0]] == [13, 5, 15]


@pytest.mark.parametrize("question", ["last", "first"])
@pytest.mark.parametrize("longest", [1, 7, 30, 64, 1000])
def test_words_of_others_become_bytes_and_none_is_lost(longest: int, question: str) -> None:
    context, asked = cut(ZOO, TOKENIZER, 3, question, longest)
    assert all(1 <= len(window) <= longest for window in context)
    problem = " " + re.sub(r"\s+", " ", ZOO.problem).strip()
    whole = f" {ZOO.question}{problem}" if question == "first" else problem
    assert joined(context) == ids(whole)
    assert decode_text(TOKENIZER, joined(context)) == whole
    assert decode_text(TOKENIZER, asked) == (" Answer:" if question == "first" else f" {ZOO.question} Answer:")
    assert len(ids(problem)) > 100  # mostly bytes


def test_a_dot_inside_of_a_number_ends_nothing() -> None:
    sentences = told(cut(ZOO, TOKENIZER, 4, "last", 1000)[0])
    assert [text.split(" equals ")[1] for text in sentences] == [
        "2.",
        "0.5 times the number of fox in Ängelholm.",
        "the total number of adult animals in Jefferson Circus.",
        "3.",
    ]


def test_a_text_keeps_its_own_end() -> None:
    context, _ = cut(replace(ZOO, problem="  One owl.. Two owls!  "), TOKENIZER, 3, "last", 99)
    assert told(context) == [" One owl..", " Two owls!"]


# -------------------------------------------------------------------------------------------- a model that recites


class Script:
    """In place of the model: behind "Answer:" it says what is listed for so many passes over the context in all.

    A state counts the passes that made it; hidden states are the token ids.
    """

    def __init__(self, says: Mapping[int, str | list[int]], window: int = 1000) -> None:
        self.config = SimpleNamespace(sleep_window=window)
        self.says = {count: ids(text) if isinstance(text, str) else text for count, text in says.items()}
        self.slept: list[list[int]] = []
        self.asked: list[list[int]] = []
        self.passes = 0

    def embed(self, tokens: Tensor) -> Tensor:
        assert torch.is_inference_mode_enabled()
        read = tokens[0].tolist()
        (self.asked if ids(" Answer:")[0] in read else self.slept).append(read)
        return tokens[..., None].float()

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        self.passes = int(state.get("layers.0.recurrent", torch.zeros(1)))
        return hidden, FastWeights({"layers.0.recurrent": torch.tensor([float(self.passes + 1)])})

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        return hidden

    def readout(self, hidden: Tensor) -> Tensor:
        read = self.asked[-1]
        said = len(read) - 1 - read.index(ids(" Answer:")[0])
        return torch.nn.functional.one_hot(torch.tensor(self.says[self.passes][said]), len(TOKENIZER)).float()


def run(model: Script, examples: Sequence[Example], **settings: Any) -> list[dict[str, Any]]:
    return evaluate_examples(model, TOKENIZER, examples, **settings)  # type: ignore[arg-type]


def right(answer: int, script: str | list[int], **settings: Any) -> tuple[bool, int]:
    """Whether a reply counts, and how many tokens of it were asked for."""
    model = Script({2: script})
    (row,) = run(model, [replace(OWN, answer=answer)], passes=(1,), windows=2, **settings)
    assert row["accuracy"] in (0.0, 1.0)
    return bool(row["accuracy"]), len(model.asked)


def test_the_state_behind_all_windows_and_passes_answers() -> None:
    example = replace(OWN, answer=7, op=3)
    model = Script({3: " 4.", 6: " 7.", 12: " 17."})
    rows = run(model, [example], passes=(1, 2, 4), windows=3)
    assert [(row["passes"], row["op"], row["accuracy"], row["questions"]) for row in rows] == [
        (1, 3, 0.0, 1),
        (2, 3, 1.0, 1),
        (4, 3, 0.0, 1),
    ]
    context, asked = cut(example, TOKENIZER, 3, "last", 1000)
    assert model.slept == context * 3
    assert model.asked == [asked, asked + ids(" 4"), asked, asked + ids(" 7"), asked, asked + ids(" 17")]


def test_the_models_window_bounds_the_windows() -> None:
    model = Script({len(cut(OWN, TOKENIZER, 1, "last", 20)[0]): " 1."}, window=20)
    run(model, [OWN], passes=(1,), windows=1)
    assert model.slept == cut(OWN, TOKENIZER, 1, "last", 20)[0]


def test_a_question_first_is_slept_on() -> None:
    model = Script({2: " 7."})
    run(model, [OWN], passes=(1,), windows=2, question="first")
    assert model.slept[0][:3] == ids(f" {OWN.question}")
    assert model.asked[0] == ids(" Answer:")


@pytest.mark.parametrize(
    ("script", "answer", "counts", "tokens"),
    [
        (" 7.", 7, True, 2),
        (" 7.", 8, False, 2),
        (" 7. 8.", 8, False, 2),  # nothing behind the dot is asked for
        (". 7", 7, False, 1),
        (" 17.", 7, False, 2),
        (" 123.", 123, True, 3),  # " 12" and a byte: no number of the vocabulary
        (" -11.", -11, True, 5),
        (" it is 7, not 8", 7, True, 8),
        (" seven is 7", 7, False, 8),  # the number would have come too late
        (" no number", 0, False, 8),
    ],
)
def test_the_first_number_counts(script: str, answer: int, counts: bool, tokens: int) -> None:
    assert right(answer, script) == (counts, tokens)


def test_the_end_token_ends_an_answer() -> None:
    end = TOKENIZER.eos_token_id
    assert right(7, [*ids(" 7"), end, *ids(" 8.")]) == (True, 2)
    assert right(8, [end, *ids(" 8.")]) == (False, 1)


@pytest.mark.parametrize(("most", "counts"), [(1, False), (2, True), (3, True), (9, True)])
def test_max_tokens(most: int, counts: bool) -> None:
    assert right(123, " 123.", max_tokens=most) == (counts, min(most, 3))


def test_rows_by_op_with_their_intervals() -> None:
    answers = [(2, 7), (5, 7), (2, 7), (2, 1), (2, 7)]  # op, answer; the reply is always 7
    examples = [replace(OWN, op=op, answer=answer) for op, answer in answers]
    parts: list[float] = []
    rows = run(Script({1: " 7.", 4: " 1."}), examples, passes=(4, 1), windows=1, progress=parts.append)
    assert parts == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert [list(row) for row in rows] == [["passes", "op", "accuracy", "interval", "questions"]] * 4
    assert [(row["passes"], row["op"], row["accuracy"], row["questions"]) for row in rows] == [
        (1, 2, 0.75, 4),
        (1, 5, 1.0, 1),
        (4, 2, 0.25, 4),
        (4, 5, 0.0, 1),
    ]
    # z^2 = 3.8415; 3 of 4: (0.75 + 0.4802 +- 1.96 sqrt(0.046875 + 0.06002)) / 1.9604; 1 of 1: from 1 / (1 + z^2)
    assert [row["interval"] for row in rows] == [
        pytest.approx([0.3006, 0.9544], abs=1e-4),
        pytest.approx([0.2065, 1.0], abs=1e-4),
        pytest.approx([0.0456, 0.6994], abs=1e-4),
        pytest.approx([0.0, 0.7935], abs=1e-4),
    ]


# ----------------------------------------------------------------------------------------------------- a real model


@pytest.mark.parametrize("question", ["last", "first"])
def test_a_model_answers_as_the_reading_of_training_counts(question: str) -> None:
    model = tiny("as", vocab_size=SMALL.vocab_size, sleep_window=SMALL.window)
    numbers = [encode_text(SMALL.tokenizer, f" {number}")[0] for number in range(5)]
    words = torch.ones(SMALL.vocab_size, dtype=torch.bool)
    words[numbers] = False
    with torch.no_grad():
        model.lm_head.weight[words] = 0  # it all but knows that an answer is a number
        model.layers[1].mixer.out_proj.weight.mul_(10)  # and what it was told weighs as much as how it is asked
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batch = SMALL.batch(np.random.default_rng(1), 24, Difficulty(windows=2, depth=3, form=question))
    examples = SMALL.examples(np.random.default_rng(1), 24, 3)
    settings: dict[str, Any] = {"passes": (1, 3), "windows": 2, "question": question, "max_tokens": 1}
    rows = evaluate_examples(model, SMALL.tokenizer, examples, **settings)
    counted = {
        (row["passes"], row["op"]): (round(row["accuracy"] * row["questions"]), row["questions"]) for row in rows
    }
    with torch.no_grad():
        hits = {n: read_batch(model, batch, passes=n).hits() for n in (1, 3)}
    assert counted == {(n, op): hits[n][op] for n in (1, 3) for op in (1, 2, 3)}
    assert 0 < sum(hit for hit, _ in counted.values()) < 48
    assert hits[1] != hits[3]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_model_reads_the_text_of_others() -> None:
    model = tiny("as", vocab_size=TASK.vocab_size, sleep_window=32)
    rows = evaluate_examples(model, TOKENIZER, [ZOO, OWN], passes=(2,), windows=2, question="first")
    assert sorted((row["op"], row["questions"]) for row in rows) == sorted([(2, 1), (OWN.op, 1)])


# ----------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"examples": []}, "there are no problems to evaluate; give at least one"),
        ({"question": "middle"}, "question is 'middle'; it stands last or first"),
        ({"windows": 0}, "windows is 0 and max_tokens 8; give at least 1 of each"),
        ({"max_tokens": 0}, "windows is 3 and max_tokens 0; give at least 1 of each"),
        ({"passes": ()}, "no passes to evaluate; give at least one"),
        ({"passes": (1, 0)}, "passes is 0; it must be a whole number of at least 1"),
        ({"passes": (True,)}, "passes is True"),
    ],
)
def test_mistakes(settings: dict[str, Any], named: str) -> None:
    model = Script({})
    with pytest.raises(SettingsError, match=named):
        run(model, **({"examples": [OWN]} | settings))
    assert model.slept == []  # known before the work, not in the middle of it


@pytest.mark.parametrize("field", ["problem", "question"])
def test_half_a_character(field: str) -> None:
    with pytest.raises(InputError, match="no UTF-8 form"):
        run(Script({}), [replace(OWN, **{field: "How many \ud800?"})])
