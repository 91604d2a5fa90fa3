"""What was measured, as rows, and the bars that are judged by them."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, median
from typing import Any

import numpy as np

from agentsleep.evals.intervals import wilson
from agentsleep.evals.paired import bootstrap_difference
from langchain_agentsleep.bench.outcomes import Asked, Took

RETRIEVALS = ("retrieval", "retrieval-iterated")
DEEP = 3  # depths from here on are what the bar is about
FLAT = 1.10  # wake tokens a turn at the end over those at the beginning, at most
ENDS = 20  # turns at the beginning, and at the end

Row = dict[str, Any]


def accuracy_rows(asked: Sequence[Asked]) -> list[Row]:
    """``{"arm", "depth", "right", "questions", "accuracy", "interval"}``, 95 % Wilson intervals."""
    rows = []
    for arm, depth in dict.fromkeys((one.arm, one.depth) for one in asked):
        hits = [one.right for one in asked if (one.arm, one.depth) == (arm, depth)]
        right, count = sum(hits), len(hits)
        found = {"accuracy": right / count, "interval": list(wilson(right, count))}
        rows.append({"arm": arm, "depth": depth, "right": right, "questions": count, **found})
    return sorted(rows, key=lambda row: row["depth"])


def cost_rows(took: Sequence[Took]) -> list[Row]:
    """A row for each arm.

    ``ms``, the median of its turns, ``ratio``, that over trimming's, and ``mean_ms``; means a turn of ``wake_tokens``,
    ``sleep_tokens``, ``probe_tokens`` and of ``tokens``, their sum; ``first`` and ``last``, wake tokens a turn at both
    ends of the run (``ends`` turns each), and their ``growth``; ``calls`` of the tool, for each turn in which a look-up
    was asked for; ``listed``, messages in the list at the end.
    """
    rows: list[Row] = []
    for arm in dict.fromkeys(one.arm for one in took):
        mine = sorted((one for one in took if one.arm == arm), key=lambda one: one.number)
        ends = min(ENDS, len(mine) // 2)
        first, last = (fmean(one.tokens.wake for one in part) for part in (mine[:ends], mine[-ends:]))
        rows.append(
            {
                "arm": arm,
                "ms": 1000 * median(one.seconds for one in mine),
                "mean_ms": 1000 * fmean(one.seconds for one in mine),
                "wake_tokens": fmean(one.tokens.wake for one in mine),
                "sleep_tokens": fmean(one.tokens.sleep for one in mine),
                "probe_tokens": fmean(one.tokens.probe for one in mine),
                "tokens": fmean(one.tokens.all for one in mine),
                "most_tokens": max(one.tokens.all for one in mine),
                "ends": ends,
                "first": first,
                "last": last,
                "growth": last / first,
                "calls": _calls(mine),
                "listed": mine[-1].listed,
            }
        )
    plain = next(row["ms"] for row in rows if row["arm"] == "trim")
    return [row | {"ratio": row["ms"] / plain} for row in rows]


def _calls(took: Sequence[Took]) -> float | None:
    wanted = sum(one.kind == "look-up" for one in took)
    return sum(one.calls for one in took) / wanted if wanted else None


def bars(asked: Sequence[Asked], costs: Sequence[Row], passes: int) -> list[Row]:
    """Each bar with what was reached: ``{"bar", "value", "interval", "need", "passed"}``.

    The deepest sleep against the better retrieval at each depth of at least 3: the difference of their accuracies on
    the same questions, with a 95 % bootstrap interval over dialogues, which has to lie above 0. Then how its wake
    tokens grow.
    """
    sleep = f"sleep-{passes}"
    found: list[Row] = []
    for depth in sorted({one.depth for one in asked if one.depth >= DEEP}):
        hits = {arm: _hits(asked, arm, depth) for arm in (sleep, *RETRIEVALS)}
        best = max(RETRIEVALS, key=lambda arm: fmean(hits[arm][0]))
        groups = np.array(hits[sleep][1])
        ahead = bootstrap_difference(np.array(hits[sleep][0]), np.array(hits[best][0]), groups)
        found.append(
            {
                "bar": f"{sleep} ahead of {best}, depth {depth}",
                "value": ahead.value,
                "interval": [ahead.low, ahead.high],
                "need": "above 0",
                "passed": ahead.low > 0,
            }
        )
    growth = next(row["growth"] for row in costs if row["arm"] == sleep)
    name, need = f"{sleep}, wake tokens a turn, end over beginning", f"at most {FLAT:.2f}"
    return [*found, {"bar": name, "value": growth, "interval": None, "need": need, "passed": growth <= FLAT}]


def _hits(asked: Sequence[Asked], arm: str, depth: int) -> tuple[list[float], list[int]]:
    mine = [one for one in asked if (one.arm, one.depth) == (arm, depth)]
    return [float(one.right) for one in mine], [one.dialogue for one in mine]
