"""Rows of several seeds as one: the mean of every rate, and its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from agentsleep.evals.intervals import wilson
from agentsleep.reproduce.plan import Table, is_current
from agentsleep.reproduce.statistics import rate_interval, t_interval

RATES = ("accuracy", "exact")  # parts of what was asked; seconds, tokens and changes are none
Run = Mapping[str, Any]
EARLIER = "†"  # of a plan before the present one


@dataclass(frozen=True)
class Mean:
    """A rate or another value over seeds; interval: 95 %, over seeds by Student's t. A single seed has that of a rate
    over questions (Wilson), and of anything else the value alone."""

    value: float
    interval: tuple[float, float]
    seeds: int


def rows_of(run: Run, part: str, **wanted: Any) -> Iterable[Mapping[str, Any]]:
    """A run's rows of a part that have these values."""
    return (row for row in run["rows"] if row["part"] == part and all(row.get(k) == v for k, v in wanted.items()))


def mean(runs: Sequence[Run], part: str, rate: str = "accuracy", **wanted: Any) -> Mean | None:
    """A rate over the runs of one arm, from the row of each that has the values wanted; None where there is none."""
    rows = [row for run in runs for row in rows_of(run, part, **wanted) if rate in row]
    if not rows:
        return None
    values = [float(row[rate]) for row in rows]
    asked = rows[0].get("episodes" if rate == "exact" else "questions", 0)
    if rate not in RATES:
        interval = t_interval(values)
    elif (interval := rate_interval(values)) is None and asked:
        interval = wilson(round(values[0] * asked), asked)
    interval = interval or (values[0], values[0])
    return Mean(fmean(values), interval, len(values))


def values_of(runs: Sequence[Run], part: str, key: str, **wanted: Any) -> list[Any]:
    """Every value that a key has in the rows of a part, each once, in their order."""
    return list(dict.fromkeys(row[key] for run in runs for row in rows_of(run, part, **wanted) if key in row))


def distinct(runs: Sequence[Run], part: str, keys: Sequence[str], **wanted: Any) -> list[dict[str, Any]]:
    """Every combination of values that the keys have in the rows of a part, each once, in their order."""
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in runs:
        for row in rows_of(run, part, **wanted):
            chosen = {key: row[key] for key in keys if key in row}
            found.setdefault(tuple(chosen.items()), chosen)
    return list(found.values())


def settled(table: Table, runs: Sequence[Run]) -> list[Run]:
    """The runs that a table shows. Runs of an earlier plan are never averaged with those of the present one: they are
    left out where an arm has present ones, and have EARLIER behind their label where it has none."""
    shown: list[Run] = []
    for scale, arm in dict.fromkeys((run["scale"], run["arm"]) for run in runs):
        seeds = [run for run in runs if (run["scale"], run["arm"]) == (scale, arm)]
        present = [run for run in seeds if is_current(table, run)]
        shown += present or [{**run, "label": f"{run['label']} {EARLIER}"} for run in seeds]
    return shown


def by_arm(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Runs of one scale by arm, the seeds in order."""
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        grouped.setdefault(run["arm"], []).append(run)
    return grouped
