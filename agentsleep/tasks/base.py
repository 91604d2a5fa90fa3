"""What a task hands to the trainer: batches of windows with labels, and how hard they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

IGNORE = -100  # the label of a token that carries no loss


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of a batch.

    ids: ``[B, T]``, padded on the right.
    mask: ``[B, T]`` bool, False at padding; None when nothing is padded.
    labels: ``[B, T]``, the token that follows, ``IGNORE`` where no loss is wanted.
    depth: ``[B, T]``, the depth of the question that a label answers; 0 for other labels.
    trace: denser supervision, where a task has it: for a pass, from 1, and the number of passes, what the hidden states
        behind that pass are to tell, ``[B, T]``, ``IGNORE`` where nothing.
    """

    ids: Tensor
    labels: Tensor
    depth: Tensor
    mask: Tensor | None = None
    trace: Callable[[int, int], Tensor] | None = None

    def to(self, device: str) -> Window:
        """The same on another device."""
        mask = None if self.mask is None else self.mask.to(device)
        moved = (tensor.to(device) for tensor in (self.ids, self.labels, self.depth))
        ids, labels, depth = moved
        return Window(ids=ids, labels=labels, depth=depth, mask=mask, trace=self.trace)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Windows in reading order: ``context`` is slept on (and may be visited again), ``questions`` come after."""

    context: Sequence[Window]
    questions: Sequence[Window]

    def to(self, device: str) -> Batch:
        """The same on another device."""
        return Batch(context=[w.to(device) for w in self.context], questions=[w.to(device) for w in self.questions])

    def tokens(self, passes: int, rounds: int) -> int:
        """Tokens that are read, padding and further passes and rounds included."""
        context = sum(window.ids.numel() for window in self.context)
        *slept, last = (window.ids.numel() for window in self.questions)
        return passes * (rounds * context + sum(slept)) + last


@dataclass(frozen=True, kw_only=True)
class Difficulty:
    """A point of the curriculum: how many windows, how deep the questions, which form of the text.

    focus: the part of the questions that is of the full depth; the others are of any depth up to it.
    """

    windows: int
    depth: int
    form: str = "plain"
    focus: float = 0.0

    def draw(self, rng: np.random.Generator, size: int, stride: int = 1) -> np.ndarray:
        """Depths of ``size`` questions, ``[size]``: the full depth, or multiples of ``stride`` up to it."""
        depths = stride * rng.integers(1, self.depth // stride + 1, size)
        if self.focus:
            depths[rng.random(size) < self.focus] = self.depth
        return depths


class Task(Protocol):
    """A seeded generator of batches. ``depths`` are all depths that it can ask, shallowest first."""

    @property
    def name(self) -> str:
        """Under which the task is known."""

    @property
    def vocab_size(self) -> int:
        """Tokens that it uses."""

    @property
    def window(self) -> int:
        """L, the tokens that a model of it should hold."""

    @property
    def depths(self) -> Sequence[int]:
        """See above."""

    def batch(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        """``size`` fresh episodes."""

    def chance(self) -> float:
        """The accuracy of guessing."""


@dataclass
class Row:
    """A window of one episode while it is being written: parallel lists of equal length."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)

    def read(self, ids: Sequence[int]) -> None:
        """Tokens without loss."""
        self.ids += ids
        self.labels += [IGNORE] * len(ids)
        self.depth += [0] * len(ids)

    def answer(self, ids: Sequence[int], depth: int = 0) -> None:
        """Tokens that the model must produce itself: each is the label of the token before it."""
        for token in ids:
            self.labels[-1], self.depth[-1] = token, depth
            self.read([token])
            depth = 0  # the first token is the answer; those behind it are its ending


def stack(rows: Sequence[Row], pad: int = 0) -> Window:
    """Rows of different lengths as one window, padded on the right."""
    length = max(len(row.ids) for row in rows)

    def padded(values: list[list[int]], fill: int) -> Tensor:
        return torch.tensor([v + [fill] * (length - len(v)) for v in values])

    sizes = torch.tensor([len(row.ids) for row in rows])
    mask = torch.arange(length)[None, :] < sizes[:, None]
    return Window(
        ids=padded([row.ids for row in rows], pad),
        labels=padded([row.labels for row in rows], IGNORE),
        depth=padded([row.depth for row in rows], 0),
        mask=None if bool(mask.all()) else mask,
    )
