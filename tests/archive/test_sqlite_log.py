"""A log in SQLite: what a file's columns may hold that PostgreSQL's cannot, and what reading costs."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import event as sql_event

from agentsleep.archive import Archive, NewEvent, UserArchive
from agentsleep.errors import ArchiveDamaged
from tests.archive.helpers import opened, said, slept


@pytest.fixture
def where(path: Path) -> str:
    return str(path)


def steps(archive: Archive, count: list[int]) -> None:
    """Counts SQLite's virtual machine's instructions from now on: a clock that no other process disturbs."""

    def tick() -> int:
        count[0] += 1
        return 0

    archive.database.engine.dispose()
    sql_event.listen(archive.database.engine, "connect", lambda connection, _: connection.set_progress_handler(tick, 1))


def test_the_length_of_the_log_costs_nothing(archive: Archive, ada: UserArchive) -> None:
    count = [0]
    short, long = opened(ada, "short"), opened(ada, "long")
    ada.append(short.id, [said(1)] * 20)
    for _ in range(4):
        ada.append(long.id, [said(1)] * 1_000)
    forks = [ada.fork(slept(ada, one.id, b"x").id, f"fork {one.id}") for one in (short, long)]
    steps(archive, count)

    def cost(session_id: str) -> list[int]:
        costs = []
        head, length = ada.session(session_id).head, ada.session(session_id).events
        for action in (
            lambda: ada.append(session_id, [said(1, 2), said(3)]),
            lambda: slept(ada, session_id, b"state" * 100, expected_head=head),
            lambda: ada.session(session_id),
            lambda: ada.events(session_id, length - 10),
        ):
            count[0] = 0
            action()
            costs.append(count[0])
        return costs

    for one, other in ((short, long), forks):  # what a fork has inherited takes a second query
        base = cost(one.id)
        assert min(base) > 5  # the clock ticks
        for little, much in zip(base, cost(other.id), strict=True):
            assert much <= 1.5 * little + 100


@pytest.mark.parametrize(
    "damage",
    [
        "token_ids = X'08000000'",
        "token_ids = X'070000'",
        "position = position + 1",
        "text = 'hullo'",
        "text = CAST(X'FFFE' AS TEXT)",
        "role = 'user2'",
        "role = NULL",
        "kind = 'sleep'",
        "data = '{\"x\":2}'",
        "data = '{'",
        "created = 'yesterday'",
        "token_ids = 5",
        "token_ids = 'abcd'",
    ],
)
def test_a_changed_event_is_refused(ada: UserArchive, path: Path, damage: str) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1), NewEvent(kind="tokens", role="user", token_ids=(7,), text="hello", data={"x": 1})])
    with sqlite3.connect(path) as raw:
        raw.execute(f"UPDATE events SET {damage} WHERE seq = 1")
    raw.close()
    with pytest.raises(ArchiveDamaged):
        ada.events(session.id)
    assert ada.events(session.id, 0, 1)[0].token_ids == (1,)  # what is whole can still be read
