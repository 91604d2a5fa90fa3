"""The sleep: N recurrent passes over a window that write it into the fast weights.

Source: "Do Language Models Need Sleep?" (arXiv 2605.26099), Algorithm 1. Training, evaluation and the live agent
all call :func:`sleep` and :func:`deep_sleep`; they are differentiable in the model's weights and in the state.

The exact rule. A window opens with a state (S, convolution tails). *Pass 1* reads its tokens as any hybrid would, with
positions from 0; its hidden states give the logits. Passes 2..N run the blocks again over all tokens of the window:
their input is the fed-back hidden states, attention sees this pass's keys only, convolution tails start at zero, and
S runs on. What crosses to the next window: S after pass N, and the convolution tails of pass 1. N = 1 is the ordinary
pass. Where eviction is sliding, the last keys of pass N cross too, and every pass sees those of the window before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, runtime_checkable

from torch import Tensor

from agentsleep.errors import SettingsError
from agentsleep.state import FastWeights


class Backbone(Protocol):
    """What a model offers to the sleep. T is the window's length, D the hidden size."""

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids ``[B, T]`` to embeddings ``[B, T, D]``."""

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """One pass of the block stack over a whole window: hidden states before the final norm ``[B, T, D]`` and the
        state behind it. Attention sees this window alone, positions count from 0; where ``mask`` ``[B, T]`` is False
        the token is padding."""

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """The input of the next pass, from a pass's hidden states and the window's embeddings, all ``[B, T, D]``."""


@runtime_checkable
class MiddleLoop(Backbone, Protocol):
    """A backbone that loops its middle blocks alone, which are then its ``blocks``: pass 1 goes through all of them,
    passes 2..N leave out those before and behind, whose state stays that of pass 1."""

    def prelude(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """The blocks before the loop, as :meth:`Backbone.blocks`; the state of these blocks alone."""

    def coda(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """The blocks behind the loop, likewise."""


@dataclass(frozen=True)
class Slept:
    """A window that was slept on.

    hidden: the hidden states of pass 1, ``[B, T, D]``: what the logits are read from.
    state: what crosses to the next window.
    """

    hidden: Tensor
    state: FastWeights


def check_depth(passes: int, rounds: int = 1) -> None:
    """Raises SettingsError unless both are whole numbers of at least 1."""
    for name, value in (("passes", passes), ("rounds", rounds)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingsError(
                f"{name} is {value!r}; it must be a whole number of at least 1 (1 is the ordinary pass)"
            )


def sleep(
    backbone: Backbone,
    ids: Tensor,
    state: FastWeights,
    *,
    passes: int,
    mask: Tensor | None = None,
) -> Slept:
    """Light sleep: ``passes`` passes over one window.

    Args:
        ids: the window's tokens ``[B, T]``.
        state: the state the window opened with.
        passes: N of the paper, at least 1.
        mask: ``[B, T]`` bool, False at padding.

    Raises:
        SettingsError: passes below 1.
    """
    check_depth(passes)
    for _, left in islice(passes_over(backbone, ids, state, mask), passes):
        slept = left
    return slept


def passes_over(
    backbone: Backbone, ids: Tensor, state: FastWeights, mask: Tensor | None = None
) -> Iterator[tuple[Tensor, Slept]]:
    """The passes over one window, each made when it is asked for, without end: the hidden states of pass i
    ``[B, T, D]``, and what a sleep of i passes leaves. Behind the first pass the hidden states are those of the last
    looped block."""
    middle = backbone if isinstance(backbone, MiddleLoop) else None
    embedded = backbone.embed(ids)
    entered, before = middle.prelude(embedded, state, mask) if middle else (embedded, FastWeights())
    hidden, running = backbone.blocks(entered, state, mask)
    first, behind = middle.coda(hidden, state, mask) if middle else (hidden, FastWeights())
    running = before.merged(running).merged(behind)
    tails, earlier = running.only("conv", "position"), state.only("keys", "values", "seen", "position")
    yield first, Slept(first, running)
    while True:
        fed_back = backbone.feed_back(hidden, entered)
        hidden, again = backbone.blocks(fed_back, running.only("recurrent").merged(earlier), mask)
        running = running.merged(again)
        yield hidden, Slept(first, running.merged(tails))


def deep_sleep(
    backbone: Backbone,
    windows: Sequence[tuple[Tensor, Tensor | None]],
    state: FastWeights,
    *,
    passes: int,
    rounds: int = 1,
    on_window: Callable[[int, int], None] | None = None,
) -> FastWeights:
    """Deep sleep: reads archived windows again, oldest first, ``rounds`` times, S running on.

    Every visit is a window of its own: fresh keys, convolution tails at zero, ``passes`` passes. The tails that the
    state came with are those it leaves with, since no new token was read.

    Args:
        windows: (ids ``[B, T]``, mask ``[B, T]`` or None), oldest first.
        on_window: called with (visits done, visits in all) after each visit.

    Raises:
        SettingsError: passes or rounds below 1.
    """
    check_depth(passes, rounds)
    tails = state.only("conv", "keys", "values", "seen", "position")
    running = state
    for visit in range(rounds * len(windows)):
        ids, mask = windows[visit % len(windows)]
        running = sleep(backbone, ids, running.only("recurrent"), passes=passes, mask=mask).state
        if on_window is not None:
            on_window(visit + 1, rounds * len(windows))
    return running.only("recurrent").merged(tails)
