from __future__ import annotations

import hashlib
import sqlite3
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event as sql_event

from agentsleep.archive import Archive
from agentsleep.errors import (
    FingerprintMismatch,
    InputError,
    SessionNotFound,
    SettingsError,
    SnapshotConflict,
    SnapshotDamaged,
    SnapshotNotFound,
)
from tests.archive.helpers import ADA, MODEL, OTHER_MODEL, SLEEP, opened, said, scope, slept


def rows(path: Path, table: str) -> int:
    raw = sqlite3.connect(path)
    try:
        return int(raw.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    finally:
        raw.close()


def test_a_snapshot_says_all_that_was_said_of_it(archive: Archive, path: Path) -> None:
    session = opened(archive)
    archive.append(session.id, [said(1, 2, 3)])
    state = bytes(range(256)) * 100
    snapshot = slept(
        archive, session.id, state, passes=4, rounds=2, trigger="window full", mode="fast", metrics={"a": (1, 2)}
    )
    assert (snapshot.session_id, snapshot.parent, snapshot.fingerprint) == (session.id, None, MODEL)
    assert (snapshot.passes, snapshot.rounds, snapshot.trigger, snapshot.mode) == (4, 2, "window full", "fast")
    assert (snapshot.span, snapshot.tokens, snapshot.tag) == ((0, 2), 3, None)
    assert (snapshot.environment, snapshot.metrics) == ({"torch": "2.13.0"}, {"a": [1, 2]})
    assert (snapshot.state_digest, snapshot.state_bytes) == (hashlib.sha256(state).hexdigest(), len(state))
    assert snapshot.created.tzinfo is UTC
    assert archive.events(session.id)[-1].kind == "sleep"
    assert archive.session(session.id).head == snapshot.id
    archive.close()
    with Archive(path) as reopened:
        assert reopened.snapshot(snapshot.id, **ADA) == snapshot
        assert reopened.load_state(snapshot.id, **ADA) == state


def test_history_is_a_line_of_adjoining_spans(archive: Archive) -> None:
    session = opened(archive)
    made = []
    for i in range(4):
        archive.append(session.id, [said(i)] * i)
        made.append(slept(archive, session.id, b"state %d" % i))
    assert archive.snapshots(session.id) == made
    assert [one.parent for one in made] == [None, *[one.id for one in made[:-1]]]
    assert [one.span for one in made] == [(0, 1), (1, 3), (3, 6), (6, 10)]
    assert [one.tokens for one in made] == [0, 1, 3, 6]
    assert archive.snapshots(opened(archive, "new").id) == []


def test_a_snapshot_without_marks_has_an_empty_span(archive: Archive) -> None:
    session = opened(archive)
    first = slept(archive, session.id, b"one")
    second = slept(archive, session.id, b"two", events=[])
    assert second.span == (1, 1)
    assert archive.snapshots(session.id) == [first, second]


def test_equal_states_are_stored_once(archive: Archive, path: Path) -> None:
    a, b = opened(archive, "a"), opened(archive, "b")
    made = [slept(archive, one.id, b"same" * 50_000) for one in (a, a, b)]
    assert len({one.id for one in made}) == 3
    assert rows(path, "states") == 1
    assert all(archive.load_state(one.id, **ADA) == b"same" * 50_000 for one in made)


def test_two_archives_race_and_one_loses(archive: Archive, path: Path) -> None:
    session = opened(archive)
    first = slept(archive, session.id, b"first")
    with Archive(path) as other:
        winner = slept(other, session.id, b"winner")
        before = [rows(path, table) for table in ("events", "snapshots", "states")]
        with pytest.raises(SnapshotConflict) as caught:
            slept(archive, session.id, b"loser", expected_head=first.id)
    assert first.id in str(caught.value)
    assert winner.id in str(caught.value)
    assert [rows(path, table) for table in ("events", "snapshots", "states")] == before
    assert archive.snapshots(session.id) == [first, winner]
    retried = slept(archive, session.id, b"loser", expected_head=winner.id)
    assert archive.session(session.id).head == retried.id


@pytest.mark.parametrize("expected", ["0" * 32, "fork's"])
def test_a_head_that_is_not_the_sessions_is_a_conflict(archive: Archive, expected: str) -> None:
    session = opened(archive)
    snapshot = slept(archive, session.id, b"one")
    if expected == "fork's":
        expected = slept(archive, archive.fork(snapshot.id, scope("fork")).id, b"two").id
    with pytest.raises(SnapshotConflict, match=snapshot.id):
        slept(archive, session.id, b"three", expected_head=expected)
    with pytest.raises(SnapshotConflict, match="started from none"):
        slept(archive, session.id, b"three", expected_head=None)


def test_the_first_snapshot_expects_no_head(archive: Archive) -> None:
    session = opened(archive)
    with pytest.raises(SnapshotConflict, match="is none"):
        slept(archive, session.id, b"one", expected_head="0" * 32)
    assert archive.snapshots(session.id) == []


def test_the_head_itself_is_compared_when_it_is_moved(archive: Archive, path: Path) -> None:
    """Even a head that moves within the transaction, after it was looked at, is not overwritten."""
    session = opened(archive)
    first = slept(archive, session.id, b"first")
    slept(archive, session.id, b"second")

    def meddle(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE sessions SET head_id"):
            cursor.connection.execute("UPDATE sessions SET head_id = ?", [first.id])

    head = archive.session(session.id).head
    sql_event.listen(archive._db.engine, "before_cursor_execute", meddle)
    with pytest.raises(SnapshotConflict, match=first.id):
        slept(archive, session.id, b"third", expected_head=head)
    sql_event.remove(archive._db.engine, "before_cursor_execute", meddle)
    assert archive.session(session.id).head == head
    assert rows(path, "snapshots") == 2


def test_a_log_that_grew_since_is_a_conflict_when_asked_for(archive: Archive) -> None:
    session = opened(archive)
    archive.append(session.id, [said(1)])
    archive.append(session.id, [said(2)])
    with pytest.raises(SnapshotConflict, match="has 2 events, the sleep saw 1"):
        slept(archive, session.id, b"one", expected_events=1)
    assert (archive.session(session.id).head, archive.session(session.id).events) == (None, 2)
    assert slept(archive, session.id, b"one", expected_events=2).span == (0, 3)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"passes": 0}, SettingsError, "passes.* got 0"),
        ({"passes": -1}, SettingsError, "passes.* got -1"),
        ({"passes": True}, SettingsError, "passes"),
        ({"passes": 1.5}, SettingsError, r"1\.5"),
        ({"rounds": 0}, SettingsError, "rounds.* got 0"),
        ({"state": b""}, InputError, "empty"),
        ({"metrics": {"norm": float("nan")}}, InputError, "metrics"),
        ({"environment": {"x": object()}}, InputError, "environment"),
        ({"trigger": ""}, InputError, "trigger"),
        ({"mode": ""}, InputError, "mode"),
        ({"fingerprint": ""}, InputError, "fingerprint"),
        ({"fingerprint": OTHER_MODEL}, FingerprintMismatch, OTHER_MODEL[:12]),
    ],
)
def test_a_bad_commit_stores_nothing(
    archive: Archive, path: Path, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    session = opened(archive)
    archive.append(session.id, [said(1)])
    with pytest.raises(error, match=words):
        slept(archive, session.id, **{"state": b"x", **changes})
    assert [rows(path, table) for table in ("events", "snapshots", "states")] == [1, 0, 0]
    assert archive.session(session.id).head is None


def test_a_commit_needs_a_session(archive: Archive) -> None:
    settings = {"passes": 1, "rounds": 1, "trigger": "t", "mode": "m", "environment": {}, "metrics": {}}
    with pytest.raises(SessionNotFound, match="nobody"):
        archive.commit_snapshot("nobody", expected_head=None, state=b"x", events=[], fingerprint=MODEL, **settings)


def test_tags_come_and_go(archive: Archive) -> None:
    snapshot = slept(archive, opened(archive).id, b"x")
    assert archive.tag(snapshot.id, "before the merge", **ADA).tag == "before the merge"
    assert archive.snapshot(snapshot.id, **ADA).tag == "before the merge"
    assert archive.tag(snapshot.id, None, **ADA) == snapshot
    for bad in ("", "x" * 256, "a\0"):
        with pytest.raises(InputError, match="tag"):
            archive.tag(snapshot.id, bad, **ADA)
    with pytest.raises(SnapshotNotFound, match="nothing"):
        archive.tag("nothing", "x", **ADA)


def test_a_flipped_byte_of_a_state_is_found(archive: Archive, path: Path) -> None:
    session = opened(archive)
    archive.append(session.id, [said(1)])
    whole = slept(archive, session.id, b"whole" * 20_000)
    flipped = slept(archive, session.id, b"needle" * 20_000)
    archive.close()
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"needle" * 100) + 301] ^= 1
    path.write_bytes(raw)
    with Archive(path) as reopened:
        with pytest.raises(SnapshotDamaged) as caught:
            reopened.load_state(flipped.id, **ADA)
        assert flipped.id in str(caught.value)
        assert whole.id in str(caught.value)  # where to go back to
        assert reopened.load_state(whole.id, **ADA) == b"whole" * 20_000
        assert reopened.snapshots(session.id) == [whole, flipped]
        # The same state committed once more is stored afresh, which mends the old snapshot too.
        again = slept(reopened, session.id, b"needle" * 20_000)
        assert reopened.load_state(again.id, **ADA) == reopened.load_state(flipped.id, **ADA) == b"needle" * 20_000


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE states SET data = data || X'00'",
        "UPDATE states SET data = X''",
        "UPDATE states SET data = 'text'",
        "DELETE FROM states",
        "UPDATE snapshots SET state_digest = 'f' || substr(state_digest, 2)",
        "UPDATE snapshots SET state_bytes = 3",
    ],
)
def test_a_state_that_is_not_its_digest_is_refused(archive: Archive, path: Path, damage: str) -> None:
    snapshot = slept(archive, opened(archive).id, b"abcd")
    with sqlite3.connect(path) as raw:
        raw.execute(damage)
    raw.close()
    with pytest.raises(SnapshotDamaged, match=snapshot.id):
        archive.load_state(snapshot.id, **ADA)


def test_marks_are_in_the_same_transaction(archive: Archive, path: Path) -> None:
    """A commit that fails at its very last statement leaves no mark behind."""
    session = opened(archive)
    archive.append(session.id, [said(1)])
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TRIGGER stop BEFORE UPDATE OF head_id ON sessions BEGIN SELECT RAISE(ABORT, 'stop'); END")
    raw.close()
    with pytest.raises(Exception, match="stop"):
        slept(archive, session.id, b"one", events=[SLEEP, SLEEP])
    assert [rows(path, table) for table in ("events", "snapshots", "states")] == [1, 0, 0]
    assert archive.session(session.id).events == 1
