from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest

from agentsleep.errors import SettingsError
from agentsleep.tasks import IGNORE, Batch, Difficulty, Rule110
from agentsleep.tasks.rule110 import step110
from tests.tasks.helpers import check_form, check_seeds, real

TABLE = {bits: 110 >> (4 * bits[0] + 2 * bits[1] + bits[2]) & 1 for bits in product((0, 1), repeat=3)}


def by_table(bits: list[int], steps: int) -> list[int]:
    """Rule 110 as Wolfram numbers it, on a ring."""
    for _ in range(steps):
        bits = [TABLE[bits[i - 1], bits[i], bits[(i + 1) % len(bits)]] for i in range(len(bits))]
    return bits


def test_the_table() -> None:
    assert [TABLE[key] for key in ((1, 1, 1), (1, 1, 0), (1, 0, 1), (1, 0, 0))] == [0, 1, 1, 0]
    assert [TABLE[key] for key in ((0, 1, 1), (0, 1, 0), (0, 0, 1), (0, 0, 0))] == [1, 1, 1, 0]


def test_a_step_equals_the_table() -> None:
    rng = np.random.default_rng(0)
    for length in (1, 2, 3, 8, 24):
        bits = rng.integers(0, 2, (4, 3, length))
        stepped = step110(bits)
        for i in np.ndindex(4, 3):
            assert stepped[i].tolist() == by_table(bits[i].tolist(), 1)


def steps_of(batch: Batch, row: int) -> int:
    """The number of steps that every window of a row announces behind the string's name."""
    (t,) = {int(window.ids[row, 1]) - 2 + 1 for window in batch.context}
    return t


def strings_of(task: Rule110, batch: Batch, row: int) -> dict[int, list[int]]:
    """By the token that names it."""
    strings = {}
    for window in batch.context:
        assert (window.labels == IGNORE).all()
        name, announced, *bits = real(window, row)
        assert 2 <= announced < 2 + task.max_depth
        assert name >= 2 + task.max_depth + task.bits
        assert len(bits) == task.bits
        if task.tagged:
            first = 2 + task.max_depth + task.bits + task.strings
            bits = [token - first - 2 * position for position, token in enumerate(bits)]
        assert set(bits) <= {0, 1}
        strings[name] = bits
    assert len(strings) == len(batch.context)
    return strings


@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize("form", ["dense", "plain"])
@pytest.mark.parametrize("windows", [1, 3])
def test_answers_follow_from_the_strings(windows: int, form: str, tagged: bool) -> None:
    task = Rule110(bits=10, max_depth=5, strings=3, tagged=tagged)
    batch = task.batch(np.random.default_rng(0), 25, Difficulty(windows=windows, depth=4, form=form))
    check_form(task, batch, 25)
    (questions,) = batch.questions
    depths, answers = Counter[int](), Counter[int]()
    for row in range(25):
        strings = strings_of(task, batch, row)
        ids, asked = real(questions, row), []
        steps = steps_of(batch, row)
        for place in range(0, len(ids), 2):
            name, position = ids[place], ids[place + 1] - 2 - task.max_depth
            labels = questions.labels[row, place : place + 2].tolist()
            assert labels == [IGNORE, by_table(strings[name], steps)[position]]
            assert questions.depth[row, place : place + 2].tolist() == [0, steps]
            asked.append((name, position))
            depths[steps] += 1
            answers[labels[1]] += 1
        if form == "dense":
            assert sorted(position for _, position in asked) == list(range(10))
            assert len({name for name, _ in asked}) == 1
        else:
            assert asked == [(name, 0) for name in strings]
    assert sorted(depths) == [1, 2, 3, 4]
    assert min(answers.values()) > 0.3 * sum(answers.values())


def test_a_window_reads_name_steps_and_bits() -> None:
    task = Rule110(bits=3, max_depth=4, strings=2)
    batch = task.batch(np.random.default_rng(0), 1, Difficulty(windows=2, depth=4, focus=1.0))
    for window, name in zip(batch.context, (2 + 4 + 3, 2 + 4 + 3 + 1), strict=True):
        first, announced, *bits = real(window, 0)
        assert (first, announced) == (name, 2 + 4 - 1)
        assert len(bits) == 3
        assert set(bits) <= {0, 1}
    assert real(batch.questions[0], 0) == [9, 6, 10, 6]  # the first bit of every string, which token 6 stands for


def test_dense_questions_are_about_any_of_the_strings_in_any_order() -> None:
    task = Rule110(bits=6, max_depth=3, strings=3)
    batch = task.batch(np.random.default_rng(0), 60, Difficulty(windows=3, depth=2, form="dense"))
    names = Counter(real(batch.questions[0], row)[0] for row in range(60))
    assert len(names) == 3
    assert min(names.values()) > 8
    order = real(batch.questions[0], 0)[1::2]
    assert sorted(order) == [2 + 3 + p for p in range(6)]
    assert order != sorted(order)


def test_focus_asks_for_the_full_depth() -> None:
    task = Rule110(bits=5, max_depth=6)
    batch = task.batch(np.random.default_rng(0), 40, Difficulty(windows=1, depth=5, focus=1.0))
    assert {steps_of(batch, row) for row in range(40)} == {5}
    batch = task.batch(np.random.default_rng(0), 200, Difficulty(windows=1, depth=5, focus=0.5))
    drawn = Counter(steps_of(batch, row) for row in range(200))
    assert sorted(drawn) == [1, 2, 3, 4, 5]
    assert 90 < drawn[5] < 150  # half, and a fifth of the others


@pytest.mark.parametrize("form", ["plain", "dense"])
def test_seeds(form: str) -> None:
    check_seeds(Rule110(strings=2), Difficulty(windows=2, depth=4, form=form))


def test_sizes() -> None:
    task = Rule110(bits=24, max_depth=8, strings=2)
    assert task.vocab_size == 2 + 8 + 24 + 2
    assert Rule110(bits=24, max_depth=8, strings=2, tagged=True).vocab_size == 2 + 8 + 24 + 2 + 2 * 24
    assert task.window == 48
    assert task.chance() == 0.5
    assert Rule110(bits=1, strings=1).window == 3
    assert Rule110(bits=4, strings=9).window == 18
    for form in ("plain", "dense"):
        batch = task.batch(np.random.default_rng(0), 2, Difficulty(windows=2, depth=8, form=form))
        assert max(window.ids.shape[1] for window in (*batch.context, *batch.questions)) <= task.window


@pytest.mark.parametrize(
    ("difficulty", "words"),
    [
        (Difficulty(windows=2, depth=1), "2 windows, but the task has 1 strings"),
        (Difficulty(windows=0, depth=1), "0 windows"),
        (Difficulty(windows=1, depth=9), "depth 9 is outside of 1..8"),
        (Difficulty(windows=1, depth=0), "depth 0"),
        (Difficulty(windows=1, depth=1, form="live"), "rule110 has no form 'live'; it has plain, dense"),
        (Difficulty(windows=1, depth=1, form=""), "rule110 has no form ''"),
    ],
)
def test_difficulties_it_does_not_have(difficulty: Difficulty, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Rule110().batch(np.random.default_rng(0), 1, difficulty)
