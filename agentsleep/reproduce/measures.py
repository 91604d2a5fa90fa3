"""What is measured of a trained model. A measure returns rows of plain values, which tables average over seeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentsleep.evals.raw import evaluate_task
from agentsleep.reproduce.inner import auto, writes
from agentsleep.reproduce.keeping import retention
from agentsleep.reproduce.subject import Row, Settings, Subject
from agentsleep.reproduce.visits import deepsleep
from agentsleep.tasks.base import Difficulty

Measure = Callable[[Subject, Settings], list[Row]]


def depth(subject: Subject, settings: Settings) -> list[Row]:
    """Accuracy by depth of question.

    settings: ``windows`` (numbers of), ``forms``, ``questions`` (at least, of each depth), ``depth`` (the deepest, of
    those that the task asks), ``task`` (changes of the task's settings); ``passes`` and ``rounds`` in place of those of
    the arm.
    """
    rows = []
    eviction = subject.config.eviction
    task = subject.other_task(settings.get("task", {}))
    deepest = max(asked for asked in task.depths if asked <= settings["depth"])
    for windows in settings["windows"]:
        for form in settings.get("forms", ["plain"]):
            found = evaluate_task(
                subject.model,
                task,
                difficulty=Difficulty(windows=windows, depth=deepest, form=form),
                passes=settings.get("passes", subject.arm.passes) if eviction != "never" else [1],
                rounds=settings.get("rounds", subject.arm.rounds) if eviction != "never" else [1],
                questions=settings.get("questions", 2000),
                seed=subject.seed,
                eviction=eviction,
            )
            for result in found["results"]:
                rows.append({"windows": windows, "form": form, **short(result)})
            for baseline in found["baselines"]:
                rows.append({"windows": windows, "form": form, **short(baseline)})
    return rows


def short(values: Mapping[str, Any]) -> Row:
    """A result without its interval (rows are averaged over seeds), rates to five digits."""
    return {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items() if k != "interval"}


MEASURES: dict[str, Measure] = {
    "auto": auto,
    "deepsleep": deepsleep,
    "depth": depth,
    "retention": retention,
    "writes": writes,
}
