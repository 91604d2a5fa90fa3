"""The measure ``deepsleep``: the same passes shared out in other ways, and windows read again in another order."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
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
    ``depth`` (the deepest), ``batches``. All rows of a number of windows are of the same episodes, each of which every
    way sleeps on in turn; ``cpu_seconds`` is the median of a batch's sleep.
    """
    rows = []
    for windows in settings["windows"]:
        ways = [
            _Way(passes=passes, rounds=rounds, order=order)
            for passes, rounds in settings["visits"]
            for order in (settings["orders"] if rounds > 1 and windows > 1 else ORDERS[:1])
        ]
        rng = fresh(subject)
        difficulty = Difficulty(windows=windows, depth=settings["depth"])
        for _ in range(settings["batches"]):
            batch = subject.task.batch(rng, EPISODES, difficulty)
            for way in ways:
                way.sleep_on(subject.model, batch)
        rows += [{"windows": windows, **row} for way in ways for row in way.rows()]
    return rows


@dataclass
class _Way:
    """A way to share out passes, and what has come of it."""

    passes: int
    rounds: int
    order: str
    hits: dict[int, list[int]] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def sleep_on(self, model: NapForCausalLM, batch: Batch) -> None:
        with torch.inference_mode():
            began = time.process_time()  # one thread, and a machine may be busy with other things
            state = slept_on(model, batch, self.passes, self.rounds, self.order, self.rng)
            self.seconds.append(time.process_time() - began)
            asked = read_batch(model, Batch(context=[], questions=batch.questions), passes=1, state=state)
        for depth, (right, total) in asked.hits().items():
            count = self.hits.setdefault(depth, [0, 0])
            count[0] += right
            count[1] += total

    def rows(self) -> list[Row]:
        way = {"passes": self.passes, "rounds": self.rounds, "order": self.order}
        seconds = round(median(self.seconds), 6)
        return [
            {**way, "depth": depth, "accuracy": round(right / total, 5), "questions": total, "cpu_seconds": seconds}
            for depth, (right, total) in sorted(self.hits.items())
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
