"""What the tests of all tasks ask of a batch."""

from __future__ import annotations

import numpy as np
import torch

from agentsleep.tasks import IGNORE, Batch, Difficulty, Task, Window


def windows_of(batch: Batch) -> list[Window]:
    return [*batch.context, *batch.questions]


def real(window: Window, row: int) -> list[int]:
    """The row's tokens without padding."""
    ids = window.ids[row]
    return [int(i) for i in (ids if window.mask is None else ids[window.mask[row]])]


def check_form(task: Task, batch: Batch, size: int) -> None:
    """Shapes, types, padding on the right that carries no label, ids inside the vocabulary, depths at labels alone."""
    for window in windows_of(batch):
        assert window.ids.dtype == window.labels.dtype == window.depth.dtype == torch.int64
        assert window.ids.shape == window.labels.shape == window.depth.shape
        assert window.ids.shape[0] == size
        assert window.ids.shape[1] > 0
        assert int(window.ids.min()) >= 0
        assert int(window.ids.max()) < task.vocab_size
        labelled = window.labels != IGNORE
        assert ((window.labels >= 0) | ~labelled).all()
        assert int(window.labels.max()) < task.vocab_size
        assert (window.depth[~labelled] == 0).all()
        if window.mask is not None:
            assert window.mask.dtype == torch.bool
            assert window.mask.shape == window.ids.shape
            assert (window.mask[:, :-1] | ~window.mask[:, 1:]).all()  # nothing real behind padding
            assert not window.mask.all()
            assert window.mask.any(0).all()  # and no column of padding alone
            assert not labelled[~window.mask].any()


def check_seeds(task: Task, difficulty: Difficulty) -> None:
    """The same seed gives the same batch, another one another."""

    def draw(seed: int) -> list[torch.Tensor]:
        batch = task.batch(np.random.default_rng(seed), 3, difficulty)
        return [t for w in windows_of(batch) for t in (w.ids, w.labels, w.depth)]

    first, again, other = draw(1), draw(1), draw(2)
    assert len(first) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(first) != len(other) or not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
