from __future__ import annotations

import pytest
import torch

from agentsleep.tasks import IGNORE, TASKS, Difficulty
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


@pytest.mark.parametrize("name", sorted(TASKS))
def test_every_task_says_what_it_is(name: str) -> None:
    task = TASKS[name]()
    assert task.name == name
    assert task.window > 0
    assert list(task.depths) == list(range(1, max(task.depths) + 1))
    assert 0 < task.chance() <= 0.5
    assert task.vocab_size > 0
    assert Difficulty(windows=1, depth=1).form == "plain"
