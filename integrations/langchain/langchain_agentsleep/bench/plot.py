"""Accuracy by depth, and wake tokens at both ends of the long run, as a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agentsleep.evals.plots import COLOURS, GREY, SPREAD

_COLOURS = (*COLOURS, "#000000", "#882255", "#999933", "#661100")  # told apart by colour-blind readers, too
_MARKERS = "osD^vPX*<>"


def plot(document: Mapping[str, Any], target: Path) -> None:
    """Draws a PNG; an earlier one is replaced when the new one is whole.

    Raises:
        OSError: the file cannot be written.
    """
    figure = Figure(figsize=(12.0, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    known, read = figure.subplots(1, 2, width_ratios=(3, 2))
    what = {row["arm"]: row["what"] for row in document["arms"]}
    styles = {arm: _style(arm, place) for place, arm in enumerate(what)}
    for place, arm in enumerate(what):
        line = [row for row in document["accuracy"] if row["arm"] == arm]
        aside = SPREAD * (place - (len(what) - 1) / 2)
        rates = [row["accuracy"] for row in line]
        known.errorbar(
            [row["depth"] + aside for row in line],
            rates,
            yerr=[
                [max(0.0, row["accuracy"] - row["interval"][0]) for row in line],
                [max(0.0, row["interval"][1] - row["accuracy"]) for row in line],
            ],
            label=what[arm],
            markersize=4,
            linewidth=1.3,
            elinewidth=0.7,
            capsize=2,
            **styles[arm],
        )
    known.axhline(1 / (document["people"] - 1), color=GREY, linestyle=":", linewidth=1.0)
    known.set(xlabel="depth of the question", ylabel="accuracy, 95 % interval", xticks=document["depths"])
    known.set_ylim(-0.03, 1.03)
    for row in document["costs"]:
        read.plot([0, 1], [row["first"], row["last"]], **styles[row["arm"]])
    ends = document["costs"][0]["ends"]
    read.set(xticks=[0, 1], xticklabels=[f"first {ends} turns", f"last {ends}"], yscale="log")
    read.set_ylabel("tokens read awake, a turn")
    for panel in (known, read):
        panel.grid(axis="y", color="0.9", linewidth=0.6)
    figure.legend(*known.get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(
        f"rota, window of {document['window']} tokens, {document['questions']} questions a depth, "
        f"{document['turns']} turns, seed {document['seed']}"
    )
    part = target.with_name(f"{target.name}.part")
    figure.savefig(part, format="png", dpi=120)
    os.replace(part, target)


def _style(arm: str, place: int) -> dict[str, Any]:
    return {
        "color": _COLOURS[place % len(_COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "linestyle": "-" if arm.startswith("sleep") else "--",
    }
