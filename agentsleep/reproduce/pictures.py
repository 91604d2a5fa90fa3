"""The tables of a document as pictures: one panel for each part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agentsleep.evals.plots import GREY
from agentsleep.reproduce.looks import WARM, Look, lines_of, looks_of, numbered, shade
from agentsleep.reproduce.markdown import baselines_of, visit_name, visits_of
from agentsleep.reproduce.plan import Part, Table
from agentsleep.reproduce.summary import Mean, Run, by_arm, distinct, mean, settled, values_of

Panel = Callable[[Axes, Sequence[Run], str, Part], None]
Point = tuple[float, Mean | None]


def draw(table: Table, document: Mapping[str, Any]) -> Figure:
    """Every part that was measured, one below the other, at the scale of the first run."""
    every = settled(table, document["runs"])
    scale = every[0]["scale"]
    arms = by_arm(run for run in every if run["scale"] == scale)
    panels = []
    for part in table.parts:
        runs = [run for name in part.arms for run in arms.get(name, [])]
        if runs:
            panels.append((part, runs))
    figure = Figure(figsize=(10.0, 3.6 * len(panels) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(len(panels), 1, squeeze=False).flat)
    for axis, (part, runs) in zip(axes, panels, strict=True):
        PANELS[part.show.get("drawn", part.show.get("as", part.measure))](axis, runs, part.name, part)
        axis.set_title(part.title, fontsize="medium", loc="left")
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), fontsize="x-small", frameon=False)
    figure.suptitle(f"{table.title} (scale {scale})")
    return figure


def line(axis: Axes, points: Sequence[Point], label: str, look: Look) -> None:
    """Means with their intervals over places of the horizontal axis; what was not measured is left out."""
    found = [(x, m) for x, m in points if m is not None]
    axis.errorbar(
        [x for x, _ in found],
        [m.value for _, m in found],
        yerr=[
            [max(0.0, m.value - m.interval[0]) for _, m in found],
            [max(0.0, m.interval[1] - m.value) for _, m in found],
        ],
        color=look.color,
        marker=look.marker,
        linestyle=look.linestyle,
        markersize=4,
        linewidth=1.4,
        elinewidth=0.8,
        capsize=2,
        label=label,
    )


def rates(axis: Axes, what: str) -> None:
    """The vertical axis of rates."""
    axis.set_ylabel(f"{what}, 95 % interval", fontsize="small")
    axis.set_ylim(-0.03, 1.03)


def evenly(axis: Axes, places: Sequence[Any], what: str) -> None:
    """A horizontal axis of places at equal distances, whatever lies between their values."""
    axis.set_xticks(range(len(places)), [f"{place}" for place in places])
    axis.set_xlabel(what, fontsize="small")


def depth(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy by depth, a line for each arm and depth of sleep; depths at equal distances."""
    rate = part.show.get("rate", "accuracy")
    depths = part.show.get("columns") or values_of(runs, place, "depth")
    lines = [one for seeds in by_arm(runs).values() for one in lines_of(seeds, visits_of(seeds, place))]
    for one, look in zip(lines, looks_of(lines), strict=True):
        points = [(i, mean(one.seeds, place, rate, depth=d, **one.visit)) for i, d in enumerate(depths)]
        line(axis, points, f"{one.seeds[0]['label']}{visit_name(one.visit, one.seeds, place)}", look)
    for name in baselines_of(part) if rate == "accuracy" else ():
        guesses = {i: mean(runs[:1], place, name=name, depth=d) for i, d in enumerate(depths)}
        values = {i: guess.value for i, guess in guesses.items() if guess is not None}
        if values:
            axis.plot(list(values), list(values.values()), color=GREY, linestyle=(0, (1, 2)), linewidth=1.0, label=name)
    evenly(axis, depths, part.show.get("column", "k ="))
    rates(axis, rate)


def passes(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy at one depth by number of passes, a line for each arm."""
    asked = part.show["picture"]
    numbers = values_of(runs, place, "passes")
    for style, seeds in enumerate(by_arm(runs).values()):
        points = [(i, mean(seeds, place, passes=n, depth=asked)) for i, n in enumerate(numbers)]
        line(axis, points, seeds[0]["label"], numbered(style))
    evenly(axis, numbers, "passes")
    rates(axis, f"accuracy at k = {asked}")


def deepsleep(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy at one depth by number of windows, a line for each way to share out the passes."""
    asked = part.show.get("picture", 4)
    windows = values_of(runs, place, "windows")
    arms = by_arm(runs).values()
    lines = [one for seeds in arms for one in lines_of(seeds, distinct(seeds, place, ("passes", "rounds")))]
    for one, look in zip(lines, looks_of(lines), strict=True):
        points = [
            (i, mean(one.seeds, place, windows=w, depth=asked, order="oldest first", **one.visit))
            for i, w in enumerate(windows)
        ]
        line(axis, points, f"N = {one.visit['passes']}, R = {one.visit['rounds']}", look)
    evenly(axis, windows, "windows")
    rates(axis, f"accuracy at k = {asked}")


def retention(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Recall by later sleeps."""
    columns = part.show.get("columns") or values_of(runs, place, "later")
    arms = by_arm(runs).values()
    lines = [
        one for seeds in arms for one in lines_of(seeds, distinct(seeds, place, ("form", "passes"), restored=False))
    ]
    for one, look in zip(lines, looks_of(lines), strict=True):
        points = [(i, mean(one.seeds, place, later=m, restored=False, **one.visit)) for i, m in enumerate(columns)]
        line(axis, points, f"{one.seeds[0]['label']}: {one.visit['form']}, N = {one.visit['passes']}", look)
    evenly(axis, columns, "later sleeps")
    rates(axis, "recall")


def flops(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy at one depth against what reading a token of the context costs, sleep included."""
    asked = part.show["picture"]
    for style, seeds in enumerate(by_arm(runs).values()):
        costs = seeds[0]["flops_per_token"]
        visits = [{"passes": n} for n in values_of(seeds, place, "passes") if f"{n}" in costs]
        points: list[Point] = [
            (costs[f"{one.visit['passes']}"] / 1e6, mean(seeds, place, depth=asked, **one.visit))
            for one in lines_of(seeds, visits)
        ]
        line(axis, points, seeds[0]["label"], numbered(style))
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter("{x:g}")
    axis.set_xlabel("MFLOPs a context token", fontsize="small")
    rates(axis, f"accuracy at k = {asked}")


def auto(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy at one depth against the tokens read, fixed numbers of passes beside the one that is found."""
    asked = part.show["picture"]
    for seeds in by_arm(runs).values():
        visits = distinct(seeds, place, ("passes", "patience"))
        fixed = [visit for visit in visits if not visit["patience"]]
        for visit in visits:
            cost, found = (mean(seeds, place, key, depth=asked, **visit) for key in ("cost", "accuracy"))
            if visit["patience"]:
                label = f"N = {visit['passes']}, patience {visit['patience']}"
                look = Look(WARM[visit["patience"] % len(WARM)], "D")
            else:
                label, look = f"N = {visit['passes']}", Look(shade(fixed.index(visit), len(fixed)))
            if cost is not None:
                line(axis, [(cost.value, found)], label, look)
    axis.set_xlabel("tokens read / tokens of the window", fontsize="small")
    rates(axis, f"accuracy at k = {asked}")


def writes(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Change of S by pass, a line for each layer."""
    numbers = values_of(runs, place, "pass")
    lines = [(arm, seeds, layer) for arm, seeds in by_arm(runs).items() for layer in values_of(seeds, place, "layer")]
    for style, (arm, seeds, layer) in enumerate(lines):
        points = [(n, mean(seeds, place, "change", layer=layer, **{"pass": n})) for n in numbers]
        line(axis, points, f"{arm}, layer {layer}", numbered(style))
    axis.set_xlabel("pass", fontsize="small")
    axis.set_ylabel("change of S", fontsize="small")
    axis.set_ylim(bottom=0.0)


def saturation(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Recall against the gauge, a point for each number of facts."""
    for seeds in by_arm(runs).values():
        several = values_of(seeds, place, "passes")
        for i, n in enumerate(several):
            points: list[Point] = []
            for facts in values_of(seeds, place, "facts", form="facts"):
                wanted = {"form": "facts", "restored": False, "passes": n, "facts": facts}
                gauge, recall = (mean(seeds, place, key, **wanted) for key in ("saturation", "accuracy"))
                if gauge is not None:
                    points.append((gauge.value, recall))
            line(axis, points, f"N = {n}", Look(shade(i, len(several))))
    axis.set_xlabel("saturation of S", fontsize="small")
    rates(axis, "recall of the first facts")


PANELS: dict[str, Panel] = {
    "auto": auto,
    "deepsleep": deepsleep,
    "depth": depth,
    "flops": flops,
    "passes": passes,
    "retention": retention,
    "saturation": saturation,
    "writes": writes,
}
