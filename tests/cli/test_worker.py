"""``agentsleep worker``: it makes what was asked for, and refuses what makes no sense."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentsleep.archive.jobs import JobQueue
from agentsleep.cli import worker as _worker  # puts the command on the app
from agentsleep.jobs import Worker, later
from agentsleep.memory import SleepMemory
from tests.cli.conftest import Cli
from tests.spoken import save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture
def path(tmp_path: Path, model: Path) -> Path:
    """Three sessions that are to sleep."""
    path = tmp_path / "memory.db"
    with SleepMemory(model, archive=path) as memory:
        for thread in ("a", "b", "c"):
            with memory.session(thread) as session:
                session.add("tool", "bob hands over to alice .")
                later(session)
    return path


def statuses(path: Path, model: Path) -> list[str]:
    with SleepMemory(model, archive=path) as memory:
        jobs = JobQueue(memory.archive.database).jobs(memory.archive.user("default", "default"))
    return sorted(job.status for job in jobs)


def test_it_runs_one_and_then_the_rest(cli: Cli, path: Path, model: Path) -> None:
    assert _worker.worker is not None
    told = cli("worker", "--archive", path, "--model", model, "--once").stderr
    assert "claimed 1 job\n" in told
    assert statuses(path, model) == ["done", "queued", "queued"]
    result = cli("worker", "--archive", path, "--model", model, "--drain")
    assert "claimed 2 jobs\n" in result.stderr
    assert result.stderr.count("snapshot") == 2
    assert "bob" not in result.stderr
    assert result.stdout == ""
    assert statuses(path, model) == ["done"] * 3


def test_the_clock_and_silence_are_handed_on(
    cli: Cli, path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Worker, stop: object, **_: object) -> int:
        assert self._silence is not None
        return 0

    monkeypatch.setattr(Worker, "run", run)
    told = cli("worker", "--archive", path, "--model", model, "--cron", "0 3 * * *", "--idle", 600).stderr
    assert "deep sleeps are asked for at '0 3 * * *', next at 20" in told
    assert "claimed 0 jobs" in told


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--once", "--drain"], "exclude each other"),
        (["--once", "--cron", "0 3 * * *"], "needs a worker that stays"),
        (["--cron", "noon"], "no time of the clock"),
        (["--poll", "0"], "poll_s"),
        (["--lease", "0"], "lease_s"),
        (["--idle", "-1"], "idle_s"),
        (["--threads", "0"], "--threads"),
    ],
)
def test_what_makes_no_sense(cli: Cli, path: Path, model: Path, arguments: list[str], why: str) -> None:
    assert why in cli.complaint("worker", "--archive", path, "--model", model, *arguments)


def test_it_makes_no_archive(cli: Cli, tmp_path: Path) -> None:
    assert "there is no archive" in cli.complaint("worker", "--archive", tmp_path / "missing.db", "--once")
    assert list(tmp_path.iterdir()) == []
