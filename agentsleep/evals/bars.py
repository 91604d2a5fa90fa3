"""What an evaluation on rota is measured against."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agentsleep.evals.live import MODES

MOST_VISITS = 8  # passes x rounds that "the best" is chosen from
ByDepth = dict[int, float]


def judge(summary: Sequence[Mapping[str, Any]], tool_call_accuracy: float) -> list[dict[str, Any]]:
    """Each bar with what was reached: ``{"bar", "mode", "need", "accuracy", "passes", "rounds", "passed"}``.

    Args:
        summary: rows with ``passes, rounds, mode, depth, accuracy``, the facts of deeper questions spread over windows.

    ``accuracy``, ``passes``, ``rounds`` and ``passed`` are None where the evaluation did not ask what the bar is about.
    """
    bars = []
    for mode in MODES:
        reached: dict[tuple[int, int], ByDepth] = {}
        for row in summary:
            if row["mode"] == mode:
                reached.setdefault((row["passes"], row["rounds"]), {})[row["depth"]] = row["accuracy"]
        light = {visits: by_depth for visits, by_depth in reached.items() if visits == (4, 1)}
        few = {visits: by_depth for visits, by_depth in reached.items() if visits[0] * visits[1] <= MOST_VISITS}
        best = f"best of passes x rounds <= {MOST_VISITS}"
        bars += [
            _bar("passes 4, light sleep alone, depths 1-2", mode, 0.95, light, (1, 2)),
            _bar(f"{best}, depth 4", mode, 0.90, few, (4,)),
            _bar(f"goal: {best}, every depth to 6", mode, 0.95, few, range(1, 7)),
        ]
    bars.append(_row("tool calls", None, 0.99, tool_call_accuracy, None))
    return bars


def _bar(
    name: str, mode: str, need: float, reached: Mapping[tuple[int, int], ByDepth], depths: Sequence[int]
) -> dict[str, Any]:
    """The best visits count, each by the worst of the depths."""
    worst = {
        visits: min(by_depth[depth] for depth in depths)
        for visits, by_depth in reached.items()
        if all(depth in by_depth for depth in depths)
    }
    best = max(worst, key=lambda visits: worst[visits], default=None)
    return _row(name, mode, need, None if best is None else worst[best], best)


def _row(
    name: str, mode: str | None, need: float, accuracy: float | None, visits: tuple[int, int] | None
) -> dict[str, Any]:
    return {
        "bar": name,
        "mode": mode,
        "need": need,
        "accuracy": accuracy,
        "passes": visits and visits[0],
        "rounds": visits and visits[1],
        "passed": None if accuracy is None else accuracy >= need,
    }
