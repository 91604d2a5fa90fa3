from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from agentsleep.errors import SettingsError
from agentsleep.tasks import IGNORE, Batch, Depo, Difficulty
from tests.tasks.helpers import check_form, check_seeds, real

Name = tuple[int, ...]


class Reader:
    """Reads tokens one after the other, and knows of the task what its docstring says, not which names there are."""

    def __init__(self, task: Depo, ids: list[int]) -> None:
        self.symbols, self.two, self.max_depth = task.symbols, task.name_tokens == 2, task.max_depth
        self.ids, self.at = ids, 0

    def __bool__(self) -> bool:
        return self.at < len(self.ids)

    def token(self) -> int:
        self.at += 1
        return self.ids[self.at - 1]

    def name(self) -> Name:
        first = self.token()
        assert first < self.symbols
        if self.two and self and self.symbols <= self.ids[self.at] < 2 * self.symbols:
            return (first, self.token())
        return (first,)

    def edge(self) -> tuple[Name, Name]:
        edge = (self.name(), self.name())
        if self.two:
            assert self.token() == 2 * self.symbols + self.max_depth  # the stop, the last of the vocabulary
        return edge

    def hops(self) -> int:
        hops = self.token() - self.symbols * (2 if self.two else 1) + 1
        assert 1 <= hops <= self.max_depth
        return hops


def asked_of(task: Depo, batch: Batch, row: int) -> list[tuple[Name, int, int]]:
    """The questions of a row as (name, hops, answer)."""
    (window,) = batch.questions
    questions, labelled = [], []
    reader = Reader(task, real(window, row))
    while reader:
        name, hops = reader.name(), reader.hops()
        labelled.append(reader.at - 1)
        assert int(window.depth[row, labelled[-1]]) == hops
        questions.append((name, hops, int(window.labels[row, labelled[-1]])))
    assert (window.labels[row] != IGNORE).nonzero()[:, 0].tolist() == labelled
    return questions


def edges_of(task: Depo, batch: Batch, row: int) -> list[list[tuple[Name, Name]]]:
    """The edges of a row, window by window."""
    windows = []
    for window in batch.context:
        assert (window.labels == IGNORE).all()
        reader, edges = Reader(task, real(window, row)), []
        while reader:
            edges.append(reader.edge())
        windows.append(edges)
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
        assert len({name[0] for name in names}) == 9  # the first token is the answer
        edges = edges_of(task, batch, row)
        assert {name for window in edges for edge in window for name in edge} == names
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


def test_focus_asks_for_the_full_depth() -> None:
    task = Depo(nodes=8, max_depth=5, symbols=8)
    batch = task.batch(np.random.default_rng(0), 40, Difficulty(windows=1, depth=4, focus=0.5))
    hops = Counter(hops for row in range(40) for _, hops, _ in asked_of(task, batch, row))
    assert sorted(hops) == [1, 2, 3, 4]
    assert 170 < hops[4] < 230  # of 320: half, and a quarter of the others


def test_order_says_nothing() -> None:
    """Edges and questions come in random order: else the answer could be read off the place."""
    task = Depo(nodes=8, max_depth=2, symbols=8)
    batch = task.batch(np.random.default_rng(0), 30, Difficulty(windows=1, depth=2))
    chained = 0
    for row in range(30):
        (edges,) = edges_of(task, batch, row)
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
    longer = Depo(nodes=12, max_depth=8, symbols=16, name_tokens=2)
    assert longer.vocab_size == 16 + 16 + 8 + 1
    assert longer.window == 12 * 5


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
