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


def strings_of(task: Rule110, batch: Batch, row: int) -> dict[int, list[int]]:
    """By the token that names it."""
    strings = {}
    for window in batch.context:
        assert (window.labels == IGNORE).all()
        name, *bits = real(window, row)
        assert name >= 2 + task.max_depth + task.bits
        assert len(bits) == task.bits
        assert set(bits) <= {0, 1}
        strings[name] = bits
    assert len(strings) == len(batch.context)
    return strings


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("windows", [1, 3])
def test_answers_follow_from_the_strings(windows: int, dense: bool) -> None:
    task = Rule110(bits=10, max_depth=5, strings=3, dense=dense)
    batch = task.batch(np.random.default_rng(0), 25, Difficulty(windows=windows, depth=4))
    check_form(task, batch, 25)
    (questions,) = batch.questions
    depths, answers = Counter[int](), Counter[int]()
    for row in range(25):
        strings = strings_of(task, batch, row)
        ids, asked = real(questions, row), []
        for place in range(0, len(ids), 3):
            name, steps, position = ids[place], ids[place + 1] - 2 + 1, ids[place + 2] - 2 - task.max_depth
            labels = questions.labels[row, place : place + 3].tolist()
            assert labels[:2] == [IGNORE, IGNORE]
            assert labels[2] == by_table(strings[name], steps)[position]
            assert int(questions.depth[row, place + 2]) == steps
            asked.append((name, position))
            depths[steps] += 1
            answers[labels[2]] += 1
        if dense:
            assert sorted(position for _, position in asked) == list(range(10))
            assert len({name for name, _ in asked}) == 1
        else:
            assert asked == [(name, 0) for name in strings]
    assert sorted(depths) == [1, 2, 3, 4]
    assert min(answers.values()) > 0.3 * sum(answers.values())


def test_seeds() -> None:
    check_seeds(Rule110(), Difficulty(windows=1, depth=4))


def test_sizes() -> None:
    task = Rule110(bits=24, max_depth=8, strings=2)
    assert task.vocab_size == 2 + 8 + 24 + 2
    assert task.window == 72
    assert task.chance() == 0.5
    assert Rule110(bits=24, strings=4, dense=False).window == 25


@pytest.mark.parametrize(
    ("difficulty", "words"),
    [
        (Difficulty(windows=2, depth=1), "2 windows, but the task has 1 strings"),
        (Difficulty(windows=0, depth=1), "0 windows"),
        (Difficulty(windows=1, depth=9), "depth 9 is outside of 1..8"),
        (Difficulty(windows=1, depth=0), "depth 0"),
    ],
)
def test_difficulties_it_does_not_have(difficulty: Difficulty, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Rule110().batch(np.random.default_rng(0), 1, difficulty)
