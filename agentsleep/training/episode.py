"""One batch of episodes, read as the live agent reads: windows, sleeps, questions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from agentsleep.sleep import Backbone, check_depth, deep_sleep, sleep
from agentsleep.state import FastWeights
from agentsleep.tasks.base import IGNORE, Batch, Window


class LanguageModel(Backbone, Protocol):
    """A backbone with a head."""

    def readout(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` from hidden states ``[..., D]``."""


@dataclass(frozen=True)
class Outcome:
    """What a batch gave, over all M labelled tokens.

    loss: cross-entropy, answers weighted as :func:`balanced` says, scalar, with its graph.
    correct: ``[M]`` bool, whether the greedy token is the label.
    depth: ``[M]``, the depth of the question; 0 for other labels.
    """

    loss: Tensor
    correct: Tensor
    depth: Tensor

    def hits(self) -> dict[int, tuple[int, int]]:
        """Right answers and questions by depth."""
        return {
            int(d): (int(self.correct[self.depth == d].sum()), int((self.depth == d).sum()))
            for d in self.depth.unique().tolist()
        }


def read_batch(
    model: LanguageModel, batch: Batch, *, passes: int, rounds: int = 1, state: FastWeights | None = None
) -> Outcome:
    """Reads a batch: the context with light sleeps of ``passes``, a deep sleep of ``rounds - 1`` further visits, then
    the questions, each window of which but the last is slept on too. Differentiable through all of it (full
    backpropagation through windows and passes; Algorithm 1 of arXiv 2605.26099).

    Args:
        passes: N of every visit.
        rounds: visits of every context window in all; 1 is light sleep alone.
        state: where to start from; empty by default.

    Raises:
        SettingsError: passes or rounds below 1.
    """
    check_depth(passes, rounds)
    logits, labels, depth = [], [], []
    for window, hidden in _walk(model, batch, passes, rounds, state or FastWeights()):
        asked = window.labels != IGNORE
        if bool(asked.any()):
            logits.append(model.readout(hidden[asked]))
            labels.append(window.labels[asked])
            depth.append(window.depth[asked])
    all_logits, all_labels, all_depth = torch.cat(logits), torch.cat(labels), torch.cat(depth)
    loss = balanced(F.cross_entropy(all_logits.float(), all_labels, reduction="none"), all_depth)
    return Outcome(loss, all_logits.detach().argmax(-1) == all_labels, all_depth)


def balanced(losses: Tensor, depth: Tensor) -> Tensor:
    """Mean over the answers to questions, plus a quarter of the mean over the other labels; both ``[M]``.

    A live window holds ten times as many tokens of tool calls and small talk as answers; a plain mean hardly hears
    these.
    """
    answers = depth > 0
    parts = [weight * losses[which].mean() for which, weight in ((answers, 1.0), (~answers, 0.25)) if bool(which.any())]
    return torch.stack(parts).sum() / (1.0 if bool(answers.any()) else 0.25)


def _walk(
    model: LanguageModel, batch: Batch, passes: int, rounds: int, state: FastWeights
) -> Iterator[tuple[Window, Tensor]]:
    """Every window with the hidden states of its first reading, ``[B, T, D]``."""
    for window in batch.context:
        slept = sleep(model, window.ids, state, passes=passes, mask=window.mask)
        state = slept.state
        yield window, slept.hidden
    if rounds > 1:
        visits = [(window.ids, window.mask) for window in batch.context]
        state = deep_sleep(model, visits, state, passes=passes, rounds=rounds - 1)
    for i, window in enumerate(batch.questions):
        last = i == len(batch.questions) - 1
        slept = sleep(model, window.ids, state, passes=1 if last else passes, mask=window.mask)
        state = slept.state
        yield window, slept.hidden
