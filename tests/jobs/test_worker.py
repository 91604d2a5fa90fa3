"""The worker: it ends in peace, dies without loss, and no session stops it for the others."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from agentsleep.archive.job import Job
from agentsleep.archive.jobs import JobQueue
from agentsleep.errors import ArchiveError, SettingsError, SleepFailed
from agentsleep.jobs import Worker, later, told_by_signals, worker
from agentsleep.jobs.lease import Dropped, Lease
from agentsleep.jobs.worker import described
from agentsleep.memory import Session, SleepMemory
from tests.jobs.child import child
from tests.jobs.conftest import Open
from tests.memory.helpers import assert_whole, fill

SECRET = "bob hands over to alice"


@pytest.fixture
def lines() -> list[str]:
    return []


def jobs(memory: SleepMemory) -> list[Job]:
    return JobQueue(memory.archive.database).jobs(memory.archive.user("default", "default"))


def asked(memory: SleepMemory, *threads: str) -> None:
    """Sessions that have said something and are to sleep."""
    for thread in threads:
        with memory.session(thread) as session:
            fill(session, 3)
            later(session)


# In this process


def test_it_runs_what_is_due_and_ends(memory: SleepMemory, away: SleepMemory, lines: list[str]) -> None:
    asked(memory, "a", "b", "c")
    assert Worker(away, report=lines.append).run(once=True) == 1
    assert Worker(away, report=lines.append).run(drain=True) == 2
    assert Worker(away).run(once=True) == 0
    assert [job.status for job in jobs(memory)] == ["done"] * 3
    for thread in ("a", "b", "c"):
        with memory.session(thread) as session:
            assert len(session.history()) == 1
            assert_whole(session)
    assert len(lines) == 6
    assert "snapshot" in lines[1]


def test_a_failure_of_one_session_stops_nothing(
    memory: SleepMemory, away: SleepMemory, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(memory, "bad", "worse", "good")
    run, errors = worker.run_job, [RuntimeError(SECRET), SleepFailed("a light sleep of 2 passes gave NaN")]

    def failing(memory: SleepMemory, job: Job, proceed: Any) -> Any:
        if errors:
            raise errors.pop(0)
        return run(memory, job, proceed)

    monkeypatch.setattr(worker, "run_job", failing)
    assert Worker(away, report=lines.append).run(drain=True) == 3
    good, worse, bad = jobs(memory)
    assert (good.status, worse.status, bad.status) == ("done", "failed", "queued")
    assert worse.error == "SleepFailed: a light sleep of 2 passes gave NaN"
    assert bad.error is not None
    assert bad.error.startswith("unexpected RuntimeError in jobs/worker.py, line ")
    assert SECRET not in "".join(lines)


def test_an_error_is_told_without_what_was_said() -> None:
    assert described(ArchiveError(SECRET)) == "ArchiveError"
    assert described(ValueError(SECRET)) == "unexpected ValueError"
    assert described(SleepFailed("3 passes")) == "SleepFailed: 3 passes"


def test_it_stops_when_it_is_told(memory: SleepMemory, away: SleepMemory) -> None:
    stop = threading.Event()
    thread = threading.Thread(target=Worker(away, poll_s=60).run, args=(stop,))
    thread.start()
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    asked(memory, "a")
    assert Worker(away).run(stop) == 0


def test_an_archive_that_is_away_for_a_while_is_tried_again(
    memory: SleepMemory, away: SleepMemory, queue: JobQueue, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(memory, "a")
    stop, claim, left = threading.Event(), queue.claim, [ArchiveError("gone"), ArchiveError("gone")]

    def flaky(**which: Any) -> Job | None:
        if left:
            raise left.pop()
        job = claim(**which)
        if job is None:
            stop.set()
        return job

    monkeypatch.setattr(queue, "claim", flaky)
    assert Worker(away, queue, poll_s=0.01, report=lines.append).run(stop) == 1
    assert sum("cannot be read" in line for line in lines) == 2
    left.append(ArchiveError("gone"))
    with pytest.raises(ArchiveError, match="gone"):
        Worker(away, queue).run(once=True)


@pytest.mark.parametrize("wrong", [{"poll_s": 0}, {"poll_s": -1}, {"poll_s": float("nan")}, {"idle_s": -1}])
def test_times_that_are_none(away: SleepMemory, wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError, match=next(iter(wrong))):
        Worker(away, **wrong)


def test_silence_is_a_reason_to_sleep(memory: SleepMemory, away: SleepMemory, lines: list[str]) -> None:
    with memory.session("quiet") as session:
        fill(session, 2)
    assert Worker(away, idle_s=1000).run(drain=True) == 0
    assert Worker(away, idle_s=0, report=lines.append).run(drain=True) == 1
    assert [job.trigger for job in jobs(memory)] == ["idle"]
    assert "nothing was said" in lines[0]


# The lease


def test_a_long_job_is_kept(session: Session, away: SleepMemory) -> None:
    fill(session, 1)
    later(session)
    queue = JobQueue(away.archive.database, lease_s=0.6)
    job = queue.claim()
    assert job is not None
    with Lease(queue, job) as lease:
        time.sleep(1.5)
        lease.check()
        assert JobQueue(away.archive.database).claim() is None
    assert queue.finish(job, None)


def test_a_cancelled_job_is_dropped_before_it_is_stored(
    session: Session, away: SleepMemory, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 1)
    later(session)
    queue = JobQueue(away.archive.database, lease_s=0.3)
    consolidate = type(away.backend).consolidate

    def slowly(self: Any, *args: Any) -> Any:
        queue.cancel(session.archive, jobs(away)[0].id)
        time.sleep(1.0)
        return consolidate(self, *args)

    monkeypatch.setattr(type(away.backend), "consolidate", slowly)
    assert Worker(away, queue, report=lines.append).run(drain=True) == 1
    assert "cancelled; nothing was stored" in lines[-1]
    assert session.head is None
    assert jobs(away)[0].status == "cancelled"


def test_a_job_that_is_gone_is_dropped_before_it_is_stored(session: Session, away: SleepMemory) -> None:
    """As when its session was forgotten: nothing that was forgotten may come back as a state."""
    fill(session, 1)
    later(session)
    queue = JobQueue(away.archive.database)
    job = queue.claim()
    assert job is not None
    with Lease(queue, job) as lease:
        with session.archive.writing() as (tx, _scope, _key):
            tx.execute(text("DELETE FROM jobs"))
        with pytest.raises(Dropped, match="lost"):
            lease.check()


def test_a_lease_that_cannot_be_renewed_is_lost(
    session: Session, away: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 1)
    later(session)
    queue = JobQueue(away.archive.database, lease_s=0.2)
    job = queue.claim()
    assert job is not None

    def gone(job: Job) -> str:
        raise ArchiveError("gone")

    monkeypatch.setattr(queue, "heartbeat", gone)
    with Lease(queue, job) as lease:
        lease.check()
        time.sleep(0.3)
        with pytest.raises(Dropped, match="lost"):
            lease.check()


# Signals


def test_the_first_signal_asks_and_the_second_breaks_off(lines: list[str]) -> None:
    stop, before = threading.Event(), signal.getsignal(signal.SIGTERM)
    with told_by_signals(stop, lines.append):
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before
    assert len(lines) == 1


def test_what_is_broken_off_is_given_back(
    memory: SleepMemory, away: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked(memory, "a")

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(worker, "run_job", interrupted)
        with pytest.raises(KeyboardInterrupt):
            Worker(away).run(drain=True)
    (job,) = jobs(memory)
    assert (job.status, job.attempts, job.owner) == ("queued", 0, None)


# Real processes


def test_sigterm_finishes_the_job_at_hand_and_leaves_the_rest(memory: SleepMemory, nap: Path, where: str) -> None:
    asked(memory, "a", "b")
    process = child("halting", "worker", "--archive", where, "--model", nap)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "computing\n"
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    _, told = process.communicate("go on\n", timeout=120)
    assert process.returncode == 0, told
    assert "SIGTERM: finishing the job at hand" in told
    assert sorted(job.status for job in jobs(memory)) == ["done", "queued"]


def test_after_sigkill_the_lease_runs_out_and_another_worker_goes_on(either: str, opened: Open, nap: Path) -> None:
    memory = opened(either)
    asked(memory, "a")
    process = child("halting", "worker", "--archive", either, "--model", nap, "--lease", 2)
    assert process.stdout is not None
    assert process.stdout.readline() == "computing\n"
    mine = Worker(memory)
    assert mine.run(drain=True) == 0  # it is being run
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while not mine.run(drain=True):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (job,) = jobs(memory)
    assert (job.status, job.attempts) == ("done", 2)
    with memory.session("a") as session:
        assert session.head is not None
        assert session.head.id == job.snapshot
        assert_whole(session)


@pytest.mark.slow
def test_two_workers_sleep_for_sessions_that_go_on_talking(either: str, opened: Open, nap: Path) -> None:
    memory = opened(either)
    threads = ["a", "b", "c"]
    workers = [child("plain", "worker", "--archive", either, "--model", nap, "--poll", 0.05) for _ in range(2)]
    sessions = [memory.session(thread) for thread in threads]
    for i in range(12):
        for session in sessions:
            fill(session, 1)
            later(session, deep=i % 5 == 4, rounds=1)
            if i % 3 == 0:
                for _ in session.generate(stream=True, max_new_tokens=20, temperature=1.0, seed=i):
                    pass
    deadline = time.monotonic() + 120
    while any(job.status in ("queued", "running") for job in jobs(memory)):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    for process in workers:
        process.send_signal(signal.SIGTERM)
    told = [process.communicate(timeout=120)[1] for process in workers]
    assert [process.returncode for process in workers] == [0, 0], told
    assert {job.status for job in jobs(memory)} == {"done"}, told
    for session in sessions:
        assert_whole(session)
        session.close()
