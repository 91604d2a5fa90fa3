"""The measure ``deepsleep``: the same passes shared out in other ways, and windows read again in another order."""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import numpy as np
import torch
from torch import Tensor

from agentsleep.models.nap import NapForCausalLM
from agentsleep.reproduce.subject import EPISODES, Row, Settings, Subject, fresh
from agentsleep.sleep import deep_sleep, sleep
from agentsleep.state import FastWeights
from agentsleep.tasks.base import Batch, Difficulty
from agentsleep.training.episode import read_batch

ORDERS = ("oldest first", "newest first", "shuffled")


def deepsleep(subject: Subject, settings: Settings) -> list[Row]:
    """Accuracy by depth for every way to share out passes.

    settings: ``windows`` (numbers of), ``visits`` (pairs of passes and rounds), ``orders`` (for rounds above 1),
    ``depth`` (the deepest), ``batches``. All rows of a number of windows are of the same episodes; ``seconds`` is the
    median wall time of a batch's sleep.
    """
    rows = []
    for windows in settings["windows"]:
        batches = _batches(subject, windows, settings)
        for passes, rounds in settings["visits"]:
            for order in settings["orders"] if rounds > 1 and windows > 1 else ORDERS[:1]:
                shared = {"windows": windows, "passes": passes, "rounds": rounds, "order": order}
                rows += [{**shared, **row} for row in _one(subject.model, batches, passes, rounds, order)]
    return rows


def _batches(subject: Subject, windows: int, settings: Settings) -> list[Batch]:
    rng = fresh(subject)
    difficulty = Difficulty(windows=windows, depth=settings["depth"])
    return [subject.task.batch(rng, EPISODES, difficulty) for _ in range(settings["batches"])]


def _one(model: NapForCausalLM, batches: Sequence[Batch], passes: int, rounds: int, order: str) -> list[Row]:
    counts: dict[int, list[int]] = {}
    seconds = []
    rng = np.random.default_rng(0)
    with torch.inference_mode():
        for batch in batches:
            began = time.perf_counter()
            state = slept_on(model, batch, passes, rounds, order, rng)
            seconds.append(time.perf_counter() - began)
            asked = read_batch(model, Batch(context=[], questions=batch.questions), passes=1, state=state)
            for depth, (right, total) in asked.hits().items():
                count = counts.setdefault(depth, [0, 0])
                count[0] += right
                count[1] += total
    return [
        {"depth": depth, "accuracy": round(right / total, 5), "questions": total, "seconds": round(median(seconds), 4)}
        for depth, (right, total) in sorted(counts.items())
    ]


def slept_on(
    model: NapForCausalLM, batch: Batch, passes: int, rounds: int, order: str, rng: np.random.Generator
) -> FastWeights:
    """The state after a light sleep on every window and ``rounds - 1`` further visits in the order named."""
    state = FastWeights()
    for window in batch.context:
        state = sleep(model, window.ids, state, passes=passes, mask=window.mask).state
    for _ in range(rounds - 1):
        again: list[tuple[Tensor, Tensor | None]] = [(window.ids, window.mask) for window in batch.context]
        if order == "newest first":
            again.reverse()
        elif order == "shuffled":
            again = [again[int(i)] for i in rng.permutation(len(again))]
        state = deep_sleep(model, again, state, passes=passes)
    return state
