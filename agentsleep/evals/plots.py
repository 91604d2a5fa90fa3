"""Pictures of an evaluation: accuracy by depth, one line for each depth of sleep."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Row = Mapping[str, Any]

# M. Okabe and K. Ito's colours, told apart by colour-blind readers too; passes have a marker as well, rounds a dash.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7")
MARKERS = "osD^vP"
DASHES = ("-", "--", ":", "-.")
GREY = "0.55"
SPREAD = 0.05  # of a depth: so far apart stand points that would cover each other


def plot_accuracy(
    panels: Mapping[str, Sequence[Row]],
    target: Path,
    *,
    title: str = "",
    chance: float | None = None,
    baseline: Sequence[Row] = (),
) -> None:
    """Draws accuracies by depth with their intervals as a PNG; an earlier one is replaced when the new one is whole.

    Args:
        panels: for each panel's title the rows ``{"passes", "rounds", "depth", "accuracy", "interval"}``; one line for
            each (passes, rounds).
        chance: the accuracy of guessing, drawn as a dashed grey line.
        baseline: rows ``{"name", "depth", "accuracy"}`` of one baseline, drawn grey in every panel.

    Raises:
        OSError: the file cannot be written.
    """
    figure = draw_accuracy(panels, title=title, chance=chance, baseline=baseline)
    part = target.with_name(f"{target.name}.part")
    figure.savefig(part, format="png", dpi=120)
    os.replace(part, target)


def draw_accuracy(
    panels: Mapping[str, Sequence[Row]],
    *,
    title: str = "",
    chance: float | None = None,
    baseline: Sequence[Row] = (),
) -> Figure:
    """The picture as a figure of its own, see :func:`plot_accuracy`."""
    figure = Figure(figsize=(4.6 * len(panels) + 1.8, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    visits = sorted({(row["passes"], row["rounds"]) for rows in panels.values() for row in rows})
    axes: list[Axes] = list(figure.subplots(1, len(panels), sharey=True, squeeze=False).flat)
    for panel, (name, rows) in zip(axes, panels.items(), strict=True):
        _draw(panel, rows, visits)
        if baseline:
            depths, rates = [row["depth"] for row in baseline], [row["accuracy"] for row in baseline]
            panel.plot(depths, rates, color=GREY, marker="x", linewidth=1.0, label=baseline[0]["name"])
        if chance is not None:
            panel.axhline(chance, color=GREY, linestyle=(0, (1, 2)), linewidth=1.0, label="chance")
        panel.set_title(name, fontsize="medium")
        panel.set_xlabel("depth of the question")
        panel.set_xticks(sorted({row["depth"] for row in rows}))
        panel.set_ylim(-0.03, 1.03)
        panel.grid(axis="y", color="0.9", linewidth=0.6)
    axes[0].set_ylabel("accuracy, 95 % interval")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right upper", frameon=False)
    figure.suptitle(title or "accuracy by depth")
    return figure


def _draw(panel: Axes, rows: Sequence[Row], visits: Sequence[tuple[int, int]]) -> None:
    all_passes = sorted({passes for passes, _ in visits})
    all_rounds = sorted({rounds for _, rounds in visits})
    for i, (passes, rounds) in enumerate(visits):
        line = sorted(
            (row for row in rows if (row["passes"], row["rounds"]) == (passes, rounds)), key=lambda row: row["depth"]
        )
        aside = SPREAD * (i - (len(visits) - 1) / 2)
        style = all_passes.index(passes)
        panel.errorbar(
            [row["depth"] + aside for row in line],
            [row["accuracy"] for row in line],
            # rounding may put an end of the interval on the wrong side of the rate
            yerr=[
                [max(0.0, row["accuracy"] - row["interval"][0]) for row in line],
                [max(0.0, row["interval"][1] - row["accuracy"]) for row in line],
            ],
            color=COLOURS[style % len(COLOURS)],
            marker=MARKERS[style % len(MARKERS)],
            linestyle=DASHES[all_rounds.index(rounds) % len(DASHES)],
            markersize=4,
            linewidth=1.4,
            elinewidth=0.8,
            capsize=2,
            label=f"passes {passes}, rounds {rounds}",
        )
