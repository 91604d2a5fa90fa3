"""``agentsleep jobs``: what was asked for, whose it is, running one and taking one back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentsleep.archive.job import Job
from agentsleep.cli import jobs as _jobs  # puts the commands on the app
from agentsleep.jobs import later
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from tests.cli.conftest import Cli
from tests.spoken import save_tiny


@dataclass
class World:
    """An archive in which ada has asked for three sleeps, and bob for one."""

    path: Path
    model: Path
    light: Job
    deep: Job
    other: Job
    bobs: Job

    @property
    def ada(self) -> list[object]:
        return ["--archive", self.path, "--user", "ada"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def world(tmp_path: Path, model: Path) -> World:
    path = tmp_path / "memory.db"
    made = []
    with SleepMemory(model, archive=path, policy=SleepPolicy(trigger=None, passes=2)) as memory:
        for thread, user, deep in (
            ("one", "ada", False),
            ("one", "ada", True),
            ("two", "ada", False),
            ("s", "bob", False),
        ):
            with memory.session(thread, user=user) as session:
                session.add("tool", "bob hands over to alice .")
                made.append(later(session, deep=bool(deep), delay_s=1000))
    return World(path, model, *made)


def listed(cli: Cli, *arguments: object) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(cli("jobs", "list", *arguments, "--json").stdout)["jobs"]
    return found


def test_the_jobs_of_a_user_are_listed_newest_first(cli: Cli, world: World) -> None:
    assert _jobs.jobs_app is not None
    assert [job["id"] for job in listed(cli, *world.ada)] == [world.other.id, world.deep.id, world.light.id]
    assert [job["id"] for job in listed(cli, *world.ada, "--thread", "one")] == [world.deep.id, world.light.id]
    assert [job["id"] for job in listed(cli, *world.ada, "--limit", 1)] == [world.other.id]
    assert listed(cli, *world.ada, "--status", "failed") == []
    (one,) = listed(cli, "--archive", world.path, "--user", "bob")
    assert (one["id"], one["kind"], one["status"], one["stop"]) == (world.bobs.id, "light", "queued", world.bobs.stop)


def test_a_reader_sees_a_table(cli: Cli, world: World) -> None:
    shown = cli("jobs", "list", *world.ada).stdout
    for part in (world.light.id[:8], "one", "deep", "later", "queued", "0 of 5"):
        assert part in shown
    assert "bob hands" not in shown
    nobody = cli("jobs", "list", "--archive", world.path, "--user", "nobody").stdout
    assert "no such jobs of user 'nobody'" in nobody


def test_one_job_is_run_now(cli: Cli, world: World) -> None:
    done = json.loads(cli("jobs", "run", world.light.id[:12], *world.ada, "--model", world.model, "--json").stdout)
    assert (done["status"], done["attempts"]) == ("done", 1)
    with SleepMemory(world.model, archive=world.path) as memory, memory.session("one", user="ada") as session:
        assert session.head is not None
        assert session.head.id == done["snapshot"]
    complaint = cli.complaint("jobs", "run", world.light.id, *world.ada, "--model", world.model)
    assert "is done; only one that is queued" in complaint
    assert "snapshot" in cli("jobs", "list", *world.ada).stdout


def test_a_job_that_goes_wrong_is_told_and_kept(cli: Cli, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FastWeights, "is_finite", lambda self: False)
    result = cli("jobs", "run", world.light.id, *world.ada, "--model", world.model, code=1)
    assert "NaN or Inf" in result.stderr.splitlines()[-1]
    (failed,) = listed(cli, *world.ada, "--status", "failed")
    assert str(failed["error"]).startswith("SleepFailed: ")


def test_a_job_is_taken_back(cli: Cli, world: World) -> None:
    gone = json.loads(cli("jobs", "cancel", world.other.id[:12], *world.ada, "--json").stdout)
    assert (gone["id"], gone["status"]) == (world.other.id, "cancelled")
    assert "cancelled already" in cli.complaint("jobs", "cancel", world.other.id, *world.ada)


def test_what_cannot_be_found(cli: Cli, world: World, tmp_path: Path) -> None:
    for command in ("run", "cancel"):
        assert "no job" in cli.complaint("jobs", command, world.bobs.id, *world.ada)
        assert "is empty" in cli.complaint("jobs", command, " ", *world.ada)
    ids = [world.light.id, world.deep.id, world.other.id]
    first = next((a for a in "0123456789abcdef" if sum(i.startswith(a) for i in ids) > 1), None)
    if first is not None:
        assert "give more of the id" in cli.complaint("jobs", "cancel", first, *world.ada)
    assert "no thread 'x'" in cli.complaint("jobs", "list", *world.ada, "--thread", "x")
    assert "give one of queued" in cli.complaint("jobs", "list", *world.ada, "--status", "lost")
    missing = tmp_path / "missing.db"
    assert "there is no archive" in cli.complaint("jobs", "list", "--archive", missing)
    assert not missing.exists()
