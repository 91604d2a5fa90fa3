"""How the lines of a picture look, so that they can be told apart before the legend is read.

A sleep has a hue for its rounds and is the darker the more passes it makes; a baseline has a warm colour of its own, a
ceiling is black, a floor grey. Whatever else differs between the lines of an arm is a dash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import colormaps
from matplotlib.colors import to_hex

from agentsleep.evals.plots import COLOURS, DASHES, GREY, MARKERS
from agentsleep.reproduce.summary import Run

HUES = ("Blues", "Greens", "Purples")  # of 1, 2, ... rounds
WARM = ("#E69F00", "#D55E00", "#CC79A7", "#8C564B", "#B8A100")
BLACK = "0.1"


@dataclass(frozen=True)
class Look:
    """Of a line, in matplotlib's words."""

    color: str
    marker: str = "o"
    linestyle: str = "-"


@dataclass(frozen=True)
class Line:
    """The runs of an arm at one visit: the values that tell its rows from the arm's others."""

    seeds: Sequence[Run]
    visit: Mapping[str, Any]

    @property
    def arm(self) -> str:
        """Its name."""
        name: str = self.seeds[0]["arm"]
        return name

    @property
    def kind(self) -> str:
        """That of the arm: ``sleep``, ``baseline``, ``floor`` or ``ceiling``."""
        kind: str = self.seeds[0]["kind"]
        return kind


def lines_of(seeds: Sequence[Run], visits: Sequence[Mapping[str, Any]]) -> list[Line]:
    """What a picture shows of an arm, rounds by rounds: a sleep at every depth that was measured, the others at that of
    their training alone. How they do at depths that they never saw stands in the table."""
    lines = [Line(seeds, visit) for visit in sorted(visits, key=lambda visit: int(visit.get("rounds", 1)))]
    if not lines or lines[0].kind == "sleep":
        return lines
    judge = dict(zip(("passes", "rounds"), seeds[0]["config"]["judge"], strict=True))
    trained = [line for line in lines if all(line.visit.get(key, value) == value for key, value in judge.items())]
    return trained or lines


def looks_of(lines: Sequence[Line]) -> list[Look]:
    """A look for each line of a panel."""
    sleeps = [line for line in lines if line.kind == "sleep"]
    all_passes = sorted({line.visit.get("passes", 1) for line in sleeps})
    all_rounds = sorted({line.visit.get("rounds", 1) for line in sleeps})
    rest = list(dict.fromkeys(_rest(line) for line in lines))
    arms = _arms(lines)
    baselines, floors = (_arms([line for line in lines if line.kind == kind]) for kind in ("baseline", "floor"))
    looks = []
    for line in lines:
        marker, dash = arms.index(line.arm), rest.index(_rest(line))
        if line.kind == "sleep":
            hue = all_rounds.index(line.visit.get("rounds", 1))
            color = shade(all_passes.index(line.visit.get("passes", 1)), len(all_passes), hue)
            marker += hue
        elif line.kind == "baseline":
            color = WARM[baselines.index(line.arm) % len(WARM)]
        elif line.kind == "floor":
            color = GREY
            dash += 2 + floors.index(line.arm)
        else:
            color = BLACK
            dash += 2
        looks.append(Look(color, MARKERS[marker % len(MARKERS)], DASHES[dash % len(DASHES)]))
    return looks


def shade(place: int, places: int, hue: int = 0) -> str:
    """The colour of one out of so many places, from light to dark."""
    return to_hex(colormaps[HUES[hue % len(HUES)]](0.4 + 0.55 * (place + 1) / max(places, 1)))


def numbered(place: int) -> Look:
    """The look of one out of several lines between which there is no order."""
    return Look(COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)])


def _rest(line: Line) -> tuple[tuple[str, Any], ...]:
    """What of a visit neither shade nor hue tells."""
    return tuple((key, value) for key, value in line.visit.items() if key not in ("passes", "rounds"))


def _arms(lines: Sequence[Line]) -> list[str]:
    return list(dict.fromkeys(line.arm for line in lines))
