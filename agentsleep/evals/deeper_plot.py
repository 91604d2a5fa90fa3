"""The picture of a probe: what is left of evicted text, by passes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from math import exp
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agentsleep.evals.plots import COLOURS, GREY

MOST = 4  # panels in a row
_LABELS = {"share": "accuracy", "nats": "nats", "nats a token": "perplexity"}


def plot_probe(document: Mapping[str, Any], target: Path) -> None:
    """Draws a document of :func:`agentsleep.evals.deeper.probe` as a PNG, a panel a measure, with 95 % intervals; an
    earlier one is replaced when the new one is whole.

    Raises:
        OSError: the file cannot be written.
    """
    figure = draw_probe(document)
    part = target.with_name(f"{target.name}.part")
    figure.savefig(part, format="png", dpi=120)
    os.replace(part, target)


def draw_probe(document: Mapping[str, Any]) -> Figure:
    """The picture as a figure of its own."""
    measures: Sequence[Mapping[str, Any]] = document["measures"]
    wide = min(MOST, len(measures))
    high = -(-len(measures) // wide)
    figure = Figure(figsize=(3.2 * wide + 0.6, 3.2 * high + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(high, wide, squeeze=False).flat)
    for panel, measure in zip(axes, measures, strict=False):
        _draw(panel, measure)
    for empty in axes[len(measures) :]:
        empty.set_axis_off()
    figure.suptitle(
        f"{document['model']}: evicted text, 95 % intervals; verdict, by {document['decisive']}: {document['verdict']}",
        fontsize="medium",
        wrap=True,
    )
    return figure


def _draw(panel: Axes, measure: Mapping[str, Any]) -> None:
    rows = measure["conditions"]
    names = ["S dropped" if row["passes"] is None else f"N = {row['passes']}" for row in rows]
    for place, row in enumerate(rows):
        if row["mean"] is None:
            panel.annotate("NaN", (place, 0.5), xycoords=("data", "axes fraction"), ha="center")
            continue
        value, low, high = (
            exp(-number) if measure["unit"] == "nats a token" else number for number in (row["mean"], *row["interval"])
        )
        low, high = min(low, high, value), max(low, high, value)
        colour = GREY if row["passes"] is None else COLOURS[(place - 1) % len(COLOURS)]
        panel.errorbar([place], [value], yerr=[[value - low], [high - value]], color=colour, marker="o", capsize=3)
    if measure["chance"] is not None:
        panel.axhline(measure["chance"], color=GREY, linestyle=(0, (1, 2)), linewidth=1.0)
    panel.set_xticks(range(len(names)), names, fontsize="small")
    panel.set_xlim(-0.5, len(names) - 0.5)
    panel.set_title(measure["measure"], fontsize="medium")
    panel.set_ylabel(_LABELS[measure["unit"]])
    panel.grid(axis="y", color="0.9", linewidth=0.6)
