"""What asks for sleeps: somebody, silence, and the clock."""

from __future__ import annotations

import builtins
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event as sql_event

from agentsleep.archive.job import Job
from agentsleep.archive.jobs import JobQueue
from agentsleep.errors import ArchiveError, InputError, SettingsError
from agentsleep.jobs import Cron, Nightly, Schedule, Silence, later, run_job
from agentsleep.memory import Session, SleepMemory
from tests.jobs.conftest import Open
from tests.memory.helpers import FACT, FACT_TOKENS, fill


def jobs(memory: SleepMemory) -> list[Job]:
    return JobQueue(memory.archive.database).jobs(memory.archive.user("default", "default"))


def test_later_says_what_is_to_be_done(session: Session) -> None:
    fill(session, 2)
    job = later(session, deep=True, passes=3, rounds=2, windows=1, delay_s=60, priority=4)
    assert (job.kind, job.trigger, job.stop, job.priority) == ("deep", "later", 2 * FACT_TOKENS, 4)
    assert job.args == {"passes": 3, "rounds": 2, "windows": 1}
    assert timedelta(seconds=59) < job.run_after - job.created < timedelta(seconds=61)
    assert later(session).args == {}


@pytest.mark.parametrize("wrong", [{"passes": 0}, {"rounds": 0}, {"windows": 0}, {"windows": True}])
def test_a_sleep_that_cannot_be_made_is_refused_at_once(session: Session, wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError):
        later(session, **wrong)
    with pytest.raises(InputError):
        later(session, delay_s=-1)


# A schedule


def test_each_turn_puts_the_sleep_off(opened: Open) -> None:
    memory = opened(schedule=Schedule(idle_s=100, max_wait_s=1000))
    with memory.session("t") as session:
        assert jobs(memory) == []
        session.add("user", FACT)
        (first,) = jobs(memory)
        assert (first.trigger, first.kind, first.stop) == ("idle", "light", FACT_TOKENS)
        session.ask("who ?", max_new_tokens=3)
        (second,) = jobs(memory)
        assert (second.id, second.stop) == (first.id, session.tokens)
        assert second.run_after > first.run_after
        stream = session.generate(stream=True, max_new_tokens=5, min_new_tokens=5)
        next(stream)
        assert jobs(memory) == [second]  # not before the turn is said
        stream.close()
        (third,) = jobs(memory)
        assert third.stop == session.tokens > second.stop


def test_what_says_nothing_schedules_nothing_and_a_turn_costs_one_write(opened: Open) -> None:
    memory = opened(schedule=Schedule(idle_s=100, deep=True))
    with memory.session("t") as session:
        session.pin(system="the build is fine .")
        session.ask("who ?", remember=False, max_new_tokens=2)
        session.sleep()
        assert jobs(memory) == []
        fill(session, 1)
        assert [job.kind for job in jobs(memory)] == ["deep"]
        begun: list[str] = []
        engine = memory.archive.database.engine
        sql_event.listen(engine, "before_cursor_execute", lambda c, cur, statement, *_: begun.append(statement))
        session.ask("who ?", max_new_tokens=3)
        assert sum("IMMEDIATE" in statement for statement in begun) == 3  # question, answer, job


def test_a_schedule_that_cannot_be_written_harms_no_turn(
    opened: Open, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise ArchiveError(FACT)

    memory = opened(schedule=Schedule(idle_s=1))
    monkeypatch.setattr(JobQueue, "enqueue", full)
    with memory.session("t") as session:
        session.add("user", FACT)
        assert session.tokens == FACT_TOKENS
    assert "was not scheduled (ArchiveError)" in caplog.text
    assert FACT not in caplog.text


@pytest.mark.parametrize("wrong", [{"idle_s": -1}, {"idle_s": float("nan")}, {"idle_s": None}, {"idle_s": True}])
def test_a_schedule_needs_a_time(wrong: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="idle_s"):
        Schedule(**wrong)
    with pytest.raises(SettingsError, match="max_wait_s"):
        Schedule(idle_s=1, max_wait_s=float("inf"))


# Looking at all sessions


def test_the_nightly_sleep_is_for_those_who_have_said_something(memory: SleepMemory, away: SleepMemory) -> None:
    nightly = Nightly(away.archive, away.fingerprint)
    for thread, user in (("new", "ada"), ("slept", "ada"), ("deep", "bob"), ("empty", "bob")):
        with memory.session(thread, user=user) as session:
            if thread != "empty":
                fill(session, 2)
            if thread in ("slept", "deep"):
                session.sleep(deep=thread == "deep", rounds=1)
    made = nightly()
    assert sorted(job.scope.thread for job in made) == ["new", "slept"]
    assert {(job.kind, job.trigger) for job in made} == {("deep", "cron")}
    assert sorted(job.id for job in nightly()) == sorted(job.id for job in made)  # the same ones
    queue = JobQueue(away.archive.database)
    while (job := queue.claim()) is not None:
        queue.finish(job, getattr(run_job(away, job), "id", None))
    assert nightly() == []
    assert Nightly(away.archive, "0" * 64)() == []


def test_what_was_said_while_a_deep_sleep_was_made_counts_as_new(
    session: Session, away: SleepMemory, queue: JobQueue
) -> None:
    fill(session, 2)
    later(session, deep=True)
    fill(session, 1)
    job = queue.claim()
    assert job is not None
    run_job(away, job)
    queue.finish(job, None)
    assert len(Nightly(away.archive, away.fingerprint)()) == 1


def test_silence_is_asked_about_once(memory: SleepMemory, away: SleepMemory, session: Session) -> None:
    silence = Silence(away.archive, away.fingerprint, 0)
    assert silence() == []
    fill(session, 1)
    (job,) = silence()
    assert (job.trigger, job.kind, job.stop) == ("idle", "light", FACT_TOKENS)
    assert silence() == []
    session.sleep()
    assert Silence(away.archive, away.fingerprint, 0)() == []
    fill(session, 1)
    assert Silence(away.archive, away.fingerprint, 1000)() == []
    assert len(silence()) == 1


# The clock


def test_a_time_of_the_clock() -> None:
    called: list[int] = []
    with Cron("0 3 * * *", lambda: called.append(1)) as cron:
        assert cron.next_time is not None
        assert (cron.next_time.hour, cron.next_time.minute) == (3, 0)
        cron._job.func()
    assert called == [1]


@pytest.mark.parametrize("wrong", ["", "61 * * * *", "a b", "* * * * * *", "0 3 * * someday"])
def test_a_time_that_is_none(wrong: str) -> None:
    with pytest.raises(SettingsError, match="no time of the clock"):
        Cron(wrong, lambda: None)


def test_without_apscheduler_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("apscheduler"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(SettingsError, match=r"pip install 'agentsleep\[cron\]'"):
        Cron("0 3 * * *", lambda: None)
