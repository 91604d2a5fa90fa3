"""What a session tells of its sleeps, and that a listener can do no harm."""

from __future__ import annotations

import gc
import logging
import weakref

import pytest

from agentsleep.errors import SleepFailed
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.values import SleepFinished, SleepStarted
from agentsleep.memory.window import OpenWindow
from agentsleep.policy import SleepPolicy
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, FACT_TOKENS, SYSTEM, assert_whole, events, fill, kinds

Told = SleepStarted | SleepFinished


def listen(session: Session) -> list[Told]:
    told: list[Told] = []
    session.on_sleep = told.append
    return told


def test_a_light_sleep(session: Session) -> None:
    told = listen(session)
    fill(session, 2)
    assert session.sleep(passes=3) is not None
    assert session.sleep() is None  # nothing was read
    started, finished = told
    head = session.head
    assert head is not None
    asked = {"session": session.id, "mode": "light", "trigger": "asked", "tokens": 2 * FACT_TOKENS, "passes": 3}
    assert started == SleepStarted(**asked)  # type: ignore[arg-type]
    assert isinstance(finished, SleepFinished)
    assert finished.ms > 0
    assert finished == SleepFinished(**asked, rounds=1, ms=finished.ms, snapshot=head.id)  # type: ignore[arg-type]
    assert head.metrics["ms"] == finished.ms


def test_a_deep_sleep_tells_of_both(memory: SleepMemory) -> None:
    with memory.session("t", system=SYSTEM) as session:
        fill(session, 2)
        session.sleep()
        fill(session, 1)
        pinned = session.stats().pinned_tokens
        told = listen(session)
        snapshot = session.sleep(deep=True, passes=2, rounds=3)
        assert [(type(one), one.mode) for one in told] == [
            (SleepStarted, "light"),
            (SleepFinished, "light"),
            (SleepStarted, "deep"),
            (SleepFinished, "deep"),
        ]
        assert [one.tokens for one in told] == [FACT_TOKENS] * 2 + [3 * FACT_TOKENS + 2 * pinned] * 2
        assert [one.rounds for one in told] == [1, 1, 3, 3]
        assert [one.passes for one in told] == [2] * 4
        last = told[-1]
        assert snapshot is not None
        assert isinstance(last, SleepFinished)
        assert last.snapshot == snapshot.id


def test_sleeps_of_its_own(opened: Open) -> None:
    with opened(SleepPolicy(trigger=("messages", 2), passes=1)).session("t") as session:
        told = listen(session)
        fill(session, 2)
        assert [one.trigger for one in told] == ["policy", "policy"]
        session.add("user", "x" * 100)
        assert {one.trigger for one in told[2:]} == {"overflow"}
        assert [type(one) for one in told] == [SleepStarted, SleepFinished] * (len(told) // 2)
        made = [one.snapshot for one in told if isinstance(one, SleepFinished)]
        assert made == [one.id for one in session.history()]


def test_a_sleep_within_a_stream(session: Session) -> None:
    """Told when it comes: between two pieces of the text."""
    told = listen(session)
    fill(session, 6)
    pieces: list[int] = []
    with session.generate(stream=True, max_new_tokens=60, min_new_tokens=55, temperature=1.0, seed=3) as stream:
        for _ in stream:
            pieces.append(len(told))
    assert pieces[0] == 0
    assert [(type(one), one.trigger) for one in told[:2]] == [(SleepStarted, "overflow"), (SleepFinished, "overflow")]
    assert 2 in pieces
    assert_whole(session)


def test_probes_decide_while_it_sleeps(opened: Open) -> None:
    policy = SleepPolicy(trigger=None, passes="auto", max_passes=3, probes=("bob ?",))
    with opened(policy).session("t") as session:
        told = listen(session)
        fill(session, 2)
        snapshot = session.sleep()
        assert snapshot is not None
        assert [one.passes for one in told] == [None, snapshot.passes]


def test_a_sleep_that_fails_does_not_finish(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    told = listen(session)
    fill(session, 1)

    def failing(*_: object, **__: object) -> None:
        raise SleepFailed("not usable")

    with monkeypatch.context() as patch:
        patch.setattr(OpenWindow, "_commit", failing)
        with pytest.raises(SleepFailed):
            session.sleep()
    assert [type(one) for one in told] == [SleepStarted]
    session.sleep()
    assert [type(one) for one in told[1:]] == [SleepStarted, SleepFinished]


def test_an_error_of_the_listener_is_logged_and_that_is_all(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    def failing(told: Told) -> None:
        raise RuntimeError("no luck")

    session.on_sleep = failing
    fill(session, 2)
    with caplog.at_level(logging.ERROR):
        assert session.sleep() is not None
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [
        ("no luck",)
    ] * 2
    session.on_sleep = None
    fill(session, 1)
    session.sleep()
    assert len(caplog.records) == 2
    assert kinds(session) == "ttsts"
    assert_whole(session)


def test_a_listener_may_look_at_its_session(session: Session) -> None:
    seen: list[tuple[int, int]] = []
    session.on_sleep = lambda told: seen.append((session.window_tokens, len(events(session))))
    fill(session, 2)
    session.sleep()
    assert seen[0] == (2 * FACT_TOKENS, 2)
    assert seen[1][1] == 3
    assert_whole(session)
    session.on_sleep = None


def test_each_session_tells_of_itself(memory: SleepMemory) -> None:
    with memory.session("a") as one, memory.session("b") as other:
        mine, theirs = listen(one), listen(other)
        fill(one, 1)
        fill(other, 1)
        one.sleep()
        assert {told.session for told in mine} == {one.id}
        assert theirs == []
        with memory.branch(one, len(events(one))) as branch:
            branch.add("user", FACT)
            branch.sleep()
        assert len(mine) == 2


def test_a_session_goes_at_once_when_nobody_holds_it(memory: SleepMemory) -> None:
    """Without a search for cycles, so that neither its window nor its stream lives on."""
    session = memory.session("t")
    listen(session)
    fill(session, 2)
    session.sleep()
    session.add("user", FACT)
    session.close()
    gone = weakref.ref(session)
    gc.collect()
    gc.disable()
    try:
        del session
        assert gone() is None
    finally:
        gc.enable()
