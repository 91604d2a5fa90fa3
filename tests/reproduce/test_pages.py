"""Documents as Markdown and as pictures: a small one written by hand, and one with every measure."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgb
from matplotlib.container import ErrorbarContainer

from agentsleep.evals.plots import GREY
from agentsleep.reproduce import summary
from agentsleep.reproduce.looks import Line, lines_of, looks_of
from agentsleep.reproduce.markdown import cell, grid, headlines, render
from agentsleep.reproduce.pictures import draw
from agentsleep.reproduce.plan import Part, Table, load_table
from agentsleep.reproduce.summary import Mean

PNG = b"\x89PNG\r\n\x1a\n"
MACHINE = {"processor": "A processor", "torch": "2.0", "transformers": "5.0", "python": "3.11"}


def run(arm: str, seed: int, rows: list[dict[str, Any]], scale: str = "small") -> dict[str, Any]:
    return {
        "arm": f"hops/{arm}",
        "label": arm.upper(),
        "kind": "sleep" if arm == "a" else "baseline",
        "scale": scale,
        "seed": seed,
        "parameters": 12345,
        "steps": 1000 * (1 + seed),
        "minutes": 20.0,
        "training_flops": 3e12,
        "flops_per_token": {"1": 500_000, "2": 1_000_000, "4": 2_000_000, "8": 4_000_000},
        "machine": MACHINE,
        "config": {"threads": 1, "device": "cpu", "judge": [1, 1]},
        "rows": [{"part": "p", **row} for row in rows],
    }


def rows(passes: int, *accuracies: float) -> list[dict[str, Any]]:
    shared = {"windows": 1, "form": "plain", "passes": passes, "rounds": 1, "questions": 100}
    return [{**shared, "depth": depth, "accuracy": a} for depth, a in enumerate(accuracies, 1)]


CHANCE = [{"windows": 1, "form": "plain", "name": "chance", "depth": depth, "accuracy": 0.25} for depth in (1, 2)]
PART = Part(name="p", title="A part", measure="depth", arms=("hops/a", "hops/b", "hops/c"), show={"columns": [1, 2, 3]})
TABLE = Table(name="toy", title="A table", asks="What?", parts=(PART,))
DOCUMENT = {
    "runs": [
        run("a", seed, [*rows(1, one, 0.5), *rows(2, 1.0, 1.0), *CHANCE]) for seed, one in enumerate((0.9, 0.92, 0.94))
    ]
    + [run("b", 0, [*rows(1, 0.75), *CHANCE])]
}


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """The document written by hand is of no plan; a run says itself whether an earlier one made it."""
    monkeypatch.setattr(summary, "is_current", lambda table, run: not run.get("earlier"))


@pytest.mark.usefixtures("by_hand")
def test_means_intervals_and_seeds_by_hand() -> None:
    lines = render(TABLE, DOCUMENT).splitlines()
    assert lines[:9] == ["## A table", "", "What?", "", "### A part", "",
        "| model | k = 1 | k = 2 | k = 3 | seeds |", "| --- | --: | --: | --: | --: |",
        "| A: N = 1 | 0.920<br><sub>0.870–0.970</sub> | 0.500<br><sub>0.500–0.500</sub> |  | 3 |"]  # fmt: skip
    assert lines[9:13] == [
        "| A: N = 2 | 1.000<br><sub>1.000–1.000</sub> | 1.000<br><sub>1.000–1.000</sub> |  | 3 |",
        "| B | 0.750<br><sub>0.657–0.825</sub> |  |  | 1 |",  # Wilson: 75 of 100
        "| chance | 0.250 | 0.250 |  |  |",
        "",
    ]
    assert "| A | `hops/a` | 12,345 | 2,000 | 20.0 | 3.0 | 0.50 | 2.00 |" in lines
    assert "| B | `hops/b` | 12,345 | 1,000 | 20.0 | 3.0 | 0.50 | 2.00 |" in lines
    assert (
        "Scale small; A processor, device cpu, 1 thread a run; torch 2.0, transformers 5.0, Python 3.11." in lines[-3]
    )
    assert lines[-1] == "`agentsleep reproduce toy --resume` measures what is missing."
    assert not render(TABLE, DOCUMENT, heading=False).startswith("## ")


@pytest.mark.usefixtures("by_hand")
def test_parts_without_runs_and_runs_without_parts_are_left_out() -> None:
    other = Part(name="q", title="Not yet", measure="depth", arms=("hops/none",))
    document = {"runs": [*DOCUMENT["runs"], run("gone", 0, rows(1, 0.5))]}
    page = render(Table(name="toy", title="", asks="", parts=(PART, other)), document)
    assert "Not yet" not in page
    assert "GONE" not in page


@pytest.mark.usefixtures("by_hand")
def test_scales_are_told_apart() -> None:
    document = {"runs": [run("a", 0, rows(1, 0.5), "paper"), run("a", 0, rows(1, 0.9))]}
    page = render(TABLE, document)
    assert page.count("### A part") == 2
    assert page.index("Scale paper") < page.index("Scale small")
    assert page.index("| A | 0.500<br>") < page.index("| A | 0.900<br>")


@pytest.mark.usefixtures("by_hand")
def test_a_headline_sets_the_sleep_beside_the_best_baseline() -> None:
    line = {"what": "two hops", "arm": "hops/a", "against": ["hops/b", "hops/c", "hops/a"], "at": {"depth": 1},
            "sleep": {"passes": 2}}  # fmt: skip
    part = Part(name="p", title="", measure="depth", arms=PART.arms, show={"headline": [line, {**line, "arm": "x"}]})
    table = Table(name="toy", title="", asks="", parts=(part,))
    best = "0.920<br><sub>0.870–0.970</sub>"
    assert list(headlines(table, DOCUMENT)) == [("two hops", "1.000<br><sub>1.000–1.000</sub>", best, "3, 3")]


def earlier(made: dict[str, Any]) -> dict[str, Any]:
    return {**made, "earlier": True}


@pytest.mark.usefixtures("by_hand")
def test_runs_of_an_earlier_plan_are_marked_where_there_are_no_others() -> None:
    document = {
        "runs": [earlier(run("a", 0, rows(1, 0.5))), run("a", 1, rows(1, 0.9)), earlier(run("b", 0, rows(1, 0.7)))]
    }
    page = render(TABLE, document)
    lines = [line for line in page.splitlines() if line.startswith(("| A", "| B"))]
    assert [line.split("<br>")[0] for line in lines[:2]] == ["| A | 0.900", "| B † | 0.700"]
    assert lines[0].endswith(" 1 |")  # the earlier seed is not averaged with it
    assert lines[2].startswith("| A | `hops/a` | 12,345 | 2,000 |")
    assert page.splitlines()[-3] == "† Trained or measured by an earlier plan; it counts as missing."
    (axis,) = draw(TABLE, document).axes
    labels = [c.get_label() for c in axis.containers if isinstance(c, ErrorbarContainer)]
    assert labels == ["A", "B †"]
    assert "†" not in render(TABLE, {"runs": document["runs"][:2]})
    assert "### A part †\n" in render(TABLE, {"runs": document["runs"][::2]})
    assert "### A part\n" in page


@pytest.mark.usefixtures("by_hand")
def test_a_headline_marks_what_an_earlier_plan_has_made() -> None:
    line = {"what": "a hop", "arm": "hops/a", "against": ["hops/b", "hops/c"], "at": {"depth": 1}, "sleep": {}}
    table = Table(name="toy", title="", asks="", parts=(Part(name="p", title="", measure="depth", arms=PART.arms,
        show={"headline": [line]}),))  # fmt: skip
    for early, marks in (("b", (False, True)), ("a", (True, False)), ("c", (False, False))):
        runs = [run("a", 0, rows(1, 0.9)), run("b", 0, rows(1, 0.7)), run("c", 0, rows(1, 0.1))]
        runs = [earlier(one) if one["arm"] == f"hops/{early}" else one for one in runs]
        ((_, sleep, opponent, _),) = headlines(table, {"runs": runs})
        assert (sleep.endswith("</sub> †"), opponent.endswith("</sub> †")) == marks
        assert opponent.startswith("0.700")
    ((_, _, none, seeds),) = headlines(table, {"runs": [run("a", 0, rows(1, 0.9))]})
    assert (none, seeds) == ("*not measured yet*", "1, 0")


def test_cells_and_grids() -> None:
    assert cell(None) == ""
    assert cell(Mean(0.12345, (0.0, 0.5), 1)) == "0.123<br><sub>0.000–0.500</sub>"
    assert grid(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --: |\n| 1 | 2 |"


@pytest.mark.usefixtures("by_hand")
def test_a_picture_of_the_same() -> None:
    figure = draw(TABLE, DOCUMENT)
    (axis,) = figure.axes
    lines = {c.get_label(): c for c in axis.containers if isinstance(c, ErrorbarContainer)}
    assert list(lines) == ["A: N = 1", "A: N = 2", "B"]
    assert list(lines["A: N = 1"].lines[0].get_ydata()) == pytest.approx([0.92, 0.5])
    (bars,) = lines["A: N = 1"].lines[2]
    assert sorted(y for _, y in bars.get_segments()[0]) == pytest.approx([0.870313, 0.969687], abs=1e-6)
    assert axis.get_title(loc="left") == "A part"
    (chance,) = [drawn for drawn in axis.get_lines() if drawn.get_label() == "chance"]
    assert (list(chance.get_xdata()), list(chance.get_ydata())) == ([0, 1], [0.25, 0.25])
    assert len({line.lines[0].get_color() for line in lines.values()}) == 3


@pytest.mark.usefixtures("by_hand")
def test_a_picture_shows_a_baseline_at_the_depth_of_its_training_alone() -> None:
    for judge, drawn in (([2, 1], ["B: N = 2"]), ([4, 1], ["B: N = 1", "B: N = 2"])):  # 4 was not measured
        found = run("b", 0, [*rows(1, 0.75), *rows(2, 0.5)])
        found["config"]["judge"] = judge
        (axis,) = draw(TABLE, {"runs": [found]}).axes
        assert [c.get_label() for c in axis.containers if isinstance(c, ErrorbarContainer)] == drawn


@pytest.mark.usefixtures("by_hand")
def test_a_picture_by_passes() -> None:
    part = Part(name="p", title="", measure="depth", arms=PART.arms, show={"drawn": "passes", "picture": 1})
    (axis,) = draw(Table(name="toy", title="", asks="", parts=(part,)), DOCUMENT).axes
    lines = {c.get_label(): c.lines[0] for c in axis.containers if isinstance(c, ErrorbarContainer)}
    assert {name: list(line.get_ydata()) for name, line in lines.items()} == {
        "A": pytest.approx([0.92, 1.0]),
        "B": [0.75],  # it was measured at one pass alone
    }
    assert [tick.get_text() for tick in axis.get_xticklabels()] == ["1", "2"]


def test_looks() -> None:
    def line(arm: str, kind: str, **visit: Any) -> Line:
        return Line([{"arm": arm, "kind": kind}], visit)

    sleeps = [line("a", "sleep", passes=n, rounds=r, form=form) for n in (1, 4) for r in (1, 2) for form in "xy"]
    others = [line("b", "baseline"), line("c", "baseline"), line("d", "floor"), line("e", "floor")]
    looks = looks_of([*sleeps, *others, line("f", "ceiling")])
    assert len(set(looks)) == 13
    by_visit = {tuple(one.visit.values()): look for one, look in zip(sleeps, looks, strict=False)}
    assert by_visit[1, 1, "x"].color == by_visit[1, 1, "y"].color != by_visit[4, 1, "x"].color
    assert sum(to_rgb(by_visit[4, 2, "x"].color)) < sum(to_rgb(by_visit[1, 2, "x"].color))  # darker
    assert looks[10].color == looks[11].color == GREY


def test_lines_of_an_arm_stand_rounds_by_rounds() -> None:
    visits = [{"passes": n, "rounds": r} for n in (1, 2) for r in (1, 2)]
    assert [tuple(one.visit.values()) for one in lines_of([{"kind": "sleep"}], visits)] == [
        (1, 1),
        (2, 1),
        (1, 2),
        (2, 2),
    ]
    assert lines_of([{"kind": "baseline"}], []) == []


@pytest.fixture
def every(measured: Path, plans: Path) -> tuple[Table, dict[str, Any]]:
    return load_table("every"), json.loads((measured / "every.json").read_text())


def test_every_measure_has_a_table(every) -> None:
    page = render(*every)
    for part in every[0].parts:
        assert page.count(f"### {part.title}\n") == 1
    for head in (
        "| model | k = 1 | k = 3 | seeds |",
        "| (N, R) | order | passes in all | CPU time | k = 1 | k = 2 |",
        "| sleep | passes used | tokens read / window | k = 1 | k = 2 | seeds |",
        "| change of S | pass 1 | pass 2 | pass 3 | seeds |",
        "| model: what later windows hold | 0 later | 1 later | seeds |",
        "| sleep | facts told | saturation | recall of the first | seeds |",
    ):
        assert page.count(head) == 1 + head.startswith("| (N, R)"), head  # one for each number of windows
    assert "| `hops/random`, layer 1 | 1.000 | " in page
    assert "sleep: facts, N = 2, saved and restored |  | " in page  # it was restored after one later sleep alone
    assert "| N = 2 | 2.00 | 2.00 | " in page
    assert "2 windows (`hops/random`, 1 seed" in page
    assert "nan" not in page.lower().replace("hops/", "")


def test_ways_to_share_out_passes_cost_multiples_of_one(every) -> None:
    table, document = every
    for run in document["runs"]:
        for row in run["rows"]:
            if "cpu_seconds" in row:
                row["cpu_seconds"] = 0.25 * row["passes"] * row["rounds"] * row["windows"] + 0.125 * (row["rounds"] - 1)
    page = render(table, document)
    assert page.count("| (1, 1) |  | 1 | × 1.0 |") == 2  # for one window and for two
    assert page.count("| (2, 1) |  | 2 | × 2.0 |") == 2
    assert page.count("| (1, 2) | oldest first | 2 | × 2.5 |") == 1
    for run in document["runs"]:
        for row in run["rows"]:
            row.pop("cpu_seconds", None)  # as in documents of before
    assert "| (2, 1) |  | 2 |  |" in render(table, document)


def test_every_measure_has_a_panel(every) -> None:
    table, document = every
    figure = draw(table, document)
    assert [axis.get_title(loc="left") for axis in figure.axes] == [part.title for part in table.parts]
    for axis in figure.axes:
        assert axis.get_legend() is not None
        assert axis.lines, axis.get_title(loc="left")
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=40)
    assert target.getvalue().startswith(PNG)


def test_a_panel_for_each_part_that_was_measured(every) -> None:
    table, document = every
    runs = [run for run in document["runs"] if run["arm"].startswith("facts/")]
    assert [axis.get_title(loc="left") for axis in draw(table, {"runs": runs}).axes] == ["Retention", "Saturation"]
