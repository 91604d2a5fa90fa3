"""Draws the way the data goes, once for light pages and once for dark ones.

Run from anywhere: ``python docs/pictures/make_sleep.py`` writes sleep-light.svg and sleep-dark.svg beside itself,
or into the folder that is given.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyArrowPatch, FancyBboxPatch, Rectangle

WIDTH, BOTTOM, TOP = 111.0, 4.0, 52.0  # the units that everything below is placed in
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Theme:
    """Colours that stand out from a page of one kind. The page itself shows through."""

    name: str
    ink: str
    soft: str
    box: str
    wake: str
    sleep: str
    weights: str
    archive: str


THEMES = (
    Theme("light", "#1f2328", "#59636e", "#f6f8fa", "#0969da", "#8250df", "#bc4c00", "#1a7f37"),
    Theme("dark", "#f0f6fc", "#9198a1", "#151b23", "#4493f8", "#ab7df8", "#db6d28", "#3fb950"),
)


class Sketch:
    """The few shapes that the picture is made of."""

    def __init__(self, axes: Axes, theme: Theme) -> None:
        self.axes, self.theme = axes, theme

    def text(self, x: float, y: float, words: str, *, size: float = 10.5, color: str = "", bold: bool = False) -> None:
        weight = "bold" if bold else "normal"
        self.axes.text(
            x,
            y,
            words,
            ha="center",
            va="center",
            fontsize=size,
            color=color or self.theme.ink,
            fontweight=weight,
            linespacing=1.35,
        )

    def box(self, x: float, y: float, width: float, height: float, color: str, *, dashed: bool = False) -> None:
        style = "round,pad=0,rounding_size=1.6"
        line = (0, (4, 3)) if dashed else "-"
        self.axes.add_patch(
            FancyBboxPatch(
                (x, y), width, height, boxstyle=style, facecolor=self.theme.box, edgecolor=color, lw=1.6, linestyle=line
            )
        )

    def arrow(
        self,
        start: tuple[float, float],
        end: tuple[float, float],
        color: str,
        *,
        bend: float = 0.0,
        dashed: bool = False,
    ) -> None:
        self.axes.add_patch(
            FancyArrowPatch(
                start,
                end,
                arrowstyle="-|>",
                mutation_scale=13,
                color=color,
                lw=1.6,
                shrinkA=0,
                shrinkB=0,
                connectionstyle=f"arc3,rad={bend}",
                linestyle=(0, (4, 3)) if dashed else "-",
            )
        )

    def tokens(self, x: float, y: float, filled: int, count: int, color: str) -> None:
        """A row of token cells, the first of them read."""
        for i in range(count):
            face = color if i < filled else "none"
            self.axes.add_patch(Rectangle((x + 2.2 * i, y), 1.7, 2.6, facecolor=face, edgecolor=color, lw=1.1))

    def matrix(self, x: float, y: float, color: str) -> None:
        """Fast weights: a small matrix."""
        shades = (0.9, 0.35, 0.6, 0.25, 0.8, 0.45, 0.55, 0.3, 0.95)
        for i, shade in enumerate(shades):
            corner = (x + 2.5 * (i % 3), y + 2.5 * (i // 3))
            self.axes.add_patch(Rectangle(corner, 2.3, 2.3, facecolor=color, alpha=shade, edgecolor="none"))

    def drum(self, x: float, y: float, width: float, height: float, color: str) -> None:
        """A table in a database."""
        face, rim = self.theme.box, 2.6
        self.axes.add_patch(Ellipse((x + width / 2, y), width, rim, facecolor=face, edgecolor=color, lw=1.6))
        self.axes.add_patch(Rectangle((x, y), width, height, facecolor=face, edgecolor="none"))
        self.axes.add_patch(Ellipse((x + width / 2, y + height), width, rim, facecolor=face, edgecolor=color, lw=1.6))
        for side in (x, x + width):
            self.axes.plot([side, side], [y, y + height], color=color, lw=1.6, solid_capstyle="butt")


def draw(theme: Theme) -> Figure:
    """The whole picture in the colours of a theme."""
    figure = Figure(figsize=(WIDTH / 10, (TOP - BOTTOM) / 10))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, WIDTH)
    axes.set_ylim(BOTTOM, TOP)
    axes.set_axis_off()
    sketch = Sketch(axes, theme)
    _window(sketch)
    _sleep(sketch)
    _boundary(sketch)
    _archive(sketch)
    return figure


def _window(to: Sketch) -> None:
    t = to.theme
    to.text(7, 41.5, "messages", bold=True)
    to.text(7, 37.6, "user, tool,\nassistant", size=9.5, color=t.soft)
    to.box(17, 29, 24, 19, t.wake)
    to.text(29, 45.2, "window", color=t.wake, bold=True)
    to.tokens(19.3, 39.4, 9, 9, t.wake)
    to.text(29, 34.2, "wake: one pass a token,\nattention (KV) + fast weights", size=9.5, color=t.soft)


def _sleep(to: Sketch) -> None:
    t = to.theme
    to.arrow((41, 39.5), (46, 39.5), t.ink)
    to.box(46, 29, 20, 19, t.sleep)
    to.text(56, 45.2, "sleep", color=t.sleep, bold=True)
    for i, label in enumerate(("1", "2", "…", "N")):
        x = 49.4 + 4.4 * i
        to.axes.add_patch(Circle((x, 40.4), 1.75, facecolor="none", edgecolor=t.sleep, lw=1.4))
        to.text(x, 40.3, label, size=9.5)
        if i:
            to.axes.plot([x - 2.65, x - 1.75], [40.4, 40.4], color=t.sleep, lw=1.4, solid_capstyle="butt")
    to.text(56, 34.2, "N passes over the window,\nno token is written", size=9.5, color=t.soft)


def _boundary(to: Sketch) -> None:
    t = to.theme
    to.arrow((66, 39.5), (71, 39.5), t.ink)
    to.matrix(72, 35.9, t.weights)
    to.text(75.7, 46.6, "fast weights", color=t.weights, bold=True)
    to.text(75.7, 32.5, "the only thing\nthat crosses", size=9.5, color=t.soft)
    to.arrow((80.4, 39.5), (87, 39.5), t.ink)
    to.axes.plot([83.4, 83.4], [29, 48], color=t.soft, lw=1.3, linestyle=(0, (2, 2)))
    to.text(83.4, 50.2, "KV dropped", size=9.5, color=t.soft)
    to.box(87, 29, 22, 19, t.wake)
    to.text(98, 45.2, "next window", color=t.wake, bold=True)
    to.tokens(88.4, 39.4, 3, 9, t.wake)
    to.text(98, 34.2, "starts from the fast\nweights, with no keys", size=9.5, color=t.soft)


def _archive(to: Sketch) -> None:
    t = to.theme
    to.drum(17, 7.5, 24, 10, t.archive)
    to.text(29, 13.8, "event log", color=t.archive, bold=True)
    to.text(29, 10.2, "every token, every sleep", size=9.5, color=t.soft)
    to.drum(64, 7.5, 24, 10, t.archive)
    to.text(76, 13.8, "snapshots", color=t.archive, bold=True)
    to.text(76, 10.2, "one a sleep, with a parent", size=9.5, color=t.soft)
    to.arrow((7, 34.6), (17, 12.5), t.archive, bend=0.32)
    to.text(6.2, 19.4, "written\nfirst", size=9.5, color=t.soft)
    to.arrow((29, 19.2), (29, 29), t.wake)
    to.text(35.2, 24.2, "then read", size=9.5, color=t.soft)
    to.arrow((41, 14), (53, 29), t.sleep, bend=0.28, dashed=True)
    to.text(61.6, 22.6, "deep sleep:\narchived windows\nare read again", size=9.5, color=t.soft)
    to.arrow((75.7, 29.8), (75.7, 19.2), t.weights)
    to.text(82.2, 24.4, "stored first", size=9.5, color=t.soft)
    to.arrow((88, 12.5), (97, 29), t.archive, bend=0.3)
    to.text(101.3, 17.6, "reopen,\nfork", size=9.5, color=t.soft)


def main(folder: Path) -> None:
    """Writes both files."""
    # Letters as outlines: the same picture on a machine without the font. The salt makes ids repeat from run to run.
    matplotlib.rcParams.update({"svg.fonttype": "path", "svg.hashsalt": "agentsleep"})
    for theme in THEMES:
        target = folder / f"sleep-{theme.name}.svg"
        draw(theme).savefig(target, format="svg", transparent=True, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
