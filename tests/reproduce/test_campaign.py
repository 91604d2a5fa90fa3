"""Campaigns over runs of thirty steps: what is there is kept, what is missing is done, what was cut off goes on."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from agentsleep.errors import CheckpointDamaged, InputError, SettingsError
from agentsleep.reproduce import document, plan
from agentsleep.reproduce.campaign import Campaign, _one, carry_out
from agentsleep.reproduce.plan import load_table
from agentsleep.reproduce.publish import publish
from agentsleep.reproduce.runs import POINTS, thinned
from tests.reproduce.toys import change

PNG = b"\x89PNG\r\n\x1a\n"
Begin = Callable[..., Campaign]


@pytest.fixture
def begin(plans: Path, tmp_path: Path) -> Begin:
    """Makes a campaign of the table ``two`` as the plans now say it."""

    def made(seeds: int = 1, only: tuple[str, ...] = ("hops/n1",), place: str = "here") -> Campaign:
        folder = tmp_path / place
        return Campaign(
            table=load_table("two"),
            scale="small",
            seeds=range(seeds),
            runs=folder / "runs",
            out=folder / "out",
            only=only,
            command="agentsleep reproduce two",
        )

    return made


def runs(campaign: Campaign) -> dict[tuple[str, int], dict[str, Any]]:
    found = document.read(campaign.target) or {"runs": []}
    return {(run["arm"], run["seed"]): run for run in found["runs"]}


def weights(campaign: Campaign, arm: str = "hops/n1", seed: int = 0) -> dict[str, torch.Tensor]:
    return load_file(campaign.runs / "small" / arm / str(seed) / "model/model.safetensors")


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    assert a.keys() == b.keys()
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_table_from_its_plan_to_its_picture(begin: Begin) -> None:
    campaign = begin(seeds=3, only=())
    told: list[tuple[str, float]] = []
    parts: list[float] = []
    assert not campaign.begun()
    assert carry_out(campaign, resume=False, report=lambda *a: told.append(a), progress=parts.append) == 5
    assert campaign.begun()
    assert parts == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert ("hops/random, seed 2: depth", 0.0) in told
    assert told[-1] == ("hops/n1, seed 1: done", 1.0)
    assert any(what.startswith("hops/n1, seed 0: training, depth ") and part == 25 / 30 for what, part in told)
    source, page, picture = publish(campaign.table, campaign.out)
    assert (source, page.name, picture.name) == (campaign.target, "two.md", "two.png")
    assert page.read_text().startswith("## Two arms\n\nNothing?\n\n### One window\n\n| model | k = 1 | k = 2 | seeds |")
    assert picture.read_bytes().startswith(PNG)
    assert {path.name for path in campaign.out.iterdir()} <= {"two.json", "two.md", "two.png", ".two.json.lock"}
    found = runs(campaign)
    assert sorted(found) == [("hops/n1", 0), ("hops/n1", 1), *(("hops/random", seed) for seed in range(3))]
    one = found["hops/n1", 1]
    assert (one["steps"], one["kind"], one["label"], one["config"]["seed"]) == (30, "baseline", "N = 1", 1)
    assert [row["step"] for row in one["history"]] == [25]
    assert one["tokens"] == 30 * 4 * (8 + 8)  # one window of 4 edges and one of 4 questions, 4 episodes a batch
    assert one["flops_per_token"]["4"] == pytest.approx(4 * one["flops_per_token"]["1"], abs=4)
    assert {row["part"] for row in one["rows"]} == {"one"}
    assert [row["depth"] for row in one["rows"] if row.get("passes") == 1] == [1, 2]
    assert one["rows"] != found["hops/n1", 0]["rows"]


def test_what_is_measured_stays_and_is_not_measured_again(begin: Begin) -> None:
    campaign = begin()
    carry_out(campaign, resume=False)
    before = campaign.target.read_bytes()
    for workers in (1, 2):
        assert campaign.missing() == []
        assert carry_out(campaign, resume=True, workers=workers) == 0
    shutil.rmtree(campaign.runs)
    assert carry_out(campaign, resume=True) == 0
    assert not campaign.runs.exists()
    assert campaign.target.read_bytes() == before


def test_only_a_run_of_other_settings_is_done_again(begin: Begin, plans: Path) -> None:
    campaign = begin(only=())
    carry_out(campaign, resume=False)
    before, slow = runs(campaign), weights(campaign)
    change(plans, "hops", 'kind = "baseline"', 'kind = "baseline"\nset = { muon_lr = 0.02, max_steps = 40 }')
    campaign = begin(only=())
    assert [(arm.name, seed) for arm, seed in campaign.missing()] == [("hops/n1", 0)]
    assert carry_out(campaign, resume=True) == 1
    after = runs(campaign)
    assert after["hops/random", 0] == before["hops/random", 0]
    again = after["hops/n1", 0]
    assert (again["config"]["muon_lr"], again["steps"]) == (0.02, 40)
    assert [row["step"] for row in again["history"]] == [25]
    # What the old settings left is kept, twice if need be.
    aside = campaign.runs / f"small/hops/n1/0.{before['hops/n1', 0]['digest']}"
    assert (aside / "checkpoint.pt").is_file()
    change(plans, "hops", "muon_lr = 0.02, max_steps = 40", "muon_lr = 0.02, max_steps = 30")
    assert carry_out(begin(only=()), resume=True) == 1
    change(plans, "hops", "muon_lr = 0.02, max_steps = 30", "muon_lr = 0.02, max_steps = 40")
    assert carry_out(begin(only=()), resume=True) == 1
    assert (aside.with_name(f"0.{again['digest']}") / "checkpoint.pt").is_file()
    # Trained from its start, not gone on with from what the old settings left.
    alone = begin(place="elsewhere")
    carry_out(alone, resume=False)
    assert same(weights(campaign), weights(alone))
    assert not same(weights(campaign), slow)


def test_another_measure_does_not_train_again(begin: Begin, plans: Path) -> None:
    campaign = begin()
    carry_out(campaign, resume=False)
    checkpoint = campaign.runs / "small/hops/n1/0/checkpoint.pt"
    written = checkpoint.stat().st_mtime_ns
    change(plans, "tables", "questions = 32\n\n[every]", "questions = 400\n\n[every]")
    campaign = begin()
    assert carry_out(campaign, resume=True) == 1
    assert min(row.get("questions", 400) for row in runs(campaign)["hops/n1", 0]["rows"]) >= 400
    assert checkpoint.stat().st_mtime_ns == written


def test_a_run_that_was_cut_off_goes_on_as_if_it_had_not_been(begin: Begin) -> None:
    whole, cut = begin(only=("hops/random",), place="whole"), begin(only=("hops/random",), place="cut")
    carry_out(whole, resume=False)

    def interrupt(what: str, part: float) -> None:
        if "training" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(cut, resume=False, report=interrupt)
    folder = cut.runs / "small/hops/random/0"
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 25
    assert not (folder / "model").exists()
    assert not cut.target.exists()
    assert cut.begun()
    assert carry_out(cut, resume=True) == 1
    assert same(weights(cut, "hops/random"), weights(whole, "hops/random"))
    one, other = runs(cut)["hops/random", 0], runs(whole)["hops/random", 0]
    differing = {key for key in one if one[key] != other[key]}
    assert differing <= {"minutes", "history"}  # both hold times
    assert [row["step"] for row in one["history"]] == [25]


def test_a_run_that_was_killed_before_its_export(begin: Begin) -> None:
    campaign = begin()
    carry_out(campaign, resume=False)
    before = weights(campaign)
    folder = campaign.runs / "small/hops/n1/0"
    shutil.rmtree(folder / "model")
    (folder / "record.json").unlink()
    campaign.target.unlink()
    assert carry_out(campaign, resume=True) == 1
    assert same(weights(campaign), before)


def test_without_resume_all_is_done_anew(begin: Begin) -> None:
    campaign = begin(seeds=2, only=())
    carry_out(campaign, resume=False)
    before = runs(campaign)
    campaign = begin(seeds=2)

    def interrupt(what: str, part: float) -> None:
        if "seed 1: training" in what:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(campaign, resume=False, report=interrupt)
    # What was to be measured anew does not come back with --resume, and what was not asked for is still there.
    assert sorted(runs(campaign)) == [("hops/n1", 0), ("hops/random", 0), ("hops/random", 1)]
    assert [seed for _, seed in campaign.missing()] == [1]
    assert carry_out(campaign, resume=True) == 1
    assert {key: run["rows"] for key, run in runs(campaign).items()} == {k: run["rows"] for k, run in before.items()}


def test_a_job_can_be_sent_to_another_process(begin: Begin, tmp_path: Path) -> None:
    """It takes all that it needs along, and reads no plan there."""
    campaign = begin()
    sent = pickle.dumps((partial(_one, campaign, None), campaign.jobs()))
    plan._read.cache_clear()
    shutil.rmtree(tmp_path / "package")
    work, jobs = pickle.loads(sent)
    work(jobs[0])
    assert list(runs(campaign)) == [("hops/n1", 0)]


@pytest.mark.slow
def test_workers_change_nothing_but_the_time(begin: Begin) -> None:
    alone, together = begin(seeds=2, place="alone"), begin(seeds=2, place="together")
    parts: list[float] = []
    carry_out(alone, resume=False)
    assert carry_out(together, resume=False, workers=2, progress=parts.append) == 2
    assert parts == [0.5, 1.0]
    one, other = runs(alone), runs(together)
    assert list(one) == list(other) == [("hops/n1", 0), ("hops/n1", 1)]
    for key in one:
        assert one[key]["rows"] == other[key]["rows"]
        assert same(weights(alone, *key), weights(together, *key))


def test_an_arm_that_the_table_does_not_have(begin: Begin) -> None:
    campaign = begin(only=("hops/full", "hops/n1"))
    for touch in (campaign.jobs, campaign.begun, campaign.forget, lambda: carry_out(campaign, resume=True)):
        with pytest.raises(SettingsError, match=r"table two has no arm \['hops/full'\]; it has hops/random, hops/n1"):
            touch()
    assert not campaign.out.exists()


def test_a_folder_with_a_damaged_checkpoint(begin: Begin) -> None:
    campaign = begin()
    folder = campaign.runs / "small/hops/n1/0"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"nothing")
    ((arm, seed),) = campaign.jobs()
    (folder / "settings").write_text(arm.digest(seed))
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        carry_out(campaign, resume=True)
    assert (folder / "checkpoint.pt").read_bytes() == b"nothing"
    assert carry_out(campaign, resume=False) == 1


def test_a_run_that_another_process_works_on(begin: Begin) -> None:
    campaign = begin()
    (campaign.runs / "small/hops/n1").mkdir(parents=True)
    with (
        FileLock(campaign.runs / "small/hops/n1/0.lock"),
        pytest.raises(SettingsError, match=r"another process works on .*n1/0; wait for it, or give another --runs"),
    ):
        carry_out(campaign, resume=True)
    assert carry_out(campaign, resume=True) == 1


def test_settings_that_do_not_work_are_found_before_training(begin: Begin, plans: Path) -> None:
    change(plans, "hops", "max_depth = 3", "max_depth = 4")
    campaign = begin()
    with pytest.raises(SettingsError, match="max_depth 4 must be below the 4 nodes"):
        carry_out(campaign, resume=False)
    assert not list(campaign.runs.rglob("checkpoint.pt"))


def test_nothing_to_publish(begin: Begin) -> None:
    campaign = begin()
    with pytest.raises(
        InputError, match=r"nothing is measured yet: no runs in .*two\.json; use 'agentsleep reproduce two'"
    ):
        publish(campaign.table, campaign.out)
    campaign.out.mkdir(parents=True)
    campaign.target.write_text(json.dumps({"format": 1, "runs": []}))
    with pytest.raises(InputError, match="nothing is measured yet"):
        publish(campaign.table, campaign.out)
    assert [path.name for path in campaign.out.iterdir()] == ["two.json"]


@pytest.mark.parametrize("length", [0, 1, POINTS, POINTS + 1, 1000])
def test_a_history_is_thinned_evenly_up_to_its_last_row(length) -> None:
    history = [
        {"step": i, "loss": 0.123456, "accuracy": {"1x1": {"1": 0.98765}, "2x1": {"1": 0.5}}} for i in range(length)
    ]
    found = thinned(history, (1, 1))
    steps = [row["step"] for row in found]
    assert min(length, POINTS // 2) <= len(steps) <= POINTS
    assert len({b - a for a, b in pairwise(steps)}) <= 1
    assert steps[-1:] == [row["step"] for row in history[-1:]]
    assert all(row["loss"] == 0.1235 and row["accuracy"] == {"1": 0.9877} for row in found)


def test_a_history_of_a_run_that_blew_up_is_still_json() -> None:
    found = thinned([{"step": 25, "loss": float("nan"), "accuracy": {"2x1": {"1": 1.0}}}], (1, 1))
    assert found == [{"step": 25, "loss": None, "accuracy": {}}]
