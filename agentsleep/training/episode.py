"""One batch of episodes, read as the live agent reads: windows, sleeps, questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from agentsleep.errors import SettingsError
from agentsleep.sleep import Backbone, MiddleLoop, Slept, check_depth, deep_sleep, passes_over, sleep
from agentsleep.state import FastWeights
from agentsleep.tasks.base import IGNORE, Batch, Window

Part = Callable[[Tensor, FastWeights, Tensor | None], tuple[Tensor, FastWeights]]
EVICTIONS = ("window", "never", "state")


class LanguageModel(Backbone, Protocol):
    """A backbone with a head."""

    def readout(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` from hidden states ``[..., D]``."""


@dataclass(frozen=True)
class Recomputed:
    """A model that keeps only input and state of a pass; the backward computes it again (gradient checkpointing)."""

    model: LanguageModel

    def embed(self, ids: Tensor) -> Tensor:
        """As the model's."""
        return self.model.embed(ids)

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """As the model's."""
        return self._again(self.model.blocks, hidden, state, mask)

    def prelude(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """As the model's, which may have none."""
        if not isinstance(self.model, MiddleLoop):
            return hidden, FastWeights()
        return self._again(self.model.prelude, hidden, state, mask)

    def coda(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """As the model's, which may have none."""
        if not isinstance(self.model, MiddleLoop):
            return hidden, FastWeights()
        return self._again(self.model.coda, hidden, state, mask)

    @staticmethod
    def _again(part: Part, hidden: Tensor, state: FastWeights, mask: Tensor | None) -> tuple[Tensor, FastWeights]:
        result: tuple[Tensor, FastWeights] = checkpoint(part, hidden, state, mask, use_reentrant=False)
        return result

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """As the model's."""
        return self.model.feed_back(hidden, embedded)

    def readout(self, hidden: Tensor) -> Tensor:
        """As the model's."""
        return self.model.readout(hidden)


@dataclass(frozen=True)
class Outcome:
    """What a batch gave, over all M labelled tokens.

    loss: cross-entropy, answers weighted as :func:`balanced` says, scalar, with its graph.
    correct: ``[M]`` bool, whether the greedy token is the label.
    depth: ``[M]``, the depth of the question; 0 for other labels.
    row: ``[M]``, which episode of the batch it belongs to.
    """

    loss: Tensor
    correct: Tensor
    depth: Tensor
    row: Tensor

    def hits(self) -> dict[int, tuple[int, int]]:
        """Right answers and questions by depth."""
        return {
            int(d): (int(self.correct[self.depth == d].sum()), int((self.depth == d).sum()))
            for d in self.depth.unique().tolist()
        }

    def exact(self) -> dict[int, tuple[int, int]]:
        """By depth, in how many episodes all answers of that depth are right, and how many ask it."""
        counts = {}
        for d in self.depth.unique().tolist():
            here = self.depth == d
            asked = self.row[here].unique()
            wrong = self.row[here & ~self.correct].unique()
            counts[int(d)] = (len(asked) - len(wrong), len(asked))
        return counts


def check_eviction(eviction: str, passes: int, rounds: int) -> None:
    """Raises SettingsError for an unknown eviction, or a sleep where nothing is evicted."""
    if eviction not in EVICTIONS:
        raise SettingsError(f"eviction {eviction!r} is not one of {EVICTIONS}")
    if eviction == "never" and (passes, rounds) != (1, 1):
        raise SettingsError(f"passes {passes}, rounds {rounds}: what is never evicted is read once; set both to 1")


def read_batch(
    model: LanguageModel,
    batch: Batch,
    *,
    passes: int,
    rounds: int = 1,
    state: FastWeights | None = None,
    eviction: str = "window",
    recompute: bool = False,
    trace: float = 0.0,
) -> Outcome:
    """Reads a batch: the context with light sleeps of ``passes``, a deep sleep of ``rounds - 1`` further visits, then
    the questions, each window of which but the last is slept on too. Differentiable through all of it (full
    backpropagation through windows and passes; Algorithm 1 of arXiv 2605.26099).

    Args:
        passes: N of every visit.
        rounds: visits of every context window in all; 1 is light sleep alone.
        state: where to start from; empty by default.
        eviction: ``window``: every window goes, what is left is the state. The two others are baselines: ``never``
            reads everything as one window, ``state`` empties the state with every window.
        trace: weight of the denser supervision that the context windows of some tasks carry, behind every pass of their
            first visit.
        recompute: no activations are kept for the backward, see :class:`Recomputed`.

    Raises:
        SettingsError: passes or rounds below 1, an eviction that does not fit them, or a trace that is no weight.
    """
    check_depth(passes, rounds)
    check_eviction(eviction, passes, rounds)
    if not 0 <= trace < float("inf"):
        raise SettingsError(f"trace is {trace}; it is a weight, at least 0")
    if eviction == "never":
        batch = Batch(context=[], questions=[joined([*batch.context, *batch.questions])])
    logits, labels, depth, row = [], [], [], []
    if recompute:
        model = Recomputed(model)
    traces: list[Tensor] | None = [] if trace else None
    walk = _walk(model, batch, passes, rounds, state or FastWeights(), forget=eviction == "state", traces=traces)
    for window, hidden in walk:
        asked = window.labels != IGNORE
        if bool(asked.any()):
            logits.append(model.readout(hidden[asked]))
            labels.append(window.labels[asked])
            depth.append(window.depth[asked])
            row.append(asked.nonzero()[:, 0])
    all_logits, all_labels, all_depth = torch.cat(logits), torch.cat(labels), torch.cat(depth)
    loss = balanced(F.cross_entropy(all_logits.float(), all_labels, reduction="none"), all_depth)
    if traces:
        loss = loss + trace * torch.stack(traces).mean()
    return Outcome(loss, all_logits.detach().argmax(-1) == all_labels, all_depth, torch.cat(row))


def joined(windows: Sequence[Window]) -> Window:
    """Windows one after the other as one long window; padding stays where it is."""
    masks = [torch.ones_like(w.ids, dtype=torch.bool) if w.mask is None else w.mask for w in windows]
    whole = torch.cat(masks, 1)
    return Window(
        ids=torch.cat([w.ids for w in windows], 1),
        labels=torch.cat([w.labels for w in windows], 1),
        depth=torch.cat([w.depth for w in windows], 1),
        mask=None if bool(whole.all()) else whole,
    )


def balanced(losses: Tensor, depth: Tensor) -> Tensor:
    """Mean over the answers to questions, plus a quarter of the mean over the other labels; both ``[M]``.

    A live window holds ten times as many tokens of tool calls and small talk as answers; a plain mean hardly hears
    these.
    """
    answers = depth > 0
    parts = [weight * losses[which].mean() for which, weight in ((answers, 1.0), (~answers, 0.25)) if bool(which.any())]
    return torch.stack(parts).sum() / (1.0 if bool(answers.any()) else 0.25)


def _traced(model: LanguageModel, window: Window, state: FastWeights, passes: int, traces: list[Tensor]) -> Slept:
    """A sleep whose every pass is told what it should hold; one loss for each that is told anything."""
    assert window.trace is not None
    for number, (hidden, left) in enumerate(islice(passes_over(model, window.ids, state, window.mask), passes), 1):
        slept = left
        labels = window.trace(number, passes).to(hidden.device)
        told = labels != IGNORE
        if bool(told.any()):
            traces.append(F.cross_entropy(model.readout(hidden[told]).float(), labels[told]))
    return slept


def _walk(
    model: LanguageModel,
    batch: Batch,
    passes: int,
    rounds: int,
    state: FastWeights,
    *,
    forget: bool,
    traces: list[Tensor] | None = None,
) -> Iterator[tuple[Window, Tensor]]:
    """Every window with the hidden states of its first reading, ``[B, T, D]``; ``traces`` takes losses."""
    for window in batch.context:
        if traces is None or window.trace is None:
            slept = sleep(model, window.ids, state, passes=passes, mask=window.mask)
        else:
            slept = _traced(model, window, state, passes, traces)
        state = FastWeights() if forget else slept.state
        yield window, slept.hidden
    if rounds > 1 and not forget:
        visits = [(window.ids, window.mask) for window in batch.context]
        state = deep_sleep(model, visits, state, passes=passes, rounds=rounds - 1)
    for i, window in enumerate(batch.questions):
        last = i == len(batch.questions) - 1
        slept = sleep(model, window.ids, state, passes=1 if last else passes, mask=window.mask)
        state = FastWeights() if forget else slept.state
        yield window, slept.hidden
