"""Measures against what they are made of, read by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentsleep.auto import sleep_until
from agentsleep.gauge import written
from agentsleep.reproduce.inner import auto, single_questions, writes
from agentsleep.reproduce.keeping import retention
from agentsleep.reproduce.measures import depth, short
from agentsleep.reproduce.plan import Arm
from agentsleep.reproduce.subject import Subject, fresh
from agentsleep.reproduce.visits import EPISODES, ORDERS, deepsleep, slept_on
from agentsleep.sleep import deep_sleep, sleep
from agentsleep.state import FastWeights
from agentsleep.tasks.base import IGNORE, Batch, Difficulty, Window
from agentsleep.training.config import config_from
from agentsleep.training.episode import read_batch
from agentsleep.training.runs import make_task
from tests.tiny import assert_same_state, tiny

DEPO = {"nodes": 6, "max_depth": 4, "symbols": 8}
FACTS = {"facts": 3, "symbols": 4, "values": 4, "noise": 2, "ask": "any"}


def subject(task: str = "depo", passes: tuple[int, ...] = (1, 2), eviction: str = "window", **more: Any) -> Subject:
    """A model that knows nothing, but whose answers depend on everything that it read."""
    settings = {"task": DEPO if task == "depo" else FACTS, "eviction": eviction, "seed": 3}
    arm = Arm(name="toy/arm", label="", task=task, kind="sleep", settings=settings, passes=passes, **more)
    config = config_from({**settings, "visits": [{"passes": 1}], "judge": [1, 1]})
    made = make_task(task, config.task)
    return Subject(model=tiny("as"), arm=arm, config=config, task=made, folder=Path("nowhere"))


def episodes(of: Subject, windows: int, depth: int = 4) -> Batch:
    """The first batch that a measure draws."""
    return of.task.batch(fresh(of), EPISODES, Difficulty(windows=windows, depth=depth))


def test_episodes_are_the_same_for_every_measure_of_a_run_and_others_than_in_training() -> None:
    one = subject()
    assert one.seed == 1003
    assert fresh(one).integers(1 << 30) == fresh(one).integers(1 << 30)
    assert fresh(one).integers(1 << 30) != np.random.default_rng(3).integers(1 << 30)
    assert one.other_task({}) is one.task
    assert one.other_task({"nodes": 5}).window == 10


# ---------------------------------------------------------------------------------------------------------- depth


def test_depth_has_a_row_for_every_way_and_one_for_every_baseline() -> None:
    settings = {"windows": [1, 2], "depth": 2, "questions": 50}
    rows = depth(subject(rounds=(1, 2)), settings)
    asked = [(r["windows"], r["passes"], r["rounds"], r["depth"]) for r in rows if "passes" in r]
    assert asked == [(w, n, r, d) for w in (1, 2) for n in (1, 2) for r in (1, 2) for d in (1, 2)]
    assert {row["name"] for row in rows if "name" in row} == {"chance", "best-constant", "state-reset"}
    assert all("interval" not in row for row in rows)
    assert min(row["questions"] for row in rows if "questions" in row) >= 50
    assert json.loads(json.dumps(rows)) == rows
    assert {r["passes"] for r in depth(subject(), {**settings, "passes": [3]}) if "passes" in r} == {3}


def test_depth_counts_what_read_batch_counts() -> None:
    one = subject()
    rows = depth(one, {"windows": [2], "depth": 4, "questions": 1})
    hits = read_batch(one.model, episodes(one, 2), passes=2).hits()
    found = {r["depth"]: (r["accuracy"], r["questions"]) for r in rows if r.get("passes") == 2}
    assert found == {d: (round(right / asked, 5), asked) for d, (right, asked) in hits.items()}


def test_depth_of_what_is_never_evicted_is_read_once() -> None:
    rows = depth(subject(eviction="never", rounds=(1, 2)), {"windows": [1], "depth": 1, "questions": 10, "passes": [4]})
    assert [(r["passes"], r["rounds"]) for r in rows if "passes" in r] == [(1, 1)]


def test_short_rounds_rates_alone() -> None:
    assert short({"accuracy": 1 / 3, "interval": [0, 1], "questions": 7}) == {"accuracy": 0.33333, "questions": 7}


# ------------------------------------------------------------------------------------------------------ deepsleep


def test_n_passes_in_one_visit_are_the_light_sleep() -> None:
    one = subject()
    settings = {"windows": [3], "visits": [[1, 1], [4, 1]], "orders": list(ORDERS), "depth": 4, "batches": 1}
    rows = deepsleep(one, settings)
    for passes in (1, 4):
        hits = read_batch(one.model, episodes(one, 3), passes=passes).hits()
        found = {r["depth"]: (r["accuracy"], r["questions"]) for r in rows if r["passes"] == passes}
        assert found == {d: (round(right / asked, 5), asked) for d, (right, asked) in hits.items()}
    assert {row["order"] for row in rows} == {"oldest first"}
    assert all(row["cpu_seconds"] > 0 for row in rows)


def test_rounds_oldest_first_are_the_deep_sleep_of_training() -> None:
    one = subject()
    settings = {"windows": [3], "visits": [[2, 3]], "orders": list(ORDERS), "depth": 4, "batches": 1}
    rows = deepsleep(one, settings)
    assert list(dict.fromkeys(row["order"] for row in rows)) == list(ORDERS)
    hits = read_batch(one.model, episodes(one, 3), passes=2, rounds=3).hits()
    found = {r["depth"]: (r["accuracy"], r["questions"]) for r in rows if r["order"] == "oldest first"}
    assert found == {d: (round(right / asked, 5), asked) for d, (right, asked) in hits.items()}


def states(one: Subject, batch: Batch, rounds: int) -> dict[str, FastWeights]:
    with torch.inference_mode():
        return {order: slept_on(one.model, batch, 2, rounds, order, np.random.default_rng(0)) for order in ORDERS}


def test_with_one_window_all_orders_coincide() -> None:
    one = subject()
    found = states(one, episodes(one, 1), 3)
    for order in ORDERS:
        assert all(torch.equal(found[order][name], found["oldest first"][name]) for name in found[order])
    rows = deepsleep(one, {"windows": [1], "visits": [[1, 2]], "orders": list(ORDERS), "depth": 2, "batches": 1})
    assert {row["order"] for row in rows} == {"oldest first"}  # so it is measured once


def test_orders_are_what_they_are_called() -> None:
    one = subject()
    batch = episodes(one, 4)
    found = states(one, batch, 2)
    for order, places in (("oldest first", [0, 1, 2, 3]), ("newest first", [3, 2, 1, 0]),
                          ("shuffled", np.random.default_rng(0).permutation(4).tolist())):  # fmt: skip
        with torch.inference_mode():
            state = FastWeights()
            for window in batch.context:
                state = sleep(one.model, window.ids, state, passes=2).state
            windows = [(batch.context[i].ids, batch.context[i].mask) for i in places]
            assert_same_state(found[order], deep_sleep(one.model, windows, state, passes=2))
    assert len({float(state["layers.1.recurrent"].sum()) for state in found.values()}) == 3


# ------------------------------------------------------------------------------------------------------ retention


def test_a_state_that_was_saved_answers_as_the_one_that_was_not(measured: Path) -> None:
    """It is loaded by a process that has never seen the windows, and every answer is the same."""
    runs = json.loads((measured / "every.json").read_text())["runs"]
    rows = [r for run in runs if run["arm"] == "facts/random" for r in run["rows"] if r["part"] == "retention"]
    keys = ("form", "later", "facts", "passes", "accuracy", "questions")
    kept, restored = ([{k: r[k] for k in keys} for r in rows if r["restored"] is which] for which in (False, True))
    assert restored == [row for row in kept if row["later"] == 1]
    assert len(restored) == 1
    assert all(0 < row["accuracy"] < 1 for row in kept)
    folder = measured / "runs/small/facts/random/0"
    assert not list(folder.glob("state-*"))


def test_retention_asks_the_first_window_after_later_sleeps() -> None:
    one = subject("retention", passes=(2,))
    rows = retention(one, {"later": [0, 2], "forms": ["filler", "facts"], "batches": 2, "restored": []})
    told = [(r["form"], r["later"], r["facts"], r["questions"]) for r in rows]
    assert told == [("filler", 0, 3, 192), ("filler", 2, 3, 192), ("facts", 0, 3, 192), ("facts", 2, 9, 192)]
    assert not any(row["restored"] for row in rows)
    assert all(0 < row["saturation"] < 1 for row in rows)
    rng = fresh(one)
    task = one.other_task({"ask": "first"})
    batches = [task.batch(rng, EPISODES, Difficulty(windows=3, depth=1, form="facts")) for _ in range(2)]
    right = sum(int(read_batch(one.model, batch, passes=2).correct.sum()) for batch in batches)
    assert rows[-1]["accuracy"] == round(right / 192, 5)


@pytest.mark.parametrize("eviction", ["never", "state"])
def test_retention_of_a_baseline_is_read_as_it_was_trained(eviction) -> None:
    one = subject("retention", passes=(1,), eviction=eviction)
    (row,) = retention(one, {"later": [2], "forms": ["facts"], "batches": 1, "restored": [2]})
    batch = one.other_task({"ask": "first"}).batch(fresh(one), EPISODES, Difficulty(windows=3, depth=1, form="facts"))
    correct = read_batch(one.model, batch, passes=1, eviction=eviction).correct
    assert row["accuracy"] == round(float(correct.float().mean()), 5)
    assert "saturation" not in row


# ----------------------------------------------------------------------------------------------------------- auto

AUTO: dict[str, Any] = {"depth": 4, "episodes": 3, "probes": 6, "patience": [], "max_passes": 8, "passes": []}


def test_a_fixed_number_of_passes_costs_so_many_windows() -> None:
    one = subject()
    rows = auto(one, {**AUTO, "passes": [1, 3]})
    assert {(r["passes"], r["patience"], r["used"], r["cost"]) for r in rows} == {(1, 0, 1.0, 1.0), (3, 0, 3.0, 3.0)}
    assert sum(row["questions"] for row in rows if row["passes"] == 1) == 3 * 6
    rng = fresh(one)
    right: dict[int, int] = {}
    for _ in range(3):
        batch = one.task.batch(rng, 1, Difficulty(windows=1, depth=4))
        for asked, (hits, _) in read_batch(one.model, batch, passes=3).hits().items():
            right[asked] = right.get(asked, 0) + hits
    found = {r["depth"]: round(r["accuracy"] * r["questions"]) for r in rows if r["passes"] == 3}
    assert found == right


def test_one_pass_at_most_asks_no_probe() -> None:
    one = subject()
    fixed = auto(one, {**AUTO, "passes": [1]})
    found = auto(one, {**AUTO, "patience": [1], "max_passes": 1})
    assert {(r["passes"], r["patience"], r["used"], r["cost"]) for r in found} == {("auto", 1, 1.0, 1.0)}
    assert [r["accuracy"] for r in found] == [r["accuracy"] for r in fixed]


def test_the_cost_by_hand_where_probes_never_rest() -> None:
    """Two passes over 12 tokens; behind the first, 6 probes of 2 tokens: (24 + 12) / 12. Behind the last, none."""
    one = subject()
    fixed = auto(one, {**AUTO, "passes": [2]})
    found = auto(one, {**AUTO, "patience": [9], "max_passes": 2})
    assert {(r["used"], r["cost"]) for r in found} == {(2.0, 3.0)}
    assert [r["accuracy"] for r in found] == [r["accuracy"] for r in fixed]
    four = auto(one, {**AUTO, "patience": [9], "max_passes": 2, "probes": 4})
    assert {r["cost"] for r in four} == {round(2 + 8 / 12, 3)}


def test_passes_that_are_found_lie_between_their_bounds() -> None:
    one = subject()
    for patience in (1, 2):
        rows = auto(one, {**AUTO, "patience": [patience], "max_passes": 5, "episodes": 6})
        assert 1 + patience <= rows[0]["used"] <= 5
        rng = fresh(one)
        used = []
        for _ in range(6):
            batch = one.task.batch(rng, 1, Difficulty(windows=1, depth=4))
            probes = single_questions(batch.questions[0])
            ids = batch.context[0].ids
            found = sleep_until(one.model, ids, FastWeights(), probes=probes, max_passes=5, patience=patience)
            used.append(found.passes)
        assert rows[0]["used"] == round(sum(used) / 6, 3)


def test_packed_questions_are_taken_apart_at_their_labels() -> None:
    ids = torch.tensor([[5, 6, 7, 8, 9, 4]])
    labels = torch.tensor([[IGNORE, 1, IGNORE, IGNORE, 2, 3]])
    found = single_questions(Window(ids=ids, labels=labels, depth=(labels != IGNORE).long()))
    assert [(probe.tolist(), mask) for probe, mask in found] == [([[5, 6]], None), ([[7, 8, 9]], None), ([[4]], None)]


# --------------------------------------------------------------------------------------------------------- writes


def test_the_first_pass_over_an_empty_memory_writes_all_of_it() -> None:
    one = subject()
    rows = writes(one, {"windows": 1, "depth": 4, "passes": 3, "batches": 2})
    assert [(row["pass"], row["layer"]) for row in rows] == [(1, 1), (2, 1), (3, 1)]
    assert rows[0]["change"] == 1.0
    rng = fresh(one)
    changes = []
    for _ in range(2):
        ids = one.task.batch(rng, EPISODES, Difficulty(windows=1, depth=4)).context[0].ids
        with torch.inference_mode():
            two, three = (sleep(one.model, ids, FastWeights(), passes=n).state for n in (2, 3))
        changes.append(written(two, three)[1])
    assert rows[2]["change"] == pytest.approx(sum(changes) / 2, abs=1e-5)


def test_later_windows_write_upon_what_is_there() -> None:
    one = subject()
    rows = writes(one, {"windows": 2, "depth": 4, "passes": 2, "batches": 1})
    batch = episodes(one, 2)
    with torch.inference_mode():
        before = sleep(one.model, batch.context[0].ids, FastWeights(), passes=2).state
        after = sleep(one.model, batch.context[1].ids, before, passes=1).state
    assert rows[0]["change"] == pytest.approx((1 + written(before, after)[1]) / 2, abs=1e-5)
