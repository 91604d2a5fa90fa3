from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from agentsleep.errors import SettingsError
from agentsleep.tasks import IGNORE, Batch, Depo, Difficulty
from tests.tasks.helpers import check_form, check_seeds, real

Name = tuple[int, ...]


def asked_of(task: Depo, batch: Batch, row: int) -> list[tuple[Name, int, int]]:
    """The questions of a row as (name, hops, answer); hop tokens say where a name ends."""
    (window,) = batch.questions
    questions, name = [], []
    for place, token in enumerate(real(window, row)):
        label = int(window.labels[row, place])
        if token < task.symbols:
            name.append(token)
            assert label == IGNORE
        else:
            hops = token - task.symbols + 1
            assert int(window.depth[row, place]) == hops
            questions.append((tuple(name), hops, label))
            name = []
    assert name == []
    return questions


def edges_of(batch: Batch, row: int, names: set[Name]) -> list[list[tuple[Name, Name]]]:
    """The edges of a row, window by window; the first token of a name tells which it is."""
    by_first = {name[0]: name for name in names}
    assert len(by_first) == len(names)
    windows = []
    for window in batch.context:
        assert (window.labels == IGNORE).all()
        ids, read = real(window, row), []
        while ids:
            name = by_first[ids[0]]
            assert tuple(ids[: len(name)]) == name
            read.append(name)
            ids = ids[len(name) :]
        windows.append(list(zip(read[::2], read[1::2], strict=True)))
    return windows


@pytest.mark.parametrize("name_tokens", [1, 2])
@pytest.mark.parametrize("windows", [1, 2, 5])
def test_answers_follow_from_the_edges(name_tokens: int, windows: int) -> None:
    task = Depo(nodes=9, max_depth=6, symbols=11, name_tokens=name_tokens)
    batch = task.batch(np.random.default_rng(0), 20, Difficulty(windows=windows, depth=6))
    check_form(task, batch, 20)
    assert len(batch.context) == windows
    for row in range(20):
        asked = asked_of(task, batch, row)
        names = {name for name, _, _ in asked}
        assert len(asked) == len(names) == 9  # a question for every node
        edges = edges_of(batch, row, names)
        assert {len(window) for window in edges} <= {9 // windows, -(-9 // windows)}
        follows = dict(edge for window in edges for edge in window)
        assert len(follows) == 9
        for name, hops, answer in asked:
            at = name
            for _ in range(hops):
                at = follows[at]
            assert answer == at[0]
        cycle = [asked[0][0]]
        while (after := follows[cycle[-1]]) != cycle[0]:
            cycle.append(after)
        assert len(cycle) == 9 > task.max_depth  # one cycle, longer than the deepest question


def test_depth_bounds_the_hops_and_all_are_asked() -> None:
    task = Depo(nodes=8, max_depth=5, symbols=8)
    batch = task.batch(np.random.default_rng(0), 40, Difficulty(windows=1, depth=3))
    hops = Counter(hops for row in range(40) for _, hops, _ in asked_of(task, batch, row))
    assert sorted(hops) == [1, 2, 3]
    assert min(hops.values()) > 60


def test_names_of_two_tokens_come_in_both_lengths() -> None:
    task = Depo(nodes=8, max_depth=2, symbols=12, name_tokens=2)
    batch = task.batch(np.random.default_rng(0), 20, Difficulty(windows=1, depth=1))
    lengths = Counter(len(name) for row in range(20) for name, _, _ in asked_of(task, batch, row))
    assert sorted(lengths) == [1, 2]
    assert max(window.ids.shape[1] for window in (*batch.context, *batch.questions)) <= task.window


def test_order_says_nothing() -> None:
    """Edges and questions come in random order: else the answer could be read off the place."""
    task = Depo(nodes=8, max_depth=2, symbols=8)
    batch = task.batch(np.random.default_rng(0), 30, Difficulty(windows=1, depth=2))
    chained = 0
    for row in range(30):
        names = {name for name, _, _ in asked_of(task, batch, row)}
        (edges,) = edges_of(batch, row, names)
        chained += sum(a[1] == b[0] for a, b in pairwise(edges))
    assert chained < 30 * 7 * 0.3  # 1 in 7 by chance


def test_seeds() -> None:
    check_seeds(Depo(), Difficulty(windows=2, depth=4))


def test_sizes() -> None:
    task = Depo(nodes=12, max_depth=8, symbols=16)
    assert task.vocab_size == 24
    assert task.window == 24
    assert task.chance() == 1 / 11
    assert list(task.depths) == [1, 2, 3, 4, 5, 6, 7, 8]
    batch = task.batch(np.random.default_rng(0), 4, Difficulty(windows=1, depth=8))
    assert max(window.ids.shape[1] for window in (*batch.context, *batch.questions)) == task.window


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nodes": 8, "max_depth": 8}, "max_depth 8 must be below the 8 nodes"),
        ({"nodes": 12, "symbols": 11}, "symbols 11 must be at least the number of nodes, 12"),
        ({"name_tokens": 3}, "name_tokens is 3"),
        ({"name_tokens": 0}, "name_tokens is 0"),
    ],
)
def test_settings_that_make_no_task(settings: dict[str, int], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Depo(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("difficulty", "words"),
    [
        (Difficulty(windows=13, depth=1), "13 windows cannot share 12 edges"),
        (Difficulty(windows=0, depth=1), "0 windows"),
        (Difficulty(windows=1, depth=9), "depth 9 is outside of 1..8"),
        (Difficulty(windows=1, depth=0), "depth 0"),
    ],
)
def test_difficulties_it_does_not_have(difficulty: Difficulty, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Depo().batch(np.random.default_rng(0), 1, difficulty)
