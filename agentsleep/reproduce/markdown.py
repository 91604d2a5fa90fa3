"""The tables of a document as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from agentsleep.reproduce.plan import Part, Table
from agentsleep.reproduce.summary import EARLIER, Mean, Run, by_arm, distinct, mean, settled, values_of
from agentsleep.reproduce.visits import ORDERS

Render = Callable[[Sequence[Run], str, Part], str]


def grid(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; numbers to the right, the first column to the left."""
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(found: Mean | None) -> str:
    """A mean with its interval below."""
    if found is None:
        return ""
    low, high = found.interval
    return f"{found.value:.3f}<br><sub>{low:.3f}–{high:.3f}</sub>"


def render(table: Table, document: Mapping[str, Any], *, heading: bool = True) -> str:
    """A table's page: what it asks, every part, what the runs cost, and on what they ran."""
    blocks = [f"## {table.title}", table.asks] if heading else []
    every = settled(table, document["runs"])
    for scale in dict.fromkeys(run["scale"] for run in every):
        runs = [run for run in every if run["scale"] == scale]
        for part in table.parts:
            measured = [run for name in part.arms for run in by_arm(runs).get(name, [])]
            if measured:
                blocks += [
                    f"### {part.title}{_mark(measured)}",
                    RENDERS[part.show.get("as", part.measure)](measured, part.name, part),
                ]
        blocks += [_costs(table, runs), _foot(runs, scale)]
    if any(_mark([run]) for run in every):
        blocks.append(f"{EARLIER} Trained or measured by an earlier plan; it counts as missing.")
    blocks.append(f"`agentsleep reproduce {table.name} --resume` measures what is missing.")
    return "\n\n".join(blocks) + "\n"


def headlines(table: Table, document: Mapping[str, Any]) -> Iterable[tuple[str, str, str, str]]:
    """For every part that names a ``headline``: what is asked, the best sleep, the best baseline, the seeds of both.

    A headline has ``what``, ``arm``, ``against`` (arms; the best of them counts) and ``at``, the values that its rows
    have; ``passes`` and ``rounds`` are those of the arm alone, a baseline is taken at N = 1. Where an earlier plan made
    one of them, EARLIER stands behind it.
    """
    arms = by_arm(run for run in settled(table, document["runs"]) if run["scale"] == "small")
    for part in table.parts:
        for line in part.show.get("headline", []):
            seeds = arms.get(line["arm"], [])
            rate, at = part.show.get("rate", "accuracy"), line["at"]
            found = mean(seeds, part.name, rate, **at, **line.get("sleep", {}))
            against = {name: mean(arms.get(name, []), part.name, rate, **at, passes=1) for name in line["against"]}
            others = [(other, name) for name, other in against.items() if other is not None]
            best, name = max(others, key=lambda other: other[0].value, default=(None, ""))
            if found is not None:
                sleep = f"{cell(found)}{_mark(seeds)}"
                opponent = f"{cell(best)}{_mark(arms[name])}" if best else "*not measured yet*"
                yield line["what"], sleep, opponent, f"{found.seeds}, {best.seeds if best else 0}"


def _mark(runs: Sequence[Run]) -> str:
    """EARLIER, where an earlier plan has made all of them."""
    return f" {EARLIER}" if all(run["label"].endswith(EARLIER) for run in runs) else ""


def depth(runs: Sequence[Run], place: str, part: Part) -> str:
    """Accuracy by depth, one row for each arm and depth of sleep."""
    rate = part.show.get("rate", "accuracy")
    columns = part.show.get("columns") or values_of(runs, place, "depth")
    rows = []
    for seeds in by_arm(runs).values():
        for visit in visits_of(seeds, place):
            cells = [cell(mean(seeds, place, rate, depth=d, **visit)) for d in columns]
            rows.append([f"{seeds[0]['label']}{visit_name(visit, seeds, place)}", *cells, f"{len(seeds)}"])
    for name in baselines_of(part):
        cells = [cell_of_baseline(runs, place, name, d) for d in columns]
        rows.append([name, *cells, ""])
    return grid(
        [part.show.get("rows", "model"), *(f"{part.show.get('column', 'k =')} {d}" for d in columns), "seeds"], rows
    )


def baselines_of(part: Part) -> Sequence[str]:
    """The baselines that a part shows beside its arms."""
    shown: Sequence[str] = part.show.get("baselines", ["chance"])
    return shown


def cell_of_baseline(runs: Sequence[Run], place: str, name: str, depth: int) -> str:
    """A baseline that every run has a row of; the same for all, so without interval."""
    found = mean(runs[:1], place, name=name, depth=depth)
    return f"{found.value:.3f}" if found else ""


def visits_of(seeds: Sequence[Run], place: str) -> list[dict[str, Any]]:
    """The combinations of windows, form, passes and rounds that were measured."""
    return [visit for visit in distinct(seeds, place, ("windows", "form", "passes", "rounds")) if "passes" in visit]


def visit_name(visit: Mapping[str, Any], seeds: Sequence[Run], place: str) -> str:
    """What of a visit is not the same in all rows of its arm."""
    words = {"windows": "windows {}", "form": "{}", "passes": "N = {}", "rounds": "R = {}"}
    several = [key for key in visit if len(values_of(seeds, place, key)) > 1]
    named = ", ".join(words[key].format(visit[key]) for key in several)
    return f": {named}" if named else ""


def _costs(table: Table, runs: Sequence[Run]) -> str:
    rows = []
    for arm, seeds in by_arm(runs).items():
        if arm not in table.arms():
            continue
        per_token = seeds[0]["flops_per_token"]
        rows.append(
            [
                seeds[0]["label"],
                f"`{arm}`",
                f"{seeds[0]['parameters']:,}",
                f"{fmean(run['steps'] for run in seeds):,.0f}",
                f"{fmean(run['minutes'] for run in seeds):.1f}",
                f"{fmean(run['training_flops'] for run in seeds) / 1e12:,.1f}",
                f"{per_token['1'] / 1e6:.2f}",
                f"{per_token['4'] / 1e6:.2f}",
            ]
        )
    head = ["model", "arm", "parameters", "steps", "minutes", "training TFLOPs", "MFLOPs a token, N = 1", "N = 4"]
    return "What the runs cost:\n\n" + grid(head, rows)


def _foot(runs: Sequence[Run], scale: str) -> str:
    on = runs[-1]["machine"]
    threads = {run["config"]["threads"] for run in runs}
    device = {run["config"]["device"] for run in runs}
    return (
        f"Scale {scale}; {on['processor']}, device {', '.join(sorted(device))}, "
        f"{', '.join(map(str, sorted(threads)))} thread a run; torch {on['torch']}, transformers {on['transformers']}, "
        f"Python {on['python']}. Below each rate its 95 % interval: over seeds (Student's t), over questions (Wilson) "
        "where there is one seed. Minutes are CPU time."
    )


def deepsleep(runs: Sequence[Run], place: str, part: Part) -> str:
    """For every number of windows: accuracy by depth for each way to share out the passes."""
    blocks = []
    for arm, seeds in by_arm(runs).items():
        for windows in values_of(seeds, place, "windows"):
            columns = part.show.get("columns") or values_of(seeds, place, "depth", windows=windows)
            rows = []
            for visit in distinct(seeds, place, ("passes", "rounds", "order"), windows=windows):
                cells = [cell(mean(seeds, place, windows=windows, depth=d, **visit)) for d in columns]
                n, r = visit["passes"], visit["rounds"]
                time = _times(seeds, place, {**visit, "windows": windows, "depth": columns[0]})
                rows.append([f"({n}, {r})", visit["order"] if r > 1 else "", f"{n * r}", time, *cells])
            head = ["(N, R)", "order", "passes in all", "CPU time", *(f"k = {d}" for d in columns)]
            blocks.append(f"{windows} window{'s' * (windows > 1)} (`{arm}`, {len(seeds)} seeds):\n\n{grid(head, rows)}")
    return "\n\n".join(blocks)


def _times(seeds: Sequence[Run], place: str, row: Mapping[str, Any]) -> str:
    """The time of a row as a multiple of that of a single pass, which was measured in turns with it."""
    single = {**row, "passes": 1, "rounds": 1, "order": ORDERS[0]}
    took, unit = (mean(seeds, place, "cpu_seconds", **of) for of in (row, single))
    return f"× {took.value / unit.value:.1f}" if took and unit and unit.value else ""


def retention(runs: Sequence[Run], place: str, part: Part) -> str:
    """Recall by later sleeps: what those windows hold, N, and whether the state was saved and restored."""
    columns = part.show.get("columns") or values_of(runs, place, "later")
    rows = []
    for seeds in by_arm(runs).values():
        for visit in distinct(seeds, place, ("form", "passes", "restored")):
            cells = [cell(mean(seeds, place, later=m, **visit)) for m in columns]
            restored = ", saved and restored" if visit["restored"] else ""
            name = f"{seeds[0]['label']}: {visit['form']}, N = {visit['passes']}{restored}"
            rows.append([name, *cells, f"{len(seeds)}"])
    return grid(["model: what later windows hold", *(f"{m} later" for m in columns), "seeds"], rows)


def auto(runs: Sequence[Run], place: str, part: Part) -> str:
    """Accuracy and cost by number of passes, fixed or found."""
    columns = part.show.get("columns") or values_of(runs, place, "depth")
    rows = []
    for seeds in by_arm(runs).values():
        for visit in distinct(seeds, place, ("passes", "patience")):
            cells = [cell(mean(seeds, place, depth=d, **visit)) for d in columns]
            used, cost = (mean(seeds, place, key, depth=columns[0], **visit) for key in ("used", "cost"))
            patience = f", patience {visit['patience']}" if visit["patience"] else ""
            shown = [f"{found.value:.2f}" if found else "" for found in (used, cost)]
            rows.append([f"N = {visit['passes']}{patience}", *shown, *cells, f"{len(seeds)}"])
    return grid(["sleep", "passes used", "tokens read / window", *(f"k = {d}" for d in columns), "seeds"], rows)


def writes(runs: Sequence[Run], place: str, part: Part) -> str:
    """Change of S by pass, a row for each layer."""
    numbers = values_of(runs, place, "pass")
    rows = []
    for arm, seeds in by_arm(runs).items():
        for layer in values_of(seeds, place, "layer"):
            found = [mean(seeds, place, "change", layer=layer, **{"pass": number}) for number in numbers]
            rows.append([f"`{arm}`, layer {layer}", *(f"{m.value:.3f}" if m else "" for m in found), f"{len(seeds)}"])
    return grid(["change of S", *(f"pass {number}" for number in numbers), "seeds"], rows)


def saturation(runs: Sequence[Run], place: str, part: Part) -> str:
    """The gauge beside the recall, by number of facts told."""
    rows = []
    for seeds in by_arm(runs).values():
        for visit in distinct(seeds, place, ("passes", "facts"), form="facts", restored=False):
            gauge = mean(seeds, place, "saturation", form="facts", restored=False, **visit)
            recall = mean(seeds, place, form="facts", restored=False, **visit)
            shown = f"{gauge.value:.3f}" if gauge else ""
            rows.append([f"N = {visit['passes']}", f"{visit['facts']}", shown, cell(recall), f"{len(seeds)}"])
    return grid(["sleep", "facts told", "saturation", "recall of the first", "seeds"], rows)


RENDERS: dict[str, Render] = {
    "auto": auto,
    "deepsleep": deepsleep,
    "depth": depth,
    "retention": retention,
    "saturation": saturation,
    "writes": writes,
}
