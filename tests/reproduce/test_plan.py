"""The plans that come with the package: every run of theirs would go to its end, and every table can be shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agentsleep.errors import SettingsError
from agentsleep.reproduce.keeping import EPISODES
from agentsleep.reproduce.markdown import RENDERS
from agentsleep.reproduce.measures import MEASURES
from agentsleep.reproduce.pictures import PANELS
from agentsleep.reproduce.plan import SCALES, is_current, load_arm, load_table, runs_of, table_names
from agentsleep.reproduce.visits import ORDERS
from agentsleep.tasks.base import Difficulty
from agentsleep.training.runs import check, make_task
from tests.reproduce.toys import change

ARMS = sorted({name for table in table_names() for name in load_table(table).arms()})
PARTS = [(table, part) for table in table_names() for part in load_table(table).parts]
parts = pytest.mark.parametrize(("table", "part"), [pytest.param(t, p, id=f"{t}-{p.name}") for t, p in PARTS])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", ARMS)
def test_an_arm_would_run_to_its_end(name, scale) -> None:
    arm = load_arm(name, scale)
    config = arm.config(7)
    assert config.seed == 7
    check(make_task(arm.task, config.task), config)
    assert arm.kind in ("sleep", "baseline", "floor", "ceiling")
    assert arm.label
    for depths in (arm.passes, arm.rounds):
        assert list(depths) == sorted(set(depths))
        assert 1 <= min(depths) <= max(depths) <= 8
    if config.eviction == "never":
        assert (arm.passes, arm.rounds) == ((1,), (1,))
    assert arm.seeds is None or arm.seeds >= 1


@pytest.mark.parametrize("name", ARMS)
def test_what_the_scales_promise(name) -> None:
    small, paper = (load_arm(name, scale).config(0) for scale in ("small", "paper"))
    assert small.max_steps <= 17_000
    assert small.max_minutes >= 3000  # the steps end it, on any machine
    assert (small.device, small.bf16, small.threads) == ("cpu", False, 1)
    assert (paper.device, paper.bf16, paper.recompute) == ("cuda", True, True)
    assert paper.max_steps == 100_000
    assert len(paper.model["pattern"]) > len(small.model["pattern"])
    assert (small.eviction, small.judge, small.visits) == (paper.eviction, paper.judge, paper.visits)


@pytest.mark.parametrize("name", [name for name in ARMS if name.split("/")[1] in ("n1", "n1-low", "n1-high", "full")])
def test_an_opponent_is_trained_as_long_as_what_it_is_held_against(name) -> None:
    """At N = 1 a step costs less, so the opponents make more of them: as many passes over tokens in all."""
    family = name.split("/")[0]

    def trained(arm: str) -> tuple[int, float]:
        config = load_arm(arm, "small").config(0)
        last = config.curriculum[-1]
        task = make_task(load_arm(arm, "small").task, config.task)
        difficulty = Difficulty(windows=last.windows[-1], depth=last.end_depth, form=last.form)
        batch = task.batch(np.random.default_rng(0), config.batch, difficulty)
        weights = np.array([visit.weight for visit in config.visits])
        tokens = [batch.tokens(visit.passes, visit.rounds) for visit in config.visits]
        return config.max_steps, config.max_steps * float(weights @ tokens) / weights.sum()

    steps, tokens = trained(name)
    for other in (arm for arm in ARMS if arm.startswith(f"{family}/") and load_arm(arm, "small").kind == "sleep"):
        assert steps >= trained(other)[0]
        assert tokens > 0.98 * trained(other)[1], other


@parts
def test_a_part_can_be_measured_and_shown(table, part) -> None:
    assert part.measure in MEASURES
    shown = part.show.get("as", part.measure)
    assert shown in RENDERS
    assert part.show.get("drawn", shown) in PANELS
    assert len(part.arms) == len(set(part.arms)) > 0
    assert part.title
    assert load_table(table).asks.endswith("?")
    for column in [*part.show.get("columns", []), *([part.show["picture"]] if "picture" in part.show else [])]:
        assert 1 <= column <= part.settings["depth"]


@pytest.mark.parametrize("scale", SCALES)
@parts
def test_the_episodes_of_a_part_exist(table, part, scale) -> None:
    """A setting of a measure that its task refuses would be found after hours of training."""
    settings = part.settings
    for name in part.arms:
        arm = load_arm(name, scale)
        changes = {"ask": "first"} if part.measure == "retention" else settings.get("task", {})
        task = make_task(arm.task, {**arm.config(0).task, **changes})
        most = 1 + max(settings["later"]) if part.measure == "retention" else settings["windows"] \
            if part.measure == "writes" else 1 if part.measure == "auto" else max(settings["windows"])  # fmt: skip
        for form in settings.get("forms", ["plain"]):
            most_asked = 1 if part.measure == "retention" else settings["depth"]
            depth = max(asked for asked in task.depths if asked <= most_asked)
            batch = task.batch(np.random.default_rng(0), 1, Difficulty(windows=most, depth=depth, form=form))
            assert len(batch.context) == most
            assert depth > most_asked - getattr(task, "stride", 1)  # the multiple that is nearest
    assert set(settings.get("orders", [])) <= set(ORDERS)
    assert settings.get("batches", 1) * EPISODES <= 1000


def test_names_are_told_apart() -> None:
    assert len(table_names()) == len(set(table_names())) > 5
    for name in table_names():
        table = load_table(name)
        assert table.name == name
        assert len({part.name for part in table.parts}) == len(table.parts)
        assert table.arms() == list(dict.fromkeys(table.arms()))


def test_what_is_not_there() -> None:
    with pytest.raises(SettingsError, match="no table 'bogus'; there are depo, "):
        load_table("bogus")
    with pytest.raises(SettingsError, match="no arm 'depo1/bogus'; the family depo1 has random, "):
        load_arm("depo1/bogus", "small")
    with pytest.raises(SettingsError, match="no arm 'depo1'"):
        load_arm("depo1", "small")
    with pytest.raises(SettingsError, match="no family of arms 'bogus'"):
        load_arm("bogus/random", "small")
    with pytest.raises(SettingsError, match="no scale 'huge'; there are small, paper"):
        load_arm("depo1/random", "huge")


def test_settings_of_an_arm_lie_over_those_of_the_scale_and_the_family(plans: Path) -> None:
    change(plans, "hops", 'label = "full"', 'label = "full"\npaper = { batch = 2, model = { pattern = "aaaa" } }')
    change(plans, "hops", "max_steps = 2\n", 'max_steps = 2\nmodel = { pattern = "asas", hidden_size = 32 }\n')
    small, paper, other = load_arm("hops/full", "small"), load_arm("hops/full", "paper"), load_arm("hops/n1", "paper")
    assert [arm.settings["model"]["pattern"] for arm in (small, paper, other)] == ["aa", "aaaa", "asas"]
    assert [arm.settings["model"]["hidden_size"] for arm in (small, paper, other)] == [16, 32, 32]
    assert [arm.settings["model"]["intermediate_size"] for arm in (small, paper, other)] == [16, 16, 16]
    assert [(arm.config(0).batch, arm.config(0).max_steps) for arm in (small, paper, other)] == [
        (4, 30),
        (2, 2),
        (4, 2),
    ]


def test_a_digest_tells_settings_apart(plans: Path) -> None:
    arm, table = load_arm("hops/n1", "small"), load_table("two")
    before, measures = arm.digest(0), table.digest(arm)
    assert (before, measures) == (load_arm("hops/n1", "small").digest(0), load_table("two").digest(arm))
    assert (
        len({before, arm.digest(1), load_arm("hops/n1", "paper").digest(0), load_arm("hops/full", "small").digest(0)})
        == 4
    )
    change(plans, "hops", 'label = "N = 1"', 'label = "another label"\npasses = [1, 2]')
    deeper = load_arm("hops/n1", "small")
    assert deeper.digest(0) == before  # it is trained in the same way
    assert table.digest(deeper) != measures  # and measured at other passes
    change(plans, "hops", "warmup = 5", "warmup = 6")
    assert load_arm("hops/n1", "small").digest(0) != before
    assert load_table("two").digest(arm) == measures
    change(
        plans,
        "tables",
        'arms = ["hops/random", "hops/n1"]\nwindows = [1]',
        'arms = ["hops/random", "hops/n1"]\nwindows = [2]',
    )
    assert load_table("two").digest(arm) != measures


def test_how_a_part_is_shown_changes_no_digest(plans: Path) -> None:
    before = load_table("every")
    change(plans, "tables", "show = { columns = [1, 3] }", 'show = { columns = [2], column = "hops" }')
    change(plans, "tables", 'title = "Depths"', 'title = "Other words"')
    after = load_table("every")
    assert after.parts[0].show == {"columns": [2], "column": "hops"}
    assert [after.digest(load_arm(name, "small")) for name in after.arms()] == [
        before.digest(load_arm(name, "small")) for name in before.arms()
    ]


def test_a_digest_of_this_release() -> None:
    """By this value a run that was trained is known; it must not depend on the machine, nor on the order of a table."""
    arm = load_arm("lexicon/n1", "small")
    turned = type(arm)(
        name=arm.name, label="", task=arm.task, kind="sleep", settings=dict(reversed(list(arm.settings.items())))
    )
    assert turned.digest(0) == arm.digest(0)
    assert len(arm.digest(0)) == 16
    assert int(arm.digest(0), 16) >= 0


def test_runs_of_a_table(plans: Path) -> None:
    found = [(arm.name, seed) for arm, seed in runs_of(load_table("two"), "small", range(3))]
    assert found == [("hops/random", 0), ("hops/random", 1), ("hops/random", 2), ("hops/n1", 0), ("hops/n1", 1)]
    assert load_table("every").arms() == ["hops/full", "hops/random", "hops/reset", "facts/full", "facts/random"]
    assert [part.name for part in load_table("every").parts_of("facts/random")] == ["retention", "saturation"]


def test_whether_a_run_is_of_the_present_plan(plans: Path) -> None:
    arm, table = load_arm("hops/n1", "small"), load_table("two")
    run = {"arm": "hops/n1", "scale": "small", "seed": 1, "digest": arm.digest(1), "measures": table.digest(arm)}
    assert is_current(table, run)
    for other in ({"seed": 0}, {"scale": "paper"}, {"arm": "hops/random"}, {"arm": "hops/gone"}, {"measures": "0"}):
        assert not is_current(table, {**run, **other})
    change(plans, "hops", "warmup = 5", "warmup = 6")
    assert not is_current(table, run)
