"""Pictures of a run: its loss, and its accuracy at every depth for each (passes, rounds)."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from agentsleep.errors import CheckpointDamaged

MARKERS = "osD^vPX*"  # a depth can be told by its marker alone, without colour
COLUMNS = 3
SMOOTH = 3  # log intervals in a moving mean of accuracies, each of which may be that of a few batches
GREY = "0.55"


def read_history(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's history, in order of their steps.

    A run that was killed goes on from its last checkpoint and logs the steps behind it a second time: the later rows
    count. A last line that was cut off is left out.

    Raises:
        CheckpointDamaged: another line is no row of a history.
    """
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            step = row["step"]
            _ = row["loss"], row["accuracy"].items(), row["stage"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            if number == len(lines):
                break
            raise CheckpointDamaged(f"line {number} of {path} is no row of a training history; remove it") from error
        while rows and rows[-1]["step"] >= step:
            rows.pop()
        rows.append(row)
    return rows


def plot_curves(history: Path, target: Path, *, title: str = "", chance: float | None = None) -> bool:
    """Draws a run's curves as a PNG; False, and no file, while nothing has been logged yet.

    Args:
        history: the run's ``history.jsonl``.
        target: the PNG; an earlier one is replaced when the new one is whole.
        chance: the accuracy of guessing, drawn as a dashed line.

    Raises:
        CheckpointDamaged: the history cannot be read.
    """
    rows = read_history(history)
    if not rows:
        return False
    figure = draw(rows, title=title, chance=chance)
    part = target.with_name(f"{target.name}.part")
    figure.savefig(part, format="png", dpi=120)
    os.replace(part, target)
    return True


def draw(rows: Sequence[dict[str, Any]], *, title: str = "", chance: float | None = None) -> Figure:
    """The curves as a figure of its own: one panel for the loss, one for each (passes, rounds)."""
    visits = sorted({name for row in rows for name in row["accuracy"]}, key=_numbers)
    depths = sorted({int(d) for row in rows for by_depth in row["accuracy"].values() for d in by_depth})
    asked = [depth for depth in depths if depth > 0]
    columns = min(COLUMNS, 1 + len(visits))
    lines = -(-(1 + len(visits)) // columns)
    figure = Figure(figsize=(4.2 * columns + 1.2, 3.1 * lines + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(lines, columns, sharex=True, squeeze=False).flat)
    _draw_loss(axes[0], rows)
    styles = _styles(asked)
    for panel, name in zip(axes[1:], visits, strict=False):
        _draw_accuracy(panel, rows, name, styles, chance)
    for panel in axes[1 + len(visits) :]:
        panel.set_axis_off()
    for panel in axes[: 1 + len(visits)]:
        _mark_stages(panel, rows)
        panel.set_xlabel("steps")
        panel.tick_params(labelbottom=True)
    keys = [Line2D([], [], label=f"depth {depth}", **style) for depth, style in styles.items()]
    if 0 in depths:
        keys.append(Line2D([], [], color=GREY, label="other words"))
    if chance is not None:
        keys.append(Line2D([], [], color=GREY, linestyle="--", label="chance"))
    figure.legend(handles=keys, loc="outside right upper", frameon=False)
    figure.suptitle(title or "training curves")
    return figure


def _numbers(visits: str) -> tuple[int, ...]:
    return tuple(int(part) for part in visits.split("x"))


def _styles(depths: Sequence[int]) -> dict[int, dict[str, Any]]:
    """Depths from dark to bright: viridis grows in lightness too, so that it needs no sense of colour."""
    shades = colormaps["viridis"](np.linspace(0.0, 0.88, max(len(depths), 2)))
    return {
        depth: {"color": shades[i], "marker": MARKERS[i % len(MARKERS)], "markersize": 4, "linewidth": 1.4}
        for i, depth in enumerate(depths)
    }


def _draw_loss(panel: Axes, rows: Sequence[dict[str, Any]]) -> None:
    panel.plot([row["step"] for row in rows], [row["loss"] for row in rows], color="black", linewidth=1.2)
    panel.set_title("loss", fontsize="medium")
    panel.set_ylim(bottom=0)


def _draw_accuracy(
    panel: Axes, rows: Sequence[dict[str, Any]], visits: str, styles: dict[int, dict[str, Any]], chance: float | None
) -> None:
    passes, rounds = _numbers(visits)
    for depth, style in [(0, {"color": GREY, "linewidth": 1.0}), *styles.items()]:
        seen = [(r["step"], r["accuracy"].get(visits, {}).get(str(depth))) for r in rows]
        points = [(step, value) for step, value in seen if value is not None]
        if points:
            steps, values = zip(*points, strict=True)
            panel.plot(steps, _smooth(values), markevery=max(1, len(points) // 6), **style)
    if chance is not None:
        panel.axhline(chance, color=GREY, linestyle="--", linewidth=1.0)
    panel.set_title(f"accuracy, passes {passes}, rounds {rounds}", fontsize="medium")
    panel.set_ylim(-0.02, 1.02)
    panel.grid(axis="y", color="0.9", linewidth=0.6)


def _mark_stages(panel: Axes, rows: Sequence[dict[str, Any]]) -> None:
    for before, after in pairwise(rows):
        if after["stage"] != before["stage"]:
            panel.axvline(after["step"], color="0.3", linestyle=":", linewidth=0.8)


def _smooth(values: Sequence[float]) -> list[float]:
    """Moving mean over the latest points."""
    return [float(np.mean(values[max(0, i + 1 - SMOOTH) : i + 1])) for i in range(len(values))]
