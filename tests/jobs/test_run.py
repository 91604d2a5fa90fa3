"""A worker sleeps for a session that is open: what was said stays said, and the state is a function of the log."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agentsleep.archive import Snapshot, UserArchive
from agentsleep.archive.jobs import JobQueue
from agentsleep.errors import FingerprintMismatch, SettingsError, SleepFailed, SnapshotConflict
from agentsleep.jobs import later, run_job
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from tests.jobs.conftest import Open
from tests.memory.helpers import FACT, FACT_TOKENS, SYSTEM, assert_whole, events, fill, kinds, same, stream_of


def work(away: SleepMemory, queue: JobQueue) -> Snapshot | None:
    """Runs the next job, as a worker does."""
    job = queue.claim()
    assert job is not None
    made = run_job(away, job)
    assert queue.finish(job, made.id if made else None)
    return made


def in_the_middle(monkeypatch: pytest.MonkeyPatch, memory: SleepMemory, act: Callable[[], object]) -> None:
    """Does something when this memory has computed a sleep, just before it is stored; once."""
    commit = UserArchive.commit_snapshot
    left = [act]

    def committing(self: UserArchive, *args: Any, **kwargs: Any) -> Snapshot:
        if left and self.database is memory.archive.database:
            left.pop()()
        return commit(self, *args, **kwargs)

    monkeypatch.setattr(UserArchive, "commit_snapshot", committing)


# The state


def test_a_worker_leaves_what_the_session_itself_would_have(
    session: Session, memory: SleepMemory, away: SleepMemory, queue: JobQueue
) -> None:
    with memory.session("twin", system=SYSTEM) as twin, memory.session("u", system=SYSTEM) as other:
        for one in (twin, other):
            fill(one, 4)
        itself = twin.sleep(passes=3)
        later(other, passes=3)
        made = work(away, queue)
        assert made is not None
        assert itself is not None
        assert (made.passes, made.mode, made.trigger) == (3, "light", "later")
        assert made.state_digest == itself.state_digest
        assert other.head == made
        assert same(other.state, twin.state)
        assert_whole(other)


def test_a_deep_job_sleeps_light_first_and_then_reads_again(
    session: Session, memory: SleepMemory, away: SleepMemory, queue: JobQueue
) -> None:
    with memory.session("twin") as twin:
        for one in (session, twin):
            fill(one, 12)  # more than a window
        twin.sleep(deep=True, rounds=1, windows=2)
        later(session, deep=True, rounds=1, windows=2)
        work(away, queue)
        assert kinds(session) == kinds(twin)
        assert same(session.state, twin.state)
        assert [one.trigger for one in session.history()[-2:]] == ["later", "later"]
        assert_whole(session)


def test_what_is_said_behind_the_end_of_a_job_stays_in_the_window(
    session: Session, away: SleepMemory, queue: JobQueue
) -> None:
    fill(session, 3)
    job = later(session)
    fill(session, 2)
    work(away, queue)
    assert session.window_tokens == 2 * FACT_TOKENS
    assert_whole(session)
    assert job.stop == 3 * FACT_TOKENS
    fill(session, 2)
    session.sleep()
    assert_whole(session)


def test_a_job_for_what_is_slept_on_already_does_nothing(session: Session, away: SleepMemory, queue: JobQueue) -> None:
    fill(session, 3)
    later(session)
    head = session.sleep()
    assert work(away, queue) is None
    assert session.head == head
    later(session, deep=True)
    assert work(away, queue) is not None  # light is covered, deep is not


def test_a_deep_job_that_was_stored_is_not_made_again(session: Session, away: SleepMemory, queue: JobQueue) -> None:
    """Its worker died between the commit and the word that it was done."""
    fill(session, 3)
    later(session, deep=True)
    job = queue.claim()
    assert job is not None
    assert run_job(away, job) is not None
    log = kinds(session)
    assert run_job(away, job) is None
    assert kinds(session) == log
    queue.finish(job, None)
    later(session, deep=True)  # but who asks again gets it again
    assert work(away, queue) is not None
    assert kinds(session) == log + "d"


def test_pins_are_at_the_head_of_the_window_that_a_worker_reads(
    memory: SleepMemory, away: SleepMemory, queue: JobQueue
) -> None:
    with memory.session("p", system=SYSTEM) as session:
        fill(session, 2)
        later(session)
        session.pin(system="the coffee is cold .")
        fill(session, 1)
        work(away, queue)
        assert events(session)[-1].data["pinned"] == session.window.ids[: session.stats().pinned_tokens]
        session.pin(system="")
        assert_whole(session)
        session.sleep()
        assert_whole(session)


def test_a_log_of_more_than_a_window_is_slept_on_as_when_it_is_opened(
    memory: SleepMemory, away: SleepMemory, queue: JobQueue
) -> None:
    with memory.session("long") as session:
        reading = session.desk.look()
        ids = reading.render("user", "x" * 100)
        reading.log("user", "x" * 100, ids)  # as a kill between log and reading leaves it
        later(session)
    made = work(away, queue)
    assert made is not None
    with memory.session("long") as session:
        assert kinds(session).count("s") > 1
        assert session.window_tokens == 0
        assert_whole(session)


# Beside a live session


def test_a_message_that_comes_while_a_worker_computes_is_read_onto_the_new_state(
    session: Session, away: SleepMemory, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 3)
    later(session)
    in_the_middle(monkeypatch, away, lambda: session.add("user", FACT))
    made = work(away, queue)
    assert kinds(session) == "tttts"
    assert session.head == made
    assert session.window_tokens == FACT_TOKENS
    assert_whole(session)


def test_pins_that_change_while_a_worker_computes_hold_afterwards(
    session: Session, away: SleepMemory, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 3)
    later(session)
    in_the_middle(monkeypatch, away, lambda: session.pin(system=SYSTEM))
    work(away, queue)
    assert kinds(session) == "tttps"
    assert session.stats().pinned_tokens > 0
    assert_whole(session)


def test_a_turn_that_is_being_written_goes_on_while_a_worker_commits(
    session: Session, away: SleepMemory, queue: JobQueue, memory: SleepMemory
) -> None:
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "temperature": 1.0, "seed": 3}
    with memory.session("twin") as twin:
        fill(twin, 3)
        alone = twin.generate(**options)
    fill(session, 3)
    later(session)
    stream = session.generate(stream=True, **options)
    next(stream)
    made = work(away, queue)
    rest = list(stream)
    assert rest is not None
    assert stream.answer is not None
    assert stream.answer.text == alone.text  # awake, from the state that it began with
    assert session.head == made
    assert_whole(session)


def test_a_turn_that_overflows_takes_over_what_a_worker_has_stored(
    session: Session, away: SleepMemory, queue: JobQueue
) -> None:
    fill(session, 5)
    later(session)
    stream = session.generate(stream=True, max_new_tokens=60, min_new_tokens=60, temperature=1.0, seed=5)
    next(stream)
    made = work(away, queue)
    assert made is not None
    list(stream)
    history = session.history()
    assert history[0] == made
    assert len(history) > 1
    assert all(one.trigger == "overflow" for one in history[1:])
    assert_whole(session)
    assert session.messages()[-1].data["generated"]
    fill(session, 2)
    assert_whole(session)


def test_a_deep_job_falls_into_a_turn_that_was_slept_on(
    session: Session, away: SleepMemory, queue: JobQueue, memory: SleepMemory
) -> None:
    """The turn's mark says that it is open; if its writer dies then, the next one has to close it."""
    fill(session, 6)
    stream = session.generate(stream=True, max_new_tokens=40, min_new_tokens=40, temperature=1.0, seed=5)
    while not kinds(session).endswith("s"):
        next(stream)
    later(session, deep=True)
    made = work(away, queue)
    assert made is not None
    assert made.mode == "deep"
    log = events(session)
    assert log[-1].data["open_turn"]
    branch = away.archive.user("default", "default").fork(made.id, "dead")  # a log that ends here
    with away.session(branch.scope.thread) as dead:
        turn = dead.messages()[-1]
        assert turn.data["cut"]
        assert turn.text is not None
        assert_whole(dead)
    list(stream)
    assert_whole(session)
    assert session.messages()[-1].data["generated"]


@pytest.mark.parametrize("deep", [False, True])
def test_a_session_that_sleeps_at_the_same_moment_takes_over_the_workers_state(
    session: Session,
    away: SleepMemory,
    queue: JobQueue,
    memory: SleepMemory,
    monkeypatch: pytest.MonkeyPatch,
    deep: bool,
) -> None:
    fill(session, 4)
    later(session, deep=deep)
    in_the_middle(monkeypatch, memory, lambda: work(away, queue))
    head = session.sleep(deep=deep)
    assert head is not None
    assert head == session.head
    assert session.window_tokens == 0
    assert_whole(session)


def test_what_a_worker_had_left_is_slept_on_by_the_session_that_asked(
    session: Session, away: SleepMemory, queue: JobQueue, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 3)
    later(session)
    fill(session, 2)
    in_the_middle(monkeypatch, memory, lambda: work(away, queue))
    session.sleep()
    assert kinds(session) == "tttttss"
    assert session.window_tokens == 0
    assert_whole(session)


@pytest.mark.parametrize("deep", [False, True])
def test_a_worker_that_is_too_late_finds_nothing_to_do(
    session: Session, away: SleepMemory, queue: JobQueue, monkeypatch: pytest.MonkeyPatch, deep: bool
) -> None:
    fill(session, 4)
    later(session, deep=deep)
    in_the_middle(monkeypatch, away, lambda: session.sleep(deep=deep))
    assert work(away, queue) is None
    assert kinds(session) == "ttttsd"[: 5 + deep]
    assert_whole(session)


def test_a_worker_gives_up_where_the_head_never_stands_still(
    session: Session, away: SleepMemory, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 2)
    later(session)
    tries = []

    def conflict(self: UserArchive, *args: Any, **kwargs: Any) -> Snapshot:
        tries.append(1)
        raise SnapshotConflict("moved")

    monkeypatch.setattr(UserArchive, "commit_snapshot", conflict)
    job = queue.claim()
    assert job is not None
    with pytest.raises(SnapshotConflict):
        run_job(away, job)
    assert len(tries) == 5


def test_a_conflict_without_a_moved_head_reaches_the_user(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(session, 2)

    def conflict(self: UserArchive, *args: Any, **kwargs: Any) -> Snapshot:
        raise SnapshotConflict("the log has other events")

    monkeypatch.setattr(UserArchive, "commit_snapshot", conflict)
    with pytest.raises(SnapshotConflict):
        session.sleep()


# The turn that runs a job itself


def test_a_session_that_must_sleep_runs_the_job_that_is_queued(
    session: Session, memory: SleepMemory, queue: JobQueue
) -> None:
    fill(session, 7)
    job = later(session, passes=5, delay_s=1000)
    fill(session, 2)
    (made,) = session.history()
    assert (made.trigger, made.passes) == ("overflow", 5)
    done = queue.job(session.archive, job.id)
    assert (done.status, done.snapshot, done.attempts) == ("done", made.id, 1)
    assert queue.claim() is None
    assert_whole(session)


def test_a_sleep_by_policy_covers_the_job_whatever_it_would_keep(opened: Open, queue: JobQueue) -> None:
    policy = SleepPolicy(trigger=("messages", 5), keep=("messages", 2), passes=2)
    with opened(policy=policy).session("k") as session:
        fill(session, 4)
        job = later(session)
        fill(session, 1)
        assert queue.job(session.archive, job.id).status == "done"
        assert session.window_tokens == FACT_TOKENS  # and not two messages
        assert_whole(session)


def test_a_job_whose_sleep_failed_in_a_turn_is_queued_again(
    session: Session, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 7)
    job = later(session)
    with monkeypatch.context() as patch:
        patch.setattr(FastWeights, "is_finite", lambda self: False)
        with pytest.raises(SleepFailed, match="on disk"):
            fill(session, 2)
    again = queue.job(session.archive, job.id)
    assert (again.status, again.attempts) == ("queued", 0)


def test_a_turn_leaves_a_running_job_to_its_worker(session: Session, away: SleepMemory, queue: JobQueue) -> None:
    fill(session, 7)
    later(session)
    job = queue.claim()
    assert job is not None
    fill(session, 3)
    assert queue.job(session.archive, job.id).status == "running"
    assert run_job(away, job) is None
    assert_whole(session)


# What is refused


def test_a_worker_refuses_sessions_of_another_model(
    session: Session, away: SleepMemory, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 1)
    later(session)
    job = queue.claim()
    assert job is not None
    monkeypatch.setattr(type(away), "fingerprint", "0" * 64)
    with pytest.raises(FingerprintMismatch, match="belongs to model"):
        run_job(away, job)


def test_passes_by_probes_need_probes(session: Session, away: SleepMemory, queue: JobQueue) -> None:
    fill(session, 1)
    later(session, passes="auto")
    job = queue.claim()
    assert job is not None
    with pytest.raises(SettingsError):
        run_job(away, job)


def test_what_is_computed_is_dropped_where_the_worker_may_not_go_on(
    session: Session, away: SleepMemory, queue: JobQueue
) -> None:
    fill(session, 2)
    later(session, deep=True)
    job = queue.claim()
    assert job is not None

    def never() -> None:
        raise RuntimeError("cancelled")

    with pytest.raises(RuntimeError, match="cancelled"):
        run_job(away, job, never)
    assert session.head is None
    assert stream_of(session)
    assert_whole(session)


def test_both_databases(opened: Open, either: str) -> None:
    memory, away = opened(either), opened(either)
    queue = JobQueue(away.archive.database)
    with memory.session("t") as session:
        fill(session, 3)
        later(session, deep=True)
        stream = session.generate(stream=True, max_new_tokens=50, min_new_tokens=50, temperature=1.0, seed=5)
        next(stream)
        assert work(away, queue) is not None
        list(stream)
        assert_whole(session)
