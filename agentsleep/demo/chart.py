"""The picture: accuracy by depth, a line for each way of sleeping."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

MARKERS = "osD^vPX*"  # a line can be told by its marker alone, without colour


def draw_chart(document: Mapping[str, Any], target: Path) -> None:
    """Draws the results of a demonstration as a PNG; an earlier one is replaced when the new one is whole."""
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for row in document["results"]:
        lines.setdefault(row["name"], []).append(row)
    passes = sorted({row["passes"] for row in document["results"]})
    shades = colormaps["viridis"](np.linspace(0.0, 0.85, max(len(passes), 2)))
    for i, (name, rows) in enumerate(lines.items()):
        axes.plot(
            [row["depth"] for row in rows],
            [row["accuracy"] for row in rows],
            label=name,
            color=shades[passes.index(rows[0]["passes"])],
            linestyle="-" if rows[0]["rounds"] == 1 else "--",
            marker=MARKERS[i % len(MARKERS)],
        )
    axes.axhline(document["chance"], color="0.55", linestyle=":", label="chance")
    axes.set_ylim(-0.02, 1.04)
    axes.set_xticks(sorted({row["depth"] for row in document["results"]}))
    axes.set_xlabel("depth of the question: who comes K after X?")
    axes.set_ylabel("accuracy, every fact evicted")
    axes.grid(axis="y", color="0.9", linewidth=0.6)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_title(
        f"{document['people']} people, {document['questions_per_depth']} questions a depth, seed {document['seed']}",
        fontsize="medium",
    )
    part = target.with_name(f"{target.name}.part")
    figure.savefig(part, format="png", dpi=130)
    os.replace(part, target)
