"""Measures that look inside: where the passes write, and how many of them a window needs."""

from __future__ import annotations

from collections import defaultdict
from itertools import islice
from statistics import fmean

import torch

from agentsleep.auto import Probe, sleep_until
from agentsleep.gauge import written
from agentsleep.models.nap import NapForCausalLM
from agentsleep.reproduce.subject import EPISODES, Row, Settings, Subject, fresh
from agentsleep.sleep import passes_over, sleep
from agentsleep.state import FastWeights
from agentsleep.tasks.base import IGNORE, Batch, Difficulty, Window
from agentsleep.training.episode import read_batch


def writes(subject: Subject, settings: Settings) -> list[Row]:
    """Change of each layer's S by each pass, ||S_i - S_(i-1)|| / ||S_i||, a mean over windows and episodes.

    settings: ``windows`` (number of), ``depth``, ``passes`` (so many are made), ``batches``.
    """
    rng = fresh(subject)
    difficulty = Difficulty(windows=settings["windows"], depth=settings["depth"])
    changes: dict[tuple[int, int], list[float]] = defaultdict(list)
    with torch.inference_mode():
        for _ in range(settings["batches"]):
            state = FastWeights()
            for window in subject.task.batch(rng, EPISODES, difficulty).context:
                before = state
                made = islice(passes_over(subject.model, window.ids, state, window.mask), settings["passes"])
                for number, (_, slept) in enumerate(made, 1):
                    for layer, change in written(before, slept.state).items():
                        changes[number, layer].append(change)
                    before = slept.state
                state = before
    return [
        {"pass": number, "layer": layer, "change": round(fmean(found), 5)}
        for (number, layer), found in sorted(changes.items())
    ]


def auto(subject: Subject, settings: Settings) -> list[Row]:
    """Accuracy and cost of ``passes="auto"`` against fixed numbers of passes, on the same episodes, one at a time.

    settings: ``depth``, ``episodes``, ``probes`` (questions of the episode that are answered after every pass),
    ``patience`` (values of), ``max_passes``, ``passes`` (the fixed ones). ``used`` is the mean number of passes,
    ``cost`` the tokens read, those of the probes included, over those of the window.
    """
    rows = []
    ways: list[tuple[int | str, int]] = [(n, 0) for n in settings["passes"]]
    ways += [("auto", patience) for patience in settings["patience"]]
    for passes, patience in ways:
        counts: dict[int, list[int]] = defaultdict(lambda: [0, 0])
        used, cost = [], []
        rng = fresh(subject)
        for _ in range(settings["episodes"]):
            batch = subject.task.batch(rng, 1, Difficulty(windows=1, depth=settings["depth"]))
            window, asked = batch.context[0], batch.questions[0]
            if isinstance(passes, int):
                state, n, extra = _fixed(subject.model, window, passes), passes, 0
            else:
                probes = single_questions(asked)[: settings["probes"]]
                found = sleep_until(
                    subject.model,
                    window.ids,
                    FastWeights(),
                    probes=probes,
                    max_passes=settings["max_passes"],
                    patience=patience,
                )
                state, n, extra = found.slept.state, found.passes, found.probe_tokens
            used.append(n)
            cost.append(n + extra / window.ids.numel())
            with torch.inference_mode():
                outcome = read_batch(subject.model, Batch(context=[], questions=[asked]), passes=1, state=state)
            for depth, (right, total) in outcome.hits().items():
                counts[depth][0] += right
                counts[depth][1] += total
        shared = {"passes": passes, "patience": patience, "used": round(fmean(used), 3), "cost": round(fmean(cost), 3)}
        for depth, (right, total) in sorted(counts.items()):
            rows.append({**shared, "depth": depth, "accuracy": round(right / total, 5), "questions": total})
    return rows


def _fixed(model: NapForCausalLM, window: Window, passes: int) -> FastWeights:
    with torch.inference_mode():
        return sleep(model, window.ids, FastWeights(), passes=passes).state


def single_questions(window: Window) -> list[Probe]:
    """The packed questions of one episode, each alone: its tokens up to the one that carries the label."""
    ends = (window.labels[0] != IGNORE).nonzero()[:, 0].tolist()
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [(window.ids[:, start : end + 1], None) for start, end in zip(starts, ends, strict=True)]
