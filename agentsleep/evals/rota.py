"""Accuracy of the live agent on rota: by passes, rounds, depth, and how far apart the facts lay."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from agentsleep.backends import load_backend
from agentsleep.errors import SettingsError
from agentsleep.evals.bars import judge
from agentsleep.evals.baselines import answers_without_memory, baseline_rows, rate
from agentsleep.evals.live import Asked, Lived, Plan, live
from agentsleep.evals.parallel import in_order
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.sleep import check_depth
from agentsleep.tasks import Difficulty, rota
from agentsleep.training.episode import read_batch

CHUNK = 4  # episodes a job: an archive in memory is thrown away after so many
BATCH = 32  # episodes a batch of the training harness
KNOWN = 18  # questions of a depth that such a batch holds, about
_HARNESS = 0x6861726E  # told apart by this from the seeds of other draws
_LIVE_PART = 0.9  # of the time that the live episodes take

Tally = dict[tuple[int, int, int], tuple[int, int]]  # (passes, rounds, depth) to (right, asked)


@dataclass(frozen=True)
class _Episodes:
    model: Path | None
    plan: Plan
    indices: range


@dataclass(frozen=True)
class _Batch:
    model: Path | None
    plan: Plan
    windows: int
    index: int


def evaluate_rota(
    model: str | Path | None = None,
    *,
    passes: Sequence[int] = (1, 2, 4),
    rounds: Sequence[int] = (1, 2),
    episodes: int = 200,
    seed: int = 0,
    people: int = 12,
    depths: Sequence[int] = (1, 2, 3, 4, 5, 6),
    per_depth: int = 2,
    harness: int = 400,
    workers: int = 1,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Lets the agent live through fresh episodes, see :func:`agentsleep.evals.live.live`, and counts.

    Args:
        model: a checkpoint directory; None takes the shipped model.
        rounds: visits of every window in all: 1 is light sleep alone, more are a deep sleep.
        per_depth: questions of each depth an episode.
        harness: about so many questions of each depth through the training harness too; 0 leaves it out.
        workers: processes; the result is the same for any number.
        progress: called with the part that is done, 0 to 1.

    Returns:
        ``{"task", "model", "fingerprint", "window", "seed", "people", "episodes", "results", "summary", "baselines",
        "tool_call_accuracy", "bars", "harness", "agreement", "fact_windows"}``.

        ``results``: ``{"passes", "rounds", "depth", "spread", "mode", "accuracy", "interval", "questions"}``, where
        spread is the number of windows that the chain's facts lie in. ``summary``: the same over all spreads at depth
        1, over spreads of at least 2 beyond. ``harness``: the same batches as in training, read by
        :func:`agentsleep.training.episode.read_batch`; ``agreement`` compares both, means over the depths.
        Intervals are 95 % Wilson intervals.

    Raises:
        SettingsError: a setting out of its range, or facts that fit into fewer than three windows.
        CheckpointMissing, CheckpointDamaged: the model cannot be loaded.
        SleepFailed: a sleep gave nothing usable.
    """
    path = None if model is None else Path(model)
    plan = _plan(passes, rounds, episodes, seed, people, depths, per_depth, harness, workers)
    report = progress or (lambda part: None)
    share = _LIVE_PART if harness else 1.0
    with SleepMemory(path, archive=":memory:") as memory:  # before the others start: a damaged model fails here
        drawn = [plan.draw(index) for index in range(episodes)]
        blank = answers_without_memory(memory, (q.text for _, questions in drawn for q in questions))
        fingerprint, window = memory.fingerprint, memory.backend.settings.window
    jobs = [_Episodes(path, plan, range(i, min(i + CHUNK, episodes))) for i in range(0, episodes, CHUNK)]
    chunks = in_order(_live_job, jobs, workers, lambda part: report(share * part))
    lived = [episode for chunk in chunks for episode in chunk]
    asked = [question for episode in lived for question in episode.asked]
    windows = [episode.windows for episode in lived]
    batches = [_Batch(path, plan, round(fmean(windows)), i) for i in range(-(-harness // KNOWN))]
    harness_rows = _harness_rows(
        in_order(_harness_job, batches, workers, lambda part: report(share + (1 - share) * part)) if batches else ()
    )
    requests = sum(episode.requests for episode in lived)
    tool_calls = sum(episode.called for episode in lived) / requests
    summary = _rows(asked, by_spread=False)
    return {
        "task": "rota",
        "model": "nap-mini" if path is None else str(path),
        "fingerprint": fingerprint,
        "window": window,
        "seed": seed,
        "people": people,
        "episodes": episodes,
        "results": _rows(asked, by_spread=True),
        "summary": summary,
        "baselines": baseline_rows(drawn, blank),
        "tool_call_accuracy": tool_calls,
        "tool_calls": requests,
        "bars": judge(summary, tool_calls),
        "harness": harness_rows,
        "agreement": _agreement(asked, harness_rows),
        "fact_windows": {"mean": fmean(windows), "least": min(windows)},
    }


def _plan(
    passes: Sequence[int],
    rounds: Sequence[int],
    episodes: int,
    seed: int,
    people: int,
    depths: Sequence[int],
    per_depth: int,
    harness: int,
    workers: int,
) -> Plan:
    if not (passes and rounds and depths):
        raise SettingsError("no passes, no rounds or no depths to evaluate; give at least one of each")
    for n in passes:
        for r in rounds:
            check_depth(n, r)
    for name, value, least in (
        ("episodes", episodes, 1),
        ("seed", seed, 0),
        ("harness", harness, 0),
        ("workers", workers, 1),
    ):
        if value < least:
            raise SettingsError(f"{name} is {value}; it must be at least {least}")
    if not 1 <= per_depth <= people:
        raise SettingsError(f"per_depth is {per_depth}; it must lie in 1..{people}, one person each")
    if not all(1 <= depth <= rota.MAX_DEPTH for depth in depths):
        raise SettingsError(f"depths are {list(depths)}; the vocabulary has 1..{rota.MAX_DEPTH}")
    return Plan(
        seed=seed,
        people=people,
        depths=tuple(sorted(set(depths))),
        per_depth=per_depth,
        passes=tuple(sorted(set(passes))),
        rounds=tuple(sorted(set(rounds))),
    )


def _live_job(job: _Episodes) -> list[Lived]:
    """Some episodes, with every number of passes."""
    lived = []
    for passes in job.plan.passes:
        with SleepMemory(job.model, archive=":memory:", policy=SleepPolicy(passes=passes)) as memory:
            for index in job.indices:
                episode, questions = job.plan.draw(index)
                name = f"episode {index}"
                lived.append(live(memory, episode, questions, thread=name, passes=passes, rounds=job.plan.rounds))
    return lived


def _harness_job(job: _Batch) -> Tally:
    """A batch as the trainer reads it, at every depth of sleep."""
    plan, backend = job.plan, load_backend(job.model)
    task = rota.Rota(people=plan.people, max_depth=max(plan.depths), window=backend.settings.window)
    rng = np.random.default_rng([plan.seed, _HARNESS, job.index])
    batch = task.batch(rng, BATCH, Difficulty(windows=job.windows, depth=max(plan.depths), form="live"))
    counted: Tally = {}
    with torch.inference_mode():
        for n in plan.passes:
            for r in plan.rounds:
                hits = read_batch(backend.backbone, batch, passes=n, rounds=r).hits()
                counted |= {(n, r, depth): hits[depth] for depth in plan.depths if depth in hits}
    return counted


def _harness_rows(tallies: Iterable[Tally]) -> list[dict[str, Any]]:
    total: dict[tuple[int, int, int], list[int]] = defaultdict(lambda: [0, 0])
    for tally in tallies:
        for key, (right, asked) in tally.items():
            total[key][0] += right
            total[key][1] += asked
    return [{"passes": n, "rounds": r, "depth": depth, **rate(*total[n, r, depth])} for n, r, depth in sorted(total)]


def _rows(asked: Iterable[Asked], *, by_spread: bool) -> list[dict[str, Any]]:
    """Accuracies by passes, rounds, mode and depth. Without ``by_spread``: over all spreads at depth 1, over those of
    at least 2 beyond, where the facts must be put together across windows."""
    cells: dict[tuple[int, int, str, int, int], list[bool]] = defaultdict(list)
    for one in asked:
        if by_spread or one.depth == 1 or one.spread >= 2:
            cells[one.passes, one.rounds, one.mode, one.depth, one.spread if by_spread else 0].append(one.right)
    rows = []
    for (passes, rounds, mode, depth, spread), right in sorted(cells.items()):
        row = {"passes": passes, "rounds": rounds, "depth": depth, "mode": mode, **rate(sum(right), len(right))}
        rows.append(row | ({"spread": spread} if by_spread else {}))
    return rows


def _agreement(asked: Iterable[Asked], harness: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Live and harness accuracy, means over the depths: the harness does not know in which windows its facts lay."""
    trained: dict[tuple[int, int], dict[int, float]] = defaultdict(dict)
    for row in harness:
        trained[row["passes"], row["rounds"]][row["depth"]] = row["accuracy"]
    lived: dict[tuple[int, int, str], dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for one in asked:
        lived[one.passes, one.rounds, one.mode][one.depth].append(one.right)
    rows = []
    for (passes, rounds, mode), by_depth in sorted(lived.items()):
        both = sorted(by_depth.keys() & trained[passes, rounds].keys())
        if both:
            ours = fmean(fmean(by_depth[depth]) for depth in both)
            theirs = fmean(trained[passes, rounds][depth] for depth in both)
            visits = {"passes": passes, "rounds": rounds, "mode": mode}
            rows.append(visits | {"live": ours, "harness": theirs, "difference": ours - theirs})
    return rows
