"""The picture of a comparison: layers by heads, a panel each for how much changed, in which direction, and how evenly.

viridis grows in lightness as well, so that it needs no sense of colour; what lies beyond its end is vermilion, of M.
Okabe and K. Ito's colours.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from numpy.typing import NDArray

from agentsleep.compare import Change, StateDiff
from agentsleep.errors import InputError

MAP = colormaps["viridis"].with_extremes(over="#D55E00", bad="0.9")
MOST = 2.0  # relative change beyond which there are no more shades
CELL, LARGEST = 0.45, 8.2  # inches: a cell where there is room, and a panel's side at most
NUMBERED = 0.4  # inches: cells from this size on have room for their number
TICKS = 48  # labels along a side


@dataclass(frozen=True)
class _Panel:
    """high: value at the end of the colours; None: the largest there is, up to ``MOST``."""

    title: str
    value: Callable[[Change], float]
    low: float
    high: float | None


PANELS = (
    _Panel("relative change  ||b − a|| / ||b||", lambda head: head.relative, 0.0, None),
    _Panel("cosine of a and b", lambda head: head.cosine, -1.0, 1.0),
    _Panel("effective rank of b − a, share", lambda head: head.rank, 0.0, 1.0),
)


def plot_heatmap(diff: StateDiff, target: Path, *, title: str, legend: str = "") -> None:
    """Draws a comparison as a PNG; an earlier one is replaced when the new one is whole.

    Args:
        title: above the panels.  legend: below them, such as which snapshots a and b are; may have several lines.

    Raises:
        InputError: the file cannot be written, or there is nothing to draw.
    """
    figure = draw_heatmap(diff, title=title, legend=legend)
    part = target.with_name(f"{target.name}.part")
    try:
        try:
            figure.savefig(part, format="png", dpi=130)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"the picture cannot be written to {target} ({error.strerror or error}); name a file in a folder that "
            "exists and that you may write to"
        ) from error


def draw_heatmap(diff: StateDiff, *, title: str, legend: str = "") -> Figure:
    """The picture as a figure of its own: a row a layer, a column a head. Layers with fewer heads end in grey.

    Raises:
        InputError: neither state has a recurrent tensor.
    """
    if not diff.layers:
        raise InputError("there is nothing to draw: neither state holds fast weights; compare states after a sleep")
    rows, columns = len(diff.layers), max(len(layer.heads) for layer in diff.layers)
    high, wide = _cell(rows), _cell(columns)
    panel_wide = max(2.6, columns * wide)
    figure = Figure(figsize=(3 * (panel_wide + 1.1) + 0.4, max(1.2, rows * high) + 1.9), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(1, len(PANELS), sharey=True, squeeze=False).flat)
    numbered = high >= NUMBERED and panel_wide / columns >= NUMBERED
    for axis, panel in zip(axes, PANELS, strict=True):
        values = np.full((rows, columns), math.nan)
        for i, layer in enumerate(diff.layers):
            values[i, : len(layer.heads)] = [panel.value(head) for head in layer.heads]
        _draw(axis, panel, values, numbered)
        _label(axis.set_xticks, [f"{head}" for head in range(columns)])
        axis.set_xlabel("head")
    _label(axes[0].set_yticks, [layer.label for layer in diff.layers])
    axes[0].set_ylabel("layer")
    # without mathematics: a thread may be called "$HOME"
    figure.suptitle(_drawable(title), fontsize="large", parse_math=False, wrap=True)
    if legend:
        figure.supxlabel(_drawable(legend), fontsize="medium", parse_math=False, wrap=True)
    return figure


def _draw(axis: Axes, panel: _Panel, values: NDArray[np.float64], numbered: bool) -> None:
    """One panel; values ``[layers, heads]``, NaN where a layer has no such head."""
    high = panel.high if panel.high is not None else min(MOST, values[np.isfinite(values)].max(initial=0.0)) or 1.0
    beyond = bool((values > high).any())
    # An infinite change is beyond the end as well, and images do not take infinities.
    shown = np.ma.masked_invalid(np.where(values > high, high * 1.5, values))
    image = axis.imshow(shown, cmap=MAP, norm=Normalize(panel.low, high), aspect="auto", interpolation="nearest")
    axis.figure.colorbar(image, ax=axis, extend="max" if beyond else "neither", pad=0.02)
    axis.set_title(panel.title, fontsize="medium")
    axis.tick_params(labelsize=7, length=2)
    if numbered:
        for (row, column), value in np.ndenumerate(values):
            if not math.isnan(value):
                dark = value < panel.low + 0.55 * (high - panel.low)
                number = "∞" if math.isinf(value) else f"{value:.2f}"
                colour = "white" if dark else "black"
                axis.text(column, row, number, ha="center", va="center", fontsize=8, color=colour)


def _cell(number: int) -> float:
    """Inches of a cell's side, of which there are ``number`` along a panel's."""
    return min(CELL, LARGEST / number)


def _label(set_ticks: Callable[[Sequence[int], Sequence[str]], object], names: Sequence[str]) -> None:
    """Names every place, or every k-th where they would run into each other."""
    step = -(-len(names) // TICKS)
    places = range(0, len(names), step)
    set_ticks(list(places), [names[place] for place in places])


def _drawable(text: str) -> str:
    """Characters that the font has no picture of become a replacement character, instead of a warning each."""
    known = get_font(findfont(FontProperties())).get_charmap()
    return "".join(char if char == "\n" or ord(char) in known else "\N{REPLACEMENT CHARACTER}" for char in text)
