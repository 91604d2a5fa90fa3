from __future__ import annotations

import sqlite3
from datetime import UTC
from pathlib import Path

import pytest
from sqlalchemy import event as sql_event

from agentsleep.archive import Archive, NewEvent
from agentsleep.errors import ArchiveDamaged, InputError
from tests.archive.helpers import SLEEP, opened, said, scope, slept


def test_seqs_and_positions_follow_one_another(archive: Archive) -> None:
    session = opened(archive)
    tool = NewEvent(
        kind="tokens", role="tool", token_ids=(7,), text="é\0\u2028🦙", data={"calls": [{"k": 1.5, "n": None}]}
    )
    first = archive.append(session.id, [said(1, 2, 3, text="hello"), tool])
    second = archive.append(session.id, [NewEvent(kind="deep_sleep", data={"rounds": 2}), said()])
    third = archive.append(session.id, [said(9)])
    log = [*first, *second, *third]
    assert [one.seq for one in log] == [0, 1, 2, 3, 4]
    assert [one.position for one in log] == [0, 3, 4, 4, 4]
    assert [one.kind for one in log] == ["tokens", "tokens", "deep_sleep", "tokens", "tokens"]
    assert (log[1].role, log[1].text, log[1].data) == ("tool", tool.text, tool.data)
    assert archive.events(session.id) == log
    assert (archive.session(session.id).events, archive.session(session.id).tokens) == (5, 5)
    assert all(one.created.tzinfo is UTC for one in archive.events(session.id))


def test_what_append_returns_is_what_is_read(archive: Archive) -> None:
    session = opened(archive)
    (written,) = archive.append(session.id, [NewEvent(kind="tokens", data={"pair": (1, 2)})])
    (read,) = archive.events(session.id)
    assert written == read
    assert written.data == {"pair": [1, 2]}
    assert written.created == read.created


def test_a_part_of_the_log(archive: Archive) -> None:
    session = opened(archive)
    log = archive.append(session.id, [said(i) for i in range(10)])
    assert archive.events(session.id, 3) == log[3:]
    assert archive.events(session.id, 3, 7) == log[3:7]
    assert archive.events(session.id, 3, 99) == log[3:]
    assert archive.events(session.id, 7, 3) == []
    assert archive.events(session.id, 10) == []
    for bad in ((-1, None), (0, -1)):
        with pytest.raises(InputError, match="negative"):
            archive.events(session.id, *bad)


def test_nothing_appended_is_nothing_stored(archive: Archive) -> None:
    session = opened(archive)
    assert archive.append(session.id, []) == []
    assert archive.session(session.id).events == 0


def test_an_append_is_all_or_nothing(archive: Archive) -> None:
    session = opened(archive)
    with pytest.raises(InputError, match="event 1 of 2"):
        archive.append(session.id, [said(1), NewEvent(kind="tokens", data={"x": float("nan")})])
    assert archive.events(session.id) == []
    assert archive.session(session.id) == session


def test_sessions_do_not_share_a_log(archive: Archive) -> None:
    a, b = opened(archive, "a"), opened(archive, "b")
    archive.append(a.id, [said(1)])
    archive.append(b.id, [said(2)])
    archive.append(a.id, [said(3)])
    assert [(one.seq, one.token_ids) for one in archive.events(a.id)] == [(0, (1,)), (1, (3,))]
    assert [(one.seq, one.token_ids) for one in archive.events(b.id)] == [(0, (2,))]


def steps(archive: Archive, count: list[int]) -> None:
    """Counts SQLite's virtual machine's instructions from now on: a clock that no other process disturbs."""

    def tick() -> int:
        count[0] += 1
        return 0

    archive._db.engine.dispose()
    sql_event.listen(archive._db.engine, "connect", lambda connection, _: connection.set_progress_handler(tick, 1))


def test_the_length_of_the_log_costs_nothing(archive: Archive) -> None:
    count = [0]
    short, long = opened(archive, "short"), opened(archive, "long")
    archive.append(short.id, [said(1)] * 20)
    for _ in range(4):
        archive.append(long.id, [said(1)] * 5_000)
    fork = archive.fork(slept(archive, long.id, b"x").id, scope("fork"))
    steps(archive, count)

    def cost(session_id: str) -> list[int]:
        costs = []
        head, length = archive.session(session_id).head, archive.session(session_id).events
        for action in (
            lambda: archive.append(session_id, [said(1, 2), said(3)]),
            lambda: slept(archive, session_id, b"state" * 100, expected_head=head),
            lambda: archive.session(session_id),
            lambda: archive.events(session_id, length - 10),
        ):
            count[0] = 0
            action()
            costs.append(count[0])
        return costs

    base = cost(short.id)
    assert min(base) > 5  # the clock ticks
    for session_id in (long.id, fork.id):
        for little, much in zip(base, cost(session_id), strict=True):
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
def test_a_changed_event_is_refused(archive: Archive, path: Path, damage: str) -> None:
    session = opened(archive)
    archive.append(
        session.id, [said(1), NewEvent(kind="tokens", role="user", token_ids=(7,), text="hello", data={"x": 1})]
    )
    with sqlite3.connect(path) as raw:
        raw.execute(f"UPDATE events SET {damage} WHERE seq = 1")
    raw.close()
    with pytest.raises(ArchiveDamaged):
        archive.events(session.id)
    assert archive.events(session.id, 0, 1)[0].token_ids == (1,)  # what is whole can still be read


def test_a_missing_event_is_noticed(archive: Archive, path: Path) -> None:
    session = opened(archive)
    archive.append(session.id, [said(1), said(2), said(3)])
    for seq, found in ((1, 2), (2, 1)):  # from the middle, then from the end
        with sqlite3.connect(path) as raw:
            raw.execute("DELETE FROM events WHERE seq = ?", [seq])
        raw.close()
        with pytest.raises(ArchiveDamaged, match=f"0 to 2, but {found}"):
            archive.events(session.id)


def test_a_mark_is_an_event_without_tokens(archive: Archive) -> None:
    session = opened(archive)
    (mark,) = archive.append(session.id, [SLEEP])
    assert (mark.kind, mark.token_ids, mark.role, mark.data) == ("sleep", (), None, {"passes": 2})
