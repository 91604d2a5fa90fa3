"""As many passes as a window needs: a sleep that ends when another pass no longer changes the answers.

The paper fixes N. Which N a window needs depends on what it holds, and a pass too many costs as much as one that
counted; so here a few probe questions are answered after every pass, from the state that a sleep of so many passes
would leave. This is a rule of ours, a measure of rest and not of truth: answers that rest may be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from agentsleep.errors import InputError, SettingsError
from agentsleep.sleep import Backbone, Slept, passes_over, sleep
from agentsleep.state import FastWeights

Probe = tuple[Tensor, Tensor | None]
"""Ids ``[B, T]`` of a question with the answer's prompt, and its mask ``[B, T]``, False at padding, or None."""


class Speaking(Backbone, Protocol):
    """A backbone that also answers."""

    def readout(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` from hidden states ``[..., D]`` before the final norm."""


class Settled(NamedTuple):
    """A sleep whose depth was found.

    slept: bit-equal to :func:`agentsleep.sleep.sleep` with this number of ``passes``.
    passes: how many there were; ``max_passes`` also where the answers never came to rest.
    probe_tokens: tokens that were read to answer the probes, which is their cost; padding is not counted.
    """

    slept: Slept
    passes: int
    probe_tokens: int


def sleep_until(
    backbone: Speaking,
    ids: Tensor,
    state: FastWeights,
    *,
    probes: Sequence[Probe],
    max_passes: int,
    patience: int = 1,
    mask: Tensor | None = None,
) -> Settled:
    """Light sleep that ends when the greedy answers to all probes are those of the pass before, ``patience`` times in
    a row; in a batch, those of all rows. So it makes at least ``patience`` + 1 passes, unless ``max_passes`` is less.

    An answer is the likeliest token behind the probe's last one, where the probe opens the next window: S after the
    latest pass, convolution tails of pass 1. Behind the last pass allowed nothing is asked. No gradient flows.

    Args:
        ids: the window's tokens ``[B, T]``.
        state: the state the window opened with.
        probes: (ids ``[B, T']``, mask ``[B, T']`` or None), each a window of its own.
        mask: ``[B, T]`` bool, False at padding.

    Raises:
        SettingsError: no probes; max_passes or patience below 1.
        InputError: a probe of another batch size, or one with a row that holds no token.
    """
    for name, value in (("max_passes", max_passes), ("patience", patience)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise SettingsError(f"{name} is {value!r}; it must be a whole number of at least 1")
    if not probes:
        raise SettingsError("there are no probes, so nothing tells when to stop; give questions, or a number of passes")
    lasts = [_last(probe, ids.shape[0]) for probe in probes]
    cost = sum(probe.numel() if hidden is None else int(hidden.sum()) for probe, hidden in probes)
    before: list[Tensor] | None = None
    resting = probe_tokens = 0
    with torch.no_grad():
        for passes, (_, slept) in enumerate(passes_over(backbone, ids, state, mask), 1):
            if passes == max_passes:
                break
            answers = [_answer(backbone, probe, last, slept.state) for probe, last in zip(probes, lasts, strict=True)]
            probe_tokens += cost
            same = before is not None and all(map(torch.equal, answers, before))
            resting = resting + 1 if same else 0
            if resting == patience:
                break
            before = answers
    return Settled(slept, passes, probe_tokens)


def _last(probe: Probe, batch: int) -> Tensor:
    """The place of the last token of each row, ``[B]``."""
    ids, mask = probe
    if ids.ndim != 2 or ids.shape[0] != batch or (mask is not None and mask.shape != ids.shape):
        shape = tuple(ids.shape) if mask is None else f"{tuple(ids.shape)} with a mask {tuple(mask.shape)}"
        raise InputError(f"a probe is {shape}; it must be [{batch}, T], as many rows as the window")
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    if not bool(real.any(1).all()):
        raise InputError("a probe has a row without any token; give every row a question")
    places = torch.arange(ids.shape[1], device=ids.device)
    return places.where(real, -1).amax(1)


def _answer(backbone: Speaking, probe: Probe, last: Tensor, state: FastWeights) -> Tensor:
    """The greedy token behind each row's last one, ``[B]``."""
    ids, mask = probe
    hidden = sleep(backbone, ids, state, passes=1, mask=mask).hidden
    return backbone.readout(hidden[torch.arange(len(last), device=last.device), last]).argmax(-1)
