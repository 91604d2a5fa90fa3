from __future__ import annotations

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch

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
        assert set(bits) <= {0, 1}
        strings[name] = bits
    assert sorted(strings) == list(strings)
    assert len(strings) == len(batch.context)
    return strings


@pytest.mark.parametrize("form", ["dense", "plain"])
@pytest.mark.parametrize("windows", [1, 3])
def test_answers_follow_from_the_strings(windows: int, form: str) -> None:
    task = Rule110(bits=10, max_depth=5, strings=3)
    batch = task.batch(np.random.default_rng(0), 25, Difficulty(windows=windows, depth=4, form=form))
    check_form(task, batch, 25)
    (questions,) = batch.questions
    depths, answers = Counter[int](), Counter[int]()
    for row in range(25):
        strings = strings_of(task, batch, row)
        ids, asked = real(questions, row), []
        steps = steps_of(batch, row)
        for place in range(0, len(ids), 3):
            name, told, position = ids[place], ids[place + 1] - 1, ids[place + 2] - 2 - task.max_depth
            labels = questions.labels[row, place : place + 3].tolist()
            assert told == steps
            assert labels == [IGNORE, IGNORE, by_table(strings[name], steps)[position]]
            assert questions.depth[row, place : place + 3].tolist() == [0, 0, steps]
            asked.append((name, position))
            depths[steps] += 1
            answers[labels[2]] += 1
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
    assert real(batch.questions[0], 0) == [9, 5, 6, 10, 5, 6]  # behind 4 steps (5), the first bit (6) of every string


def test_dense_questions_are_about_any_of_the_strings_in_any_order() -> None:
    task = Rule110(bits=6, max_depth=3, strings=3)
    batch = task.batch(np.random.default_rng(0), 60, Difficulty(windows=3, depth=2, form="dense"))
    names = Counter(real(batch.questions[0], row)[0] for row in range(60))
    assert len(names) == 3
    assert min(names.values()) > 8
    order = real(batch.questions[0], 0)[2::3]
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


def on_the_way(bits: list[int], steps: int) -> list[int]:
    """What the token of every bit is to tell, counted cell by cell: bit j - steps, from bits j - 2 steps to j."""
    told = []
    for j in range(len(bits)):
        cone = [bits[i % len(bits)] for i in range(j - 2 * steps, j + 1)]
        while len(cone) > 1:
            cone = [TABLE[cone[i - 1], cone[i], cone[i + 1]] for i in range(1, len(cone) - 1)]
        told += cone
    return told


@pytest.mark.parametrize("form", ["plain", "dense"])
@pytest.mark.parametrize("passes", [1, 2, 3, 4, 8])
def test_a_trace_is_the_automaton_on_its_way(passes: int, form: str) -> None:
    """With one to seven steps in three shares and the like, so these are not whole, and the ring is gone round."""
    task = Rule110(bits=9, max_depth=8, strings=2)
    batch = task.batch(np.random.default_rng(0), 20, Difficulty(windows=2, depth=7, form=form))
    steps = [steps_of(batch, row) for row in range(20)]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6, 7]
    for number in range(1, passes + 1):
        for window, name in zip(batch.context, (2 + 8 + 9, 2 + 8 + 9 + 1), strict=True):
            assert window.trace is not None
            labels = window.trace(number, passes)
            assert (labels.shape, labels.dtype) == (window.ids.shape, window.labels.dtype)
            for row in range(20):
                shares = max(1, passes - 1)  # all passes but the last make one
                done = max(s for s in range(8) if s * shares <= steps[row] * min(number, shares))
                wanted = on_the_way(strings_of(task, batch, row)[name], done)
                assert labels[row].tolist() == [IGNORE, IGNORE, *wanted]


def test_a_trace_by_hand() -> None:
    """Five steps in three passes: the first makes two of them, the second those that are left, the third stores."""
    task = Rule110(bits=6, max_depth=5)
    batch = task.batch(np.random.default_rng(0), 3, Difficulty(windows=1, depth=5, focus=1.0))
    (window,) = batch.context
    assert window.trace is not None
    made, whole, stored = (window.trace(number, 3)[:, 2:] for number in (1, 2, 3))
    assert torch.equal(stored, whole)
    assert torch.equal(window.trace(1, 1)[:, 2:], whole)  # a single pass makes all of them
    for row in range(3):
        start = real(window, row)[2:]
        two = by_table(start, 2)
        assert made[row].tolist() == [two[4], two[5], two[0], two[1], two[2], two[3]]
        five = by_table(start, 5)
        assert whole[row].tolist() == [five[1], five[2], five[3], five[4], five[5], five[0]]
    assert batch.questions[0].trace is None
    assert (window.labels == IGNORE).all()  # a trace is no label


def test_fewer_windows_hold_any_of_the_strings() -> None:
    """So that a model which has only seen single strings knows all their names."""
    task = Rule110(bits=4, max_depth=3, strings=4)
    batch = task.batch(np.random.default_rng(0), 200, Difficulty(windows=2, depth=3))
    seen = Counter(tuple(strings_of(task, batch, row)) for row in range(200))
    first = 2 + 3 + 4
    assert sorted(seen) == [(first + a, first + b) for a in range(4) for b in range(a + 1, 4)]
    assert min(seen.values()) > 15
    for row in range(200):  # the questions name the strings that were read
        assert tuple(real(batch.questions[0], row)[::3]) == tuple(strings_of(task, batch, row))


def test_a_trace_can_be_asked_again() -> None:
    (window,) = Rule110().batch(np.random.default_rng(0), 4, Difficulty(windows=1, depth=8)).context
    assert window.trace is not None
    first = window.trace(3, 4)
    first.fill_(7)  # whoever gets it may keep it
    again = window.trace(3, 4)
    assert int(again.max()) == 1
    assert not torch.equal(again, window.trace(2, 4))
    assert torch.equal(again, window.trace(4, 4))


@pytest.mark.parametrize("form", ["plain", "dense"])
def test_only_multiples_of_the_stride_are_asked(form: str) -> None:
    task = Rule110(bits=5, max_depth=13, stride=4)
    assert list(task.depths) == [4, 8, 12]
    assert task.vocab_size == Rule110(bits=5, max_depth=13).vocab_size
    batch = task.batch(np.random.default_rng(0), 60, Difficulty(windows=1, depth=12, form=form))
    check_form(task, batch, 60)
    assert {steps_of(batch, row) for row in range(60)} == {4, 8, 12}
    (questions,) = batch.questions
    assert {int(d) for d in questions.depth.unique()} == {0, 4, 8, 12}
    for row in range(60):
        (bits,) = strings_of(task, batch, row).values()
        position = real(questions, row)[2] - 2 - task.max_depth
        assert int(questions.labels[row, 2]) == by_table(bits, steps_of(batch, row))[position]
    batch = task.batch(np.random.default_rng(0), 30, Difficulty(windows=1, depth=8, form=form))
    assert {steps_of(batch, row) for row in range(30)} == {4, 8}


@pytest.mark.parametrize("depth", [0, 1, 5, 11, 13, 16])
def test_a_depth_between_two_strides(depth: int) -> None:
    task = Rule110(max_depth=13, stride=4)
    with pytest.raises(SettingsError, match=rf"depth {depth} is none of the steps that are asked, \[4, 8, 12\]"):
        task.batch(np.random.default_rng(0), 1, Difficulty(windows=1, depth=depth))


@pytest.mark.parametrize("stride", [0, -1, 9])
def test_strides_that_are_none(stride: int) -> None:
    with pytest.raises(SettingsError, match=rf"stride of rule110 is {stride}; it must lie in 1\.\.8"):
        Rule110(max_depth=8, stride=stride)
    assert list(Rule110(max_depth=8, stride=8).depths) == [8]


@pytest.mark.parametrize("form", ["plain", "dense"])
def test_seeds(form: str) -> None:
    check_seeds(Rule110(strings=2), Difficulty(windows=2, depth=4, form=form))


def test_sizes() -> None:
    task = Rule110(bits=24, max_depth=8, strings=2)
    assert task.vocab_size == 2 + 8 + 24 + 2
    assert Rule110(bits=24, max_depth=8, strings=2, cone=8).vocab_size == 2 + 8 + 24 + 2 + 1
    assert Rule110(bits=2, max_depth=8, strings=2, cone=8).window == 2 * 8 + 1 + 3
    assert task.window == 72
    assert task.chance() == 0.5
    assert Rule110(bits=1, strings=1).window == 3
    assert Rule110(bits=4, strings=9).window == 27
    for form in ("plain", "dense"):
        batch = task.batch(np.random.default_rng(0), 2, Difficulty(windows=2, depth=8, form=form))
        assert max(window.ids.shape[1] for window in (*batch.context, *batch.questions)) <= task.window


@pytest.mark.parametrize(
    ("difficulty", "words"),
    [
        (Difficulty(windows=2, depth=1), "2 windows, but the task has 1 strings"),
        (Difficulty(windows=0, depth=1), "0 windows"),
        (Difficulty(windows=1, depth=9), r"depth 9 is none of the steps that are asked, \[1, 2, 3, 4, 5, 6, 7, 8\]"),
        (Difficulty(windows=1, depth=0), "depth 0"),
        (Difficulty(windows=1, depth=1, form="live"), "rule110 has no form 'live'; it has plain, dense"),
        (Difficulty(windows=1, depth=1, form=""), "rule110 has no form ''"),
    ],
)
def test_difficulties_it_does_not_have(difficulty: Difficulty, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Rule110().batch(np.random.default_rng(0), 1, difficulty)


@pytest.mark.parametrize("cone", [1, 3, 4, 5, 7, 12])
def test_a_cone_is_read_round_the_ring(cone: int) -> None:
    """The bits that the first one follows from, whose seam is nowhere; up to ``cone`` steps no other is needed."""
    task = Rule110(bits=8, max_depth=9, strings=2, cone=cone)
    batch = task.batch(np.random.default_rng(3), 30, Difficulty(windows=2, depth=9))
    check_form(task, batch, 30)
    (questions,) = batch.questions
    end = 2 + 9 + 8 + 2
    assert task.vocab_size == end + 1
    whole = 0
    for row in range(30):
        t, ids = steps_of(batch, row), real(questions, row)
        assert ids == [2 + 9 + 8, 2 + t - 1, 2 + 9, 2 + 9 + 8 + 1, 2 + t - 1, 2 + 9]
        for window, label in zip(batch.context, questions.labels[row, 2::3].tolist(), strict=True):
            _, _, *read, ended = real(window, row)
            assert ended == end
            assert len(read) == 2 * cone + 1
            ring = {(t - 2 * cone + place) % 8: bit for place, bit in enumerate(read)}
            assert all(ring[(t - 2 * cone + place) % 8] == bit for place, bit in enumerate(read))
            if len(ring) == 8:
                whole += 1
                assert label == by_table([ring[i] for i in range(8)], t)[0]
            if t <= cone:
                assert label == on_the_way(read, t)[-1]
    assert (whole == 60) == (2 * cone + 1 >= 8)


def test_a_trace_in_a_cone() -> None:
    """What needs bits that were not read is not asked; the end is asked for what the last bit is."""
    task = Rule110(bits=8, max_depth=9, strings=2, cone=4)
    batch = task.batch(np.random.default_rng(3), 30, Difficulty(windows=2, depth=9))
    for row in range(30):
        t = steps_of(batch, row)
        for window in batch.context:
            assert window.trace is not None
            _, _, *read, _ = real(window, row)
            for number, done in ((1, t // 2), (2, t), (3, t)):
                wanted = [IGNORE if at < 2 * done else bit for at, bit in enumerate(on_the_way(read, done))]
                assert window.trace(number, 3)[row].tolist() == [IGNORE, IGNORE, *wanted, wanted[-1]]


def test_a_cone_that_is_none() -> None:
    with pytest.raises(SettingsError, match="cone of rule110 is -1"):
        Rule110(cone=-1)
    with pytest.raises(SettingsError, match="it has no form 'dense'"):
        Rule110(cone=2).batch(np.random.default_rng(0), 1, Difficulty(windows=1, depth=1, form="dense"))
