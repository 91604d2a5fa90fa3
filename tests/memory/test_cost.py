"""What a step costs does not depend on how much was said before it."""

from __future__ import annotations

import gc
import re
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median

import pytest
from sqlalchemy import event as sql_event

from agentsleep.archive import UserArchive
from agentsleep.backends import LiveWindow
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, fill


class Counts:
    """What was done in a step: rows read from the archive, statements, tokens read by the model."""

    def __init__(self) -> None:
        self.rows, self.statements, self.tokens = 0, 0, 0

    def take(self) -> tuple[int, int, int]:
        found = self.rows, self.statements, self.tokens
        self.rows = self.statements = self.tokens = 0
        return found


@contextmanager
def counted(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counts]:
    counts = Counts()
    engine = memory.archive._db.engine

    def on_statement(_c: object, _cursor: object, statement: str, *_: object) -> None:
        counts.statements += not re.match("BEGIN|COMMIT", statement)

    read, events, snapshots = LiveWindow.read, UserArchive.events, UserArchive.snapshots

    def reading(self: LiveWindow, ids: list[int]) -> None:
        counts.tokens += len(ids)
        read(self, ids)

    def listing(self: UserArchive, *arguments: int) -> list[object]:
        found = events(self, *arguments)  # type: ignore[arg-type]
        counts.rows += len(found)
        return list(found)

    def history(self: UserArchive, session_id: str) -> list[object]:
        found = snapshots(self, session_id)
        counts.rows += len(found)
        return list(found)

    monkeypatch.setattr(LiveWindow, "read", reading)
    monkeypatch.setattr(UserArchive, "events", listing)
    monkeypatch.setattr(UserArchive, "snapshots", history)
    sql_event.listen(engine, "before_cursor_execute", on_statement)
    yield counts
    sql_event.remove(engine, "before_cursor_execute", on_statement)


def a_round(memory: SleepMemory, counts: Counts) -> list[tuple[int, int, int]]:
    """What every kind of step costs, from the same window on."""
    costs = []
    with memory.session() as session:
        session.sleep()
        counts.take()
        for step in (
            lambda: session.add("user", FACT),
            lambda: session.ask("bob ?", max_new_tokens=2, temperature=1.0, seed=1),
            lambda: session.ask("bob ?", remember=False, max_new_tokens=3),
            lambda: fill(session, 5),
            lambda: session.stats(),
            lambda: (session.head, session.tokens, session.window_tokens),
            lambda: session.sleep(),
            lambda: fill(session, 7),
        ):
            step()
            costs.append(counts.take())
    memory.session().close()
    return [*costs, counts.take()]


def test_steps_cost_the_same_after_any_history(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory.session() as session:
        fill(session, 150)  # from here on every sleep also takes the state of an old one away
    with counted(memory, monkeypatch) as counts:
        a_round(memory, counts)
        early = a_round(memory, counts)
        with memory.session() as session:
            fill(session, 150)
            assert len(session.history()) > 36
        late = a_round(memory, counts)
    assert [step[::2] for step in late] == [step[::2] for step in early]
    # A sleep takes one old state away, or two where a deep one was there before it.
    assert all(abs(now[1] - before[1]) <= 4 for now, before in zip(late, early, strict=True))
    assert max(rows for rows, _, _ in late[:-1]) == 0
    assert late[-1][0] <= 1 + 7  # a reopen reads the last mark, and the events behind it
    assert late[-1][2] == 42


def test_a_fork_of_a_fork_costs_little_more(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory.session() as session:
        fill(session, 2)
        head = session.sleep()
    with counted(memory, monkeypatch) as counts:
        costs = []
        for _ in range(6):
            assert head is not None
            with memory.fork(head) as fork:
                costs.append(counts.take())
                fork.add("user", FACT)
                head = fork.sleep()
                counts.take()
    assert len({statements for _, statements, _ in costs}) <= 2
    assert costs[0][::2] == costs[-1][::2]


def objects(session: Session, messages: int) -> int:
    """Objects that are alive after so many messages more."""
    fill(session, messages)
    session.ask("bob ?", max_new_tokens=20, temperature=1.0, seed=1)
    session.sleep()
    gc.collect()
    return len(gc.get_objects())


def test_memory_does_not_grow_with_what_was_said(memory: SleepMemory) -> None:
    with memory.session() as session:
        objects(session, 160)  # more sleeps than there are states that stay
        before = objects(session, 10)
        assert objects(session, 200) - before < 200


@pytest.mark.slow
def test_memory_does_not_grow_over_ten_thousand_messages(opened: Open) -> None:
    with opened(SleepPolicy()).session() as session:
        objects(session, 40)
        tracemalloc.start()
        try:
            before, held = objects(session, 10), tracemalloc.get_traced_memory()[0]
            after, grown = objects(session, 10_000), tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
    assert after - before < 200
    assert grown - held < 300_000


@pytest.mark.slow
def test_time_does_not_grow_over_ten_thousand_messages(opened: Open) -> None:
    memory = opened(SleepPolicy())

    def timed(session: Session) -> float:
        taken = []
        for _ in range(60):
            began = time.perf_counter()
            session.add("tool", FACT)
            taken.append(time.perf_counter() - began)
        return median(taken)

    with memory.session() as session:
        fill(session, 50)
        early = timed(session)
        fill(session, 10_000)
        late = timed(session)
    assert late < 1.5 * early
