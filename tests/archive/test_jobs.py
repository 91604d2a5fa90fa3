"""The queue of jobs: what is asked for, who may run it, and what becomes of it, on both databases."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agentsleep.archive import Archive, SessionRecord, UserArchive, jobs
from agentsleep.archive.job import Job
from agentsleep.archive.jobs import JobQueue
from agentsleep.errors import AgentsleepError, ArchiveError, InputError, SessionNotFound, SettingsError
from tests.archive.helpers import MODEL, OTHER_MODEL, change, opened, said, slept


@pytest.fixture
def queue(archive: Archive) -> JobQueue:
    return JobQueue(archive.database, owner="w1")


@pytest.fixture
def other(archive: Archive) -> JobQueue:
    """Another worker."""
    return JobQueue(archive.database, owner="w2")


@pytest.fixture
def session(ada: UserArchive) -> SessionRecord:
    record = opened(ada)
    ada.append(record.id, [said(1, 2, 3)])
    return ada.session(record.id)


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What failed need not wait."""
    monkeypatch.setattr(jobs, "RETRY_S", 0.0)


def shift(ada: UserArchive, **seconds: float) -> None:
    """Moves times of all jobs of the user back, as if so many seconds had passed."""
    for column, value in seconds.items():
        if ada.database.kind == "sqlite":
            moved = f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '-{value} seconds')"
        else:
            moved = f"{column} - interval '{value} seconds'"
        change(ada, f"UPDATE jobs SET {column} = {moved} WHERE scope_id = :scope")


def in_s(job: Job) -> float:
    """Seconds between the making of a job and its time."""
    return (job.run_after - job.created).total_seconds()


# Enqueueing


def test_a_job_covers_what_was_said_and_is_run_once(
    ada: UserArchive, queue: JobQueue, other: JobQueue, session: SessionRecord
) -> None:
    asked = queue.enqueue(ada, session.id, args={"passes": 4})
    assert (asked.stop, asked.kind, asked.trigger, asked.status) == (3, "light", "later", "queued")
    assert (asked.scope.tenant, asked.scope.user, asked.scope.thread) == ("acme", "ada", "thread-1")
    assert asked.args == {"passes": 4}
    assert (asked.owner, asked.lease_until, asked.attempts) == (None, None, 0)
    claimed = other.claim()
    assert claimed is not None
    assert (claimed.id, claimed.status, claimed.owner, claimed.attempts) == (asked.id, "running", "w2", 1)
    assert claimed.lease_until is not None
    assert 55 < (claimed.lease_until - claimed.created).total_seconds() < 90
    assert queue.claim() is None
    snapshot = slept(ada, session.id, b"state")
    assert other.finish(claimed, snapshot.id)
    done = queue.job(ada, asked.id)
    assert (done.status, done.snapshot, done.lease_until, done.owner) == ("done", snapshot.id, None, "w2")
    assert done.finished is not None
    assert queue.claim() is None


def test_asking_again_moves_the_job_that_is_queued(ada: UserArchive, queue: JobQueue, session: SessionRecord) -> None:
    first = queue.enqueue(ada, session.id, trigger="idle", delay_s=100, args={"passes": 2}, priority=3)
    shift(ada, created=50, run_after=50)
    ada.append(session.id, [said(4)])
    head = slept(ada, session.id, b"state")
    again = queue.enqueue(ada, session.id, trigger="idle", delay_s=100, args={"windows": 1}, priority=1)
    assert again.id == first.id
    assert (again.stop, again.head, again.priority) == (4, head.id, 3)
    assert again.args == {"passes": 2, "windows": 1}
    assert 149 < in_s(again) < 160
    assert [job.id for job in queue.jobs(ada)] == [first.id]
    earlier = queue.enqueue(ada, session.id, stop=2)
    assert earlier.stop == 4  # what was asked for once is not taken back
    deep = queue.enqueue(ada, session.id, kind="deep")
    assert deep.id != first.id


def test_a_job_that_runs_is_left_as_it_is(ada: UserArchive, queue: JobQueue, session: SessionRecord) -> None:
    first = queue.enqueue(ada, session.id)
    assert queue.claim() is not None
    ada.append(session.id, [said(4)])
    second = queue.enqueue(ada, session.id)
    assert second.id != first.id
    assert (queue.job(ada, first.id).stop, second.stop) == (3, 4)


def test_putting_off_has_an_end(ada: UserArchive, queue: JobQueue, session: SessionRecord) -> None:
    for passed in (0, 60, 60, 60):
        shift(ada, created=passed, run_after=passed, not_later=passed)
        job = queue.enqueue(ada, session.id, trigger="idle", delay_s=100, max_wait_s=200)
    assert 199 < in_s(job) < 201


def test_another_trigger_brings_a_job_forward_but_never_puts_it_off(
    ada: UserArchive, queue: JobQueue, session: SessionRecord
) -> None:
    queue.enqueue(ada, session.id, trigger="idle", delay_s=100)
    now = queue.enqueue(ada, session.id, trigger="later")
    assert now.trigger == "later"
    assert in_s(now) < 10
    still = queue.enqueue(ada, session.id, trigger="idle", delay_s=100)
    assert (still.trigger, still.run_after) == ("later", now.run_after)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "nap"},
        {"trigger": ""},
        {"args": {"passes": object()}},
        {"stop": 4},
        {"stop": -1},
        {"stop": True},
        {"delay_s": -1},
        {"delay_s": float("nan")},
        {"delay_s": "soon"},
        {"max_wait_s": float("inf")},
        {"priority": 1.5},
        {"max_attempts": 0},
        {"max_attempts": True},
    ],
)
def test_what_cannot_be_asked_for(
    ada: UserArchive, queue: JobQueue, session: SessionRecord, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        queue.enqueue(ada, session.id, **wrong)
    assert queue.jobs(ada) == []


def test_a_queue_needs_a_lease_and_a_name(archive: Archive) -> None:
    for lease in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="lease_s"):
            JobQueue(archive.database, lease_s=lease)
    with pytest.raises(InputError, match="owner"):
        JobQueue(archive.database, owner="x" * 300)
    assert JobQueue(archive.database).owner != JobQueue(archive.database).owner


# Whose it is


def test_a_user_knows_no_job_of_another(archive: Archive, ada: UserArchive, queue: JobQueue) -> None:
    session = opened(ada)
    job = queue.enqueue(ada, session.id)
    for stranger in (archive.user("acme", "bob"), archive.user("other", "ada")):
        opened(stranger, "own")
        assert queue.jobs(stranger) == []
        with pytest.raises(SessionNotFound):
            queue.enqueue(stranger, session.id)
        with pytest.raises(ArchiveError, match="no job"):
            queue.job(stranger, job.id)
        with pytest.raises(ArchiveError, match="no job"):
            queue.cancel(stranger, job.id)
    nobody = archive.user("no", "body")
    assert queue.jobs(nobody) == []
    assert queue.job(ada, job.id).status == "queued"


# Claiming


def test_the_oldest_due_job_of_the_highest_priority_is_first(ada: UserArchive, queue: JobQueue) -> None:
    names = ["late", "second", "first", "urgent", "future"]
    ids = {}
    for name in names:
        session = opened(ada, name)
        ids[name] = queue.enqueue(ada, session.id, priority=int(name == "urgent"), delay_s=9 * (name == "future")).id
    low = opened(ada, "low")
    ids["low"] = queue.enqueue(ada, low.id, priority=-1).id
    for name, seconds in (("first", 30), ("second", 20), ("late", 10), ("low", 40)):
        with ada.writing() as (tx, _scope, _key):
            row = tx.get(jobs.JobRow, ids[name])
            assert row is not None
            row.run_after -= jobs.timedelta(seconds=seconds)
    found = []
    while (job := queue.claim()) is not None:
        found.append(job.scope.thread)
    assert found == ["urgent", "first", "second", "late", "low"]


def test_of_a_session_one_job_runs_at_a_time(
    ada: UserArchive, queue: JobQueue, other: JobQueue, session: SessionRecord
) -> None:
    queue.enqueue(ada, session.id, kind="light")
    queue.enqueue(ada, session.id, kind="deep")
    first = queue.claim()
    assert first is not None
    assert other.claim() is None
    assert queue.finish(first, None)
    second = other.claim()
    assert second is not None
    assert {first.kind, second.kind} == {"light", "deep"}


def test_the_database_itself_refuses_two_running_jobs_of_a_session(
    ada: UserArchive, queue: JobQueue, session: SessionRecord
) -> None:
    queue.enqueue(ada, session.id, kind="light")
    queue.enqueue(ada, session.id, kind="deep")
    with pytest.raises(ArchiveError, match="refused"):
        change(ada, "UPDATE jobs SET status = 'running' WHERE scope_id = :scope")


def test_a_worker_claims_only_jobs_of_its_model(ada: UserArchive, queue: JobQueue, session: SessionRecord) -> None:
    queue.enqueue(ada, session.id)
    assert queue.claim(fingerprint=OTHER_MODEL) is None
    assert queue.claim(fingerprint=MODEL) is not None


def test_one_job_can_be_claimed_before_its_time(ada: UserArchive, queue: JobQueue, session: SessionRecord) -> None:
    job = queue.enqueue(ada, session.id, delay_s=1000)
    assert queue.claim() is None
    assert queue.claim(job_id="0" * 32) is None
    claimed = queue.claim(job_id=job.id)
    assert claimed is not None
    assert queue.release(claimed)
    deep = queue.enqueue(ada, session.id, kind="deep", delay_s=1000)
    claimed = queue.claim(session_id=session.id)
    assert claimed is not None
    assert claimed.id == job.id
    assert queue.claim(job_id=deep.id) is None  # one at a time


@pytest.mark.parametrize("workers", [4])
def test_many_workers_claim_each_job_once(where: str, ada: UserArchive, workers: int) -> None:
    wanted = []
    maker = JobQueue(ada.database)
    for i in range(6):
        session = opened(ada, f"t{i}")
        wanted += [maker.enqueue(ada, session.id, kind=kind).id for kind in ("light", "deep")]  # type: ignore[arg-type]
    running: set[str] = set()
    claimed: list[str] = []
    failed: list[BaseException] = []
    guard = threading.Lock()

    def work(number: int) -> None:
        try:
            with Archive(where) as archive:
                queue = JobQueue(archive.database, owner=f"w{number}")
                misses = 0
                while misses < 50 and len(claimed) < len(wanted):
                    job = queue.claim()
                    if job is None:
                        misses += 1
                        time.sleep(0.01)
                        continue
                    with guard:
                        assert job.session_id not in running
                        running.add(job.session_id)
                        claimed.append(job.id)
                    time.sleep(0.002)
                    with guard:
                        running.remove(job.session_id)
                    assert queue.finish(job, None)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert sorted(claimed) == sorted(wanted)


def test_two_askers_at_once_make_one_job(where: str, ada: UserArchive, session: SessionRecord) -> None:
    barrier = threading.Barrier(4)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            with Archive(where) as archive:
                barrier.wait()
                for _ in range(5):
                    JobQueue(archive.database).enqueue(archive.user("acme", "ada"), session.id)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(JobQueue(ada.database).jobs(ada)) == 1


# Leases


def test_a_heartbeat_keeps_a_job(ada: UserArchive, queue: JobQueue, other: JobQueue, session: SessionRecord) -> None:
    queue.enqueue(ada, session.id)
    job = queue.claim()
    assert job is not None
    shift(ada, lease_until=59)
    assert queue.heartbeat(job) == "held"
    shift(ada, lease_until=59)
    assert other.claim() is None
    assert queue.heartbeat(job) == "held"


def test_a_lease_that_ran_out_is_claimed_again_and_the_first_worker_is_told(
    ada: UserArchive, queue: JobQueue, other: JobQueue, session: SessionRecord
) -> None:
    queue.enqueue(ada, session.id)
    first = queue.claim()
    assert first is not None
    shift(ada, lease_until=61)
    second = other.claim()
    assert second is not None
    assert (second.id, second.attempts, second.owner) == (first.id, 2, "w2")
    assert queue.heartbeat(first) == "lost"
    assert not queue.finish(first, None)
    assert queue.fail(first, "x") is None
    assert not queue.release(first)
    assert other.heartbeat(second) == "held"
    assert other.finish(second, None)


def test_the_same_owner_does_not_take_an_old_claim_for_its_new_one(
    ada: UserArchive, queue: JobQueue, session: SessionRecord
) -> None:
    queue.enqueue(ada, session.id)
    first = queue.claim()
    assert first is not None
    shift(ada, lease_until=61)
    second = queue.claim()
    assert second is not None
    assert queue.heartbeat(first) == "lost"
    assert queue.heartbeat(second) == "held"


def test_a_job_that_kills_its_workers_fails_in_the_end(
    ada: UserArchive, queue: JobQueue, session: SessionRecord
) -> None:
    job = queue.enqueue(ada, session.id, max_attempts=2)
    for _ in range(2):
        assert queue.claim() is not None
        shift(ada, lease_until=61)
    assert queue.claim() is None
    failed = queue.job(ada, job.id)
    assert (failed.status, failed.attempts) == ("failed", 2)
    assert failed.error is not None
    assert "without a word" in failed.error


def test_a_released_job_has_not_been_tried(ada: UserArchive, queue: JobQueue, session: SessionRecord) -> None:
    queue.enqueue(ada, session.id)
    job = queue.claim()
    assert job is not None
    assert queue.release(job)
    again = queue.claim()
    assert again is not None
    assert again.attempts == 1


# Failing


def test_a_failed_job_waits_longer_each_time(ada: UserArchive, queue: JobQueue, session: SessionRecord) -> None:
    asked = queue.enqueue(ada, session.id, max_attempts=4)
    for attempt in range(3):
        job = queue.claim()
        assert job is not None
        before = datetime.now(UTC)
        assert queue.fail(job, f"error {attempt}") == "queued"
        after = datetime.now(UTC)
        failed = queue.job(ada, asked.id)
        assert (failed.status, failed.error, failed.attempts) == ("queued", f"error {attempt}", attempt + 1)
        mean = jobs.RETRY_S * 2**attempt
        assert (failed.run_after - before).total_seconds() >= 0.5 * mean
        assert (failed.run_after - after).total_seconds() <= 1.5 * mean
        hurried = queue.enqueue(ada, session.id, max_attempts=4)
        assert (hurried.id, hurried.run_after) == (asked.id, failed.run_after)
        shift(ada, run_after=3600)
    job = queue.claim()
    assert job is not None
    assert queue.fail(job, "at last") == "failed"
    over = queue.job(ada, asked.id)
    assert (over.status, over.error, over.lease_until) == ("failed", "at last", None)
    assert over.finished is not None


def test_what_would_go_wrong_again_is_not_tried_again(
    ada: UserArchive, queue: JobQueue, session: SessionRecord, at_once: None
) -> None:
    queue.enqueue(ada, session.id)
    job = queue.claim()
    assert job is not None
    assert queue.fail(job, "no use", retry=False) == "failed"
    assert queue.claim() is None


def test_an_error_is_cut_to_its_length(
    ada: UserArchive, queue: JobQueue, session: SessionRecord, at_once: None
) -> None:
    queue.enqueue(ada, session.id)
    job = queue.claim()
    assert job is not None
    queue.fail(job, "a\0b" + "x" * 10_000)
    error = queue.job(ada, job.id).error
    assert error is not None
    assert error.startswith("a bx")
    assert len(error) == jobs.MAX_ERROR
    assert queue.claim() is not None


# Cancelling


def test_a_cancelled_job_is_not_run_and_its_worker_is_told(
    ada: UserArchive, queue: JobQueue, session: SessionRecord
) -> None:
    waiting = queue.enqueue(ada, session.id)
    assert queue.cancel(ada, waiting.id).status == "cancelled"
    assert queue.claim() is None
    queue.enqueue(ada, session.id)
    job = queue.claim()
    assert job is not None
    cancelled = queue.cancel(ada, job.id)
    assert (cancelled.status, cancelled.lease_until) == ("cancelled", None)
    assert queue.heartbeat(job) == "cancelled"
    assert not queue.finish(job, None)
    assert queue.fail(job, "x") is None
    with pytest.raises(InputError, match="cancelled already"):
        queue.cancel(ada, job.id)
    with pytest.raises(ArchiveError, match="no job"):
        queue.cancel(ada, "f" * 32)


def test_jobs_are_listed_newest_first(ada: UserArchive, queue: JobQueue) -> None:
    one, two = opened(ada, "one"), opened(ada, "two")
    first, second = queue.enqueue(ada, one.id), queue.enqueue(ada, two.id)
    third = queue.enqueue(ada, two.id, kind="deep")
    queue.cancel(ada, second.id)
    assert [job.id for job in queue.jobs(ada)] == [third.id, second.id, first.id]
    assert [job.id for job in queue.jobs(ada, session_id=two.id)] == [third.id, second.id]
    assert [job.id for job in queue.jobs(ada, status="cancelled")] == [second.id]
    assert [job.id for job in queue.jobs(ada, kind="deep")] == [third.id]
    assert len(queue.jobs(ada, limit=2)) == 2


# The database


def test_looking_for_work_takes_no_write_lock(path: Path) -> None:
    """A worker that polls disturbs nobody."""
    with Archive(path) as archive, Archive(path) as busy, busy.database.writing():
        assert JobQueue(archive.database).claim() is None


def test_a_worker_sees_jobs_of_everyone(archive: Archive, queue: JobQueue) -> None:
    for tenant, user in (("a", "x"), ("a", "y"), ("b", "x")):
        part = archive.user(tenant, user)
        queue.enqueue(part, opened(part).id)
    found = []
    while (job := queue.claim()) is not None:
        found.append((job.scope.tenant, job.scope.user))
    assert sorted(found) == [("a", "x"), ("a", "y"), ("b", "x")]


def test_a_queue_of_a_closed_archive_says_so(where: str) -> None:
    with Archive(where) as archive:
        queue = JobQueue(archive.database)
    with pytest.raises(AgentsleepError, match="closed"):
        queue.claim()
