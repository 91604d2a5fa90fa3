"""The tables of a document as pictures: one panel for each part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from agentsleep.evals.plots import COLOURS, DASHES, GREY, MARKERS
from agentsleep.reproduce.markdown import baselines_of, visit_name, visits_of
from agentsleep.reproduce.plan import Part, Table
from agentsleep.reproduce.summary import Mean, Run, by_arm, distinct, mean, settled, values_of

Panel = Callable[[Axes, Sequence[Run], str, Part], None]


def draw(table: Table, document: Mapping[str, Any]) -> Figure:
    """Every part that was measured, at the scale of the first run."""
    every = settled(table, document["runs"])
    scale = every[0]["scale"]
    arms = by_arm(run for run in every if run["scale"] == scale)
    panels = []
    for part in table.parts:
        runs = [run for name in part.arms for run in arms.get(name, [])]
        if runs:
            panels.append((part, runs))
    figure = Figure(figsize=(6.4 * len(panels), 5.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes: list[Axes] = list(figure.subplots(1, len(panels), squeeze=False).flat)
    for axis, (part, runs) in zip(axes, panels, strict=True):
        PANELS[part.show.get("drawn", part.show.get("as", part.measure))](axis, runs, part.name, part)
        axis.set_title(part.title, fontsize="medium")
        axis.grid(axis="y", color="0.9", linewidth=0.6)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize="x-small", frameon=False)
    figure.suptitle(f"{table.title} (scale {scale})")
    return figure


def line(axis: Axes, places: Sequence[float], means: Sequence[Mean], label: str, style: int, dash: int = 0) -> None:
    """Means with their intervals over places of the horizontal axis."""
    axis.errorbar(
        places,
        [found.value for found in means],
        yerr=[
            [max(0.0, found.value - found.interval[0]) for found in means],
            [max(0.0, found.interval[1] - found.value) for found in means],
        ],
        color=COLOURS[style % len(COLOURS)],
        marker=MARKERS[max(style, dash) % len(MARKERS)],
        linestyle=DASHES[dash % len(DASHES)],
        markersize=4,
        linewidth=1.3,
        elinewidth=0.8,
        capsize=2,
        label=label,
    )


def depth(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy by depth, a line for each arm and depth of sleep; depths at equal distances."""
    rate = part.show.get("rate", "accuracy")
    depths = part.show.get("columns") or values_of(runs, place, "depth")
    arms = by_arm(runs)
    for style, seeds in enumerate(arms.values()):
        for dash, visit in enumerate(visits_of(seeds, place)):
            found = [(i, mean(seeds, place, rate, depth=d, **visit)) for i, d in enumerate(depths)]
            points = [(i, m) for i, m in found if m is not None]
            name = f"{seeds[0]['label']}{visit_name(visit, seeds, place)}"
            line(axis, [i for i, _ in points], [m for _, m in points], name, style if len(arms) > 1 else dash, dash)
    for name in baselines_of(part) if rate == "accuracy" else ():
        guesses = {i: mean(runs[:1], place, name=name, depth=d) for i, d in enumerate(depths)}
        values = {i: guess.value for i, guess in guesses.items() if guess is not None}
        if values:
            axis.plot(list(values), list(values.values()), color=GREY, linestyle=(0, (1, 2)), linewidth=1.0, label=name)
    axis.set_xticks(range(len(depths)), [f"{d}" for d in depths])
    axis.set_xlabel(part.show.get("column", "k ="))
    axis.set_ylabel(f"{rate}, 95 % interval")
    axis.set_ylim(-0.03, 1.03)


def deepsleep(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy at one depth by number of windows, a line for each way to share out the passes."""
    asked = part.show.get("picture", 4)
    windows = values_of(runs, place, "windows")
    for seeds in by_arm(runs).values():
        for style, visit in enumerate(distinct(seeds, place, ("passes", "rounds"))):
            found = [
                (i, mean(seeds, place, windows=w, depth=asked, order="oldest first", **visit))
                for i, w in enumerate(windows)
            ]
            points = [(i, m) for i, m in found if m is not None]
            name = f"N = {visit['passes']}, R = {visit['rounds']}"
            line(axis, [i for i, _ in points], [m for _, m in points], name, style, visit["rounds"] - 1)
    axis.set_xticks(range(len(windows)), [f"{w}" for w in windows])
    axis.set_xlabel("windows")
    axis.set_ylabel(f"accuracy at k = {asked}, 95 % interval")
    axis.set_ylim(-0.03, 1.03)


def retention(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Recall by later sleeps."""
    columns = part.show.get("columns") or values_of(runs, place, "later")
    style = 0
    for seeds in by_arm(runs).values():
        for visit in distinct(seeds, place, ("form", "passes"), restored=False):
            found = [(i, mean(seeds, place, later=m, restored=False, **visit)) for i, m in enumerate(columns)]
            points = [(i, m) for i, m in found if m is not None]
            name = f"{seeds[0]['label']}: {visit['form']}, N = {visit['passes']}"
            line(axis, [i for i, _ in points], [m for _, m in points], name, style, int(visit["form"] == "facts"))
            style += 1
    axis.set_xticks(range(len(columns)), [f"{m}" for m in columns])
    axis.set_xlabel("later sleeps")
    axis.set_ylabel("recall, 95 % interval")
    axis.set_ylim(-0.03, 1.03)


def flops(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy at one depth against what reading a token of the context costs, sleep included."""
    asked = part.show["picture"]
    for style, seeds in enumerate(by_arm(runs).values()):
        points = []
        for n in values_of(seeds, place, "passes"):
            found = mean(seeds, place, passes=n, depth=asked)
            if found is not None and f"{n}" in seeds[0]["flops_per_token"]:
                points.append((seeds[0]["flops_per_token"][f"{n}"] / 1e6, found))
        line(axis, [x for x, _ in points], [m for _, m in points], seeds[0]["label"], style)
    axis.set_xscale("log")
    axis.set_xlabel("MFLOPs a context token")
    axis.set_ylabel(f"accuracy at k = {asked}, 95 % interval")
    axis.set_ylim(-0.03, 1.03)


def auto(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Accuracy at one depth against the tokens read, fixed numbers of passes beside the one that is found."""
    asked = part.show["picture"]
    for seeds in by_arm(runs).values():
        for style, visit in enumerate(distinct(seeds, place, ("passes", "patience"))):
            cost, found = (mean(seeds, place, key, depth=asked, **visit) for key in ("cost", "accuracy"))
            if cost is not None and found is not None:
                patience = f", patience {visit['patience']}" if visit["patience"] else ""
                line(axis, [cost.value], [found], f"N = {visit['passes']}{patience}", style)
    axis.set_xlabel("tokens read / tokens of the window")
    axis.set_ylabel(f"accuracy at k = {asked}, 95 % interval")
    axis.set_ylim(-0.03, 1.03)


def writes(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Change of S by pass, a line for each layer."""
    style = 0
    for arm, seeds in by_arm(runs).items():
        for layer in values_of(seeds, place, "layer"):
            found = [
                (n, mean(seeds, place, "change", layer=layer, **{"pass": n})) for n in values_of(seeds, place, "pass")
            ]
            axis.plot(
                [n for n, _ in found],
                [m.value if m else float("nan") for _, m in found],
                color=COLOURS[style % len(COLOURS)],
                marker=MARKERS[style % len(MARKERS)],
                label=f"{arm}, layer {layer}",
            )
            style += 1
    axis.set_xlabel("pass")
    axis.set_ylabel("change of S")


def saturation(axis: Axes, runs: Sequence[Run], place: str, part: Part) -> None:
    """Recall against the gauge, a point for each number of facts."""
    for seeds in by_arm(runs).values():
        for style, n in enumerate(values_of(seeds, place, "passes")):
            points = []
            for facts in values_of(seeds, place, "facts", form="facts"):
                wanted = {"form": "facts", "restored": False, "passes": n, "facts": facts}
                gauge, recall = (mean(seeds, place, key, **wanted) for key in ("saturation", "accuracy"))
                if gauge is not None and recall is not None:
                    points.append((gauge.value, recall))
            line(axis, [x for x, _ in points], [m for _, m in points], f"N = {n}", style)
    axis.set_xlabel("saturation of S")
    axis.set_ylabel("recall of the first facts, 95 % interval")
    axis.set_ylim(-0.03, 1.03)


PANELS: dict[str, Panel] = {
    "auto": auto,
    "deepsleep": deepsleep,
    "depth": depth,
    "flops": flops,
    "retention": retention,
    "saturation": saturation,
    "writes": writes,
}
