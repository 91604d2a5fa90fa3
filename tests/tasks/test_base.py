from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from agentsleep.tasks import IGNORE, TASKS, Batch, Difficulty, Window
from agentsleep.tasks.base import Row, stack


def test_a_label_is_the_token_that_follows() -> None:
    row = Row()
    row.read([5, 6])
    row.answer([7, 8], depth=3)
    row.read([9])
    row.answer([10])
    assert row.ids == [5, 6, 7, 8, 9, 10]
    assert row.labels == [IGNORE, 7, 8, IGNORE, 10, IGNORE]
    assert row.depth == [0, 3, 0, 0, 0, 0]  # the first token of an answer is the one that is judged


def test_rows_are_padded_on_the_right() -> None:
    short, long = Row(), Row()
    short.read([1, 2])
    short.answer([3], depth=2)
    long.read([4, 5, 6, 7, 8])
    window = stack([short, long], pad=9)
    assert window.ids.tolist() == [[1, 2, 3, 9, 9], [4, 5, 6, 7, 8]]
    assert window.labels.tolist() == [[IGNORE, 3, IGNORE, IGNORE, IGNORE], [IGNORE] * 5]
    assert window.depth.tolist() == [[0, 2, 0, 0, 0], [0] * 5]
    assert window.mask is not None
    assert window.mask.tolist() == [[True, True, True, False, False], [True] * 5]


def test_rows_of_equal_length_need_no_mask() -> None:
    rows = [Row([1, 2], [IGNORE] * 2, [0] * 2), Row([3, 4], [IGNORE] * 2, [0] * 2)]
    assert stack(rows).mask is None


def test_an_empty_row_is_all_padding() -> None:
    window = stack([Row(), Row([1], [IGNORE], [0])])
    assert window.mask is not None
    assert window.mask.tolist() == [[False], [True]]
    assert torch.equal(window.ids, torch.tensor([[0], [1]]))


def some(length: int, mask: torch.Tensor | None = None) -> Window:
    return Window(
        ids=torch.arange(2 * length).view(2, length),
        labels=torch.full((2, length), IGNORE),
        depth=torch.zeros(2, length, dtype=torch.long),
        mask=mask,
    )


def test_a_batch_moves_with_all_its_tensors() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    batch = Batch(context=[some(2, mask), some(3)], questions=[some(4)])
    moved = batch.to("meta")
    for before, after in zip((*batch.context, *batch.questions), (*moved.context, *moved.questions), strict=True):
        for name in ("ids", "labels", "depth", "mask"):
            old, new = getattr(before, name), getattr(after, name)
            assert (old is None) == (new is None)
            if old is not None:
                assert new.device.type == "meta"
                assert (new.shape, new.dtype) == (old.shape, old.dtype)
    assert len(moved.context) == 2
    here = batch.to("cpu")
    assert torch.equal(here.context[0].ids, batch.context[0].ids)
    assert here.context[0].mask is mask


def test_a_trace_moves_with_its_window() -> None:
    def trace(number: int, passes: int) -> torch.Tensor:
        return torch.full((2, 3), number)

    traced = dataclasses.replace(some(3), trace=trace)
    moved = Batch(context=[some(2), traced], questions=[some(4)]).to("meta")
    assert [window.trace for window in moved.context] == [None, trace]
    assert moved.questions[0].trace is None
    assert moved.context[1].ids.device.type == "meta"


def test_tokens_of_all_passes_and_rounds() -> None:
    mask = torch.tensor([[True, False], [True, True]])
    batch = Batch(context=[some(2, mask), some(3)], questions=[some(5), some(7), some(11)])
    assert batch.tokens(1, 1) == 2 * (2 + 3 + 5 + 7 + 11)  # padding too
    assert batch.tokens(4, 1) == 2 * (4 * (2 + 3 + 5 + 7) + 11)  # the last window is not slept on
    assert batch.tokens(2, 3) == 2 * (2 * (3 * (2 + 3) + 5 + 7) + 11)
    assert Batch(context=[], questions=[some(5)]).tokens(4, 2) == 10


def test_depths_are_drawn_from_all_of_them_or_from_the_deepest() -> None:
    drawn = Difficulty(windows=1, depth=4).draw(np.random.default_rng(0), 4000)
    counts = np.bincount(drawn, minlength=5)
    assert counts[0] == 0
    assert (counts[1:] > 880).all()
    assert (counts[1:] < 1120).all()
    focused = np.bincount(Difficulty(windows=1, depth=4, focus=0.5).draw(np.random.default_rng(0), 4000), minlength=5)
    assert 2400 < focused[4] < 2600  # half, and a quarter of the other half
    assert (focused[1:4] > 420).all()
    assert (Difficulty(windows=1, depth=4, focus=1.0).draw(np.random.default_rng(0), 50) == 4).all()
    again = Difficulty(windows=1, depth=4).draw(np.random.default_rng(0), 4000)
    assert (again == drawn).all()


def test_depths_are_drawn_in_strides() -> None:
    counts = np.bincount(Difficulty(windows=1, depth=12).draw(np.random.default_rng(0), 3000, 4), minlength=13)
    assert np.flatnonzero(counts).tolist() == [4, 8, 12]
    assert (counts[[4, 8, 12]] > 880).all()
    focused = Difficulty(windows=1, depth=12, focus=0.5).draw(np.random.default_rng(0), 3000, 4)
    counts = np.bincount(focused, minlength=13)
    assert np.flatnonzero(counts).tolist() == [4, 8, 12]
    assert 1900 < counts[12] < 2100  # half, and a third of the other half
    plain, ones = (Difficulty(windows=1, depth=4).draw(np.random.default_rng(0), 50, *s) for s in ((), (1,)))
    assert (plain == ones).all()


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_says_what_it_is(name: str) -> None:
    task = TASKS[name]()
    assert task.name == name
    assert task.window > 0
    assert list(task.depths) == list(range(1, max(task.depths) + 1))
    assert 0 < task.chance() <= 0.5
    assert task.vocab_size > 0
    assert Difficulty(windows=1, depth=1).form == "plain"
