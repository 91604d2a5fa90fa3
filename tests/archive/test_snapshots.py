from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from sqlalchemy import event as sql_event

from agentsleep.archive import Archive, TensorBytes, UserArchive, chunks, rows
from agentsleep.errors import (
    ArchiveError,
    FingerprintMismatch,
    InputError,
    SessionNotFound,
    SettingsError,
    SnapshotConflict,
    SnapshotDamaged,
    SnapshotNotFound,
    SnapshotPruned,
)
from tests.archive.helpers import MODEL, OTHER_MODEL, SLEEP, change, count, kind, loaded, opened, said, slept, tensor

TABLES = ("events", "snapshots", "tensors", "pieces", "chunks")


def counts(user: UserArchive) -> list[int]:
    return [count(user, table) for table in TABLES]


def test_a_snapshot_says_all_that_was_said_of_it(archive: Archive, ada: UserArchive, where: str) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1, 2, 3)])
    state = bytes(range(256)) * 100
    snapshot = slept(
        ada, session.id, state, passes=4, rounds=2, trigger="window full", mode="fast", metrics={"a": (1, 2)}
    )
    assert (snapshot.session_id, snapshot.parent, snapshot.fingerprint) == (session.id, None, MODEL)
    assert (snapshot.passes, snapshot.rounds, snapshot.trigger, snapshot.mode) == (4, 2, "window full", "fast")
    assert (snapshot.span, snapshot.tokens, snapshot.tag) == ((0, 2), 3, None)
    assert (snapshot.environment, snapshot.metrics) == ({"torch": "2.13.0"}, {"a": [1, 2]})
    assert (snapshot.state_bytes, snapshot.status, snapshot.probe) == (len(state), "stored", {})
    assert snapshot.created.tzinfo is UTC
    assert ada.events(session.id)[-1].kind == "sleep"
    assert ada.session(session.id).head == snapshot.id
    archive.close()
    with Archive(where) as reopened:
        again = reopened.user("acme", "ada")
        assert again.snapshot(snapshot.id) == snapshot == again.all_snapshots()[0]
        assert loaded(again, snapshot.id) == state


def test_history_is_a_line_of_adjoining_spans(ada: UserArchive) -> None:
    session = opened(ada)
    made = []
    for i in range(4):
        ada.append(session.id, [said(i)] * i)
        made.append(slept(ada, session.id, b"state %d" % i))
    assert ada.snapshots(session.id) == made
    assert [one.parent for one in made] == [None, *[one.id for one in made[:-1]]]
    assert [one.span for one in made] == [(0, 1), (1, 3), (3, 6), (6, 10)]
    assert [one.tokens for one in made] == [0, 1, 3, 6]
    assert ada.snapshots(opened(ada, "new").id) == []


def test_a_snapshot_without_marks_has_an_empty_span(ada: UserArchive) -> None:
    session = opened(ada)
    first = slept(ada, session.id, b"one")
    second = slept(ada, session.id, b"two", events=[])
    assert second.span == (1, 1)
    assert ada.snapshots(session.id) == [first, second]


def test_a_state_is_its_tensors_in_order(ada: UserArchive) -> None:
    """Also one that is larger than a chunk, an empty one, a scalar, and parts that are equal."""
    large = bytes(range(256)) * 20_000  # 5 120 000 bytes: two whole chunks and a part
    state = [
        TensorBytes(name="b", dtype="F32", shape=(4, 320_000), data=bytearray(large)),
        TensorBytes(name="a", dtype="BF16", shape=(), data=b"ab"),
        TensorBytes(name="é/…", dtype="F32", shape=(0, 3), data=b""),
        TensorBytes(name="twice", dtype="U8", shape=(2,), data=memoryview(b"ab")),
    ]
    snapshot = slept(ada, opened(ada).id, state)
    assert snapshot.state_bytes == len(large) + 4
    read = ada.load_state(snapshot.id)
    assert [(one.name, one.dtype, one.shape, bytes(one.data)) for one in read] == [
        (one.name, one.dtype, one.shape, bytes(one.data)) for one in state
    ]
    assert [one.name for one in ada.load_state(snapshot.id, ["twice", "b", "none"])] == ["b", "twice"]
    assert (count(ada, "tensors"), count(ada, "pieces"), count(ada, "chunks")) == (
        4,
        5,
        3,
    )  # the whole chunks are equal


def test_equal_tensors_are_stored_once_a_user(archive: Archive, ada: UserArchive) -> None:
    a, b = opened(ada, "a"), opened(ada, "b")
    made = [slept(ada, one.id, b"same" * 50_000) for one in (a, a, b)]
    slept(ada, b.id, [tensor(b"same" * 50_000), tensor(b"other", "more")])
    bob = archive.user("acme", "bob")
    slept(bob, opened(bob).id, b"same" * 50_000)
    assert len({one.id for one in made}) == 3
    assert (count(ada, "chunks"), count(bob, "chunks")) == (2, 1)
    assert all(loaded(ada, one.id) == b"same" * 50_000 for one in made)


def test_two_archives_race_and_one_loses(ada: UserArchive, where: str) -> None:
    session = opened(ada)
    first = slept(ada, session.id, b"first")
    with Archive(where) as other:
        winner = slept(other.user("acme", "ada"), session.id, b"winner")
        before = counts(ada)
        with pytest.raises(SnapshotConflict) as caught:
            slept(ada, session.id, b"loser", expected_head=first.id)
    assert first.id in str(caught.value)
    assert winner.id in str(caught.value)
    assert counts(ada) == before
    assert ada.snapshots(session.id) == [first, winner]
    retried = slept(ada, session.id, b"loser", expected_head=winner.id)
    assert ada.session(session.id).head == retried.id


@pytest.mark.parametrize("expected", ["0" * 32, "fork's"])
def test_a_head_that_is_not_the_sessions_is_a_conflict(ada: UserArchive, expected: str) -> None:
    session = opened(ada)
    snapshot = slept(ada, session.id, b"one")
    if expected == "fork's":
        expected = slept(ada, ada.fork(snapshot.id, "fork").id, b"two").id
    with pytest.raises(SnapshotConflict, match=snapshot.id):
        slept(ada, session.id, b"three", expected_head=expected)
    with pytest.raises(SnapshotConflict, match="started from none"):
        slept(ada, session.id, b"three", expected_head=None)


def test_the_first_snapshot_expects_no_head(ada: UserArchive) -> None:
    session = opened(ada)
    with pytest.raises(SnapshotConflict, match="is none"):
        slept(ada, session.id, b"one", expected_head="0" * 32)
    assert ada.snapshots(session.id) == []


def test_the_head_itself_is_compared_when_it_is_moved(archive: Archive, ada: UserArchive) -> None:
    """Even a head that moves within the transaction, after it was looked at, is not overwritten."""
    session = opened(ada)
    first = slept(ada, session.id, b"first")
    slept(ada, session.id, b"second")

    def meddle(connection: Any, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("UPDATE sessions SET head_id"):
            cursor.connection.execute(f"UPDATE sessions SET head_id = '{first.id}'")

    head = ada.session(session.id).head
    sql_event.listen(archive.database.engine, "before_cursor_execute", meddle)
    with pytest.raises(SnapshotConflict, match=first.id):
        slept(ada, session.id, b"third", expected_head=head)
    sql_event.remove(archive.database.engine, "before_cursor_execute", meddle)
    assert ada.session(session.id).head == head
    assert count(ada, "snapshots") == 2


def test_a_log_that_grew_since_is_a_conflict_when_asked_for(ada: UserArchive) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1)])
    ada.append(session.id, [said(2)])
    with pytest.raises(SnapshotConflict, match="has 2 events, the sleep saw 1"):
        slept(ada, session.id, b"one", expected_events=1)
    assert (ada.session(session.id).head, ada.session(session.id).events) == (None, 2)
    assert slept(ada, session.id, b"one", expected_events=2).span == (0, 3)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"passes": 0}, SettingsError, "passes.* got 0"),
        ({"passes": -1}, SettingsError, "passes.* got -1"),
        ({"passes": True}, SettingsError, "passes"),
        ({"passes": 1.5}, SettingsError, r"1\.5"),
        ({"rounds": 0}, SettingsError, "rounds.* got 0"),
        ({"state": b""}, InputError, "empty"),
        ({"state": []}, InputError, "empty"),
        ({"state": [tensor(b"x"), tensor(b"y")]}, InputError, "one name"),
        ({"state": [tensor(b"x", "")]}, InputError, "tensor's name is empty"),
        ({"probe": {"x": {1}}}, InputError, "probe"),
        ({"metrics": {"norm": float("nan")}}, InputError, "metrics"),
        ({"environment": {"x": object()}}, InputError, "environment"),
        ({"trigger": ""}, InputError, "trigger"),
        ({"mode": ""}, InputError, "mode"),
        ({"fingerprint": ""}, InputError, "fingerprint"),
        ({"fingerprint": OTHER_MODEL}, FingerprintMismatch, OTHER_MODEL[:12]),
    ],
)
def test_a_bad_commit_stores_nothing(
    ada: UserArchive, changes: dict[str, Any], error: type[Exception], words: str
) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1)])
    with pytest.raises(error, match=words):
        slept(ada, session.id, **{"state": b"x", **changes})
    assert counts(ada) == [1, 0, 0, 0, 0]
    assert ada.session(session.id).head is None


def test_a_commit_needs_a_session(ada: UserArchive) -> None:
    settings = {"passes": 1, "rounds": 1, "trigger": "t", "mode": "m", "environment": {}, "metrics": {}}
    with pytest.raises(SessionNotFound, match="nobody"):
        ada.commit_snapshot(
            "nobody", expected_head=None, state=[tensor(b"x")], events=[], fingerprint=MODEL, **settings
        )


def test_tags_come_and_go(ada: UserArchive) -> None:
    snapshot = slept(ada, opened(ada).id, b"x")
    assert ada.tag(snapshot.id, "before the merge").tag == "before the merge"
    assert ada.snapshot(snapshot.id).tag == "before the merge"
    assert ada.tag(snapshot.id, None) == snapshot
    for bad in ("", "x" * 256, "a\0"):
        with pytest.raises(InputError, match="tag"):
            ada.tag(snapshot.id, bad)
    with pytest.raises(SnapshotNotFound, match="nothing"):
        ada.tag("nothing", "x")


DAMAGE = {
    "UPDATE chunks SET data = '{other}' WHERE scope_id = :scope": "chunk",
    "UPDATE pieces SET part = part + 1 WHERE scope_id = :scope": None,
    "DELETE FROM pieces WHERE scope_id = :scope": "list of its tensors",
    "UPDATE tensors SET name = 'x' WHERE scope_id = :scope": "list of its tensors",
    "UPDATE tensors SET dtype = 'F16' WHERE scope_id = :scope": "list of its tensors",
    "UPDATE tensors SET shape = '[2, 2]' WHERE scope_id = :scope": "list of its tensors",
    "UPDATE snapshots SET state_digest = 'f' || substr(state_digest, 2) WHERE scope_id = :scope": "list of its tensors",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_state_that_is_not_its_digest_is_refused(archive: Archive, ada: UserArchive, damage: str) -> None:
    snapshot = slept(ada, opened(ada).id, b"abcd")
    change(ada, damage.replace("'{other}'", "X'00'" if kind(archive) == "sqlite" else "'\\x00'"))
    if DAMAGE[damage] is None:  # which numbers the parts have says nothing, only their order
        assert loaded(ada, snapshot.id) == b"abcd"
        return
    with pytest.raises(SnapshotDamaged, match=DAMAGE[damage]) as caught:
        ada.load_state(snapshot.id)
    assert snapshot.id in str(caught.value)
    assert ada.snapshots(snapshot.session_id)[0].id == snapshot.id  # the lineage can be read


def test_a_damaged_chunk_spoils_what_it_is_part_of_and_is_mended_by_an_equal_state(
    archive: Archive, ada: UserArchive
) -> None:
    session = opened(ada)
    whole = slept(ada, session.id, [tensor(b"whole", "a"), tensor(b"needle", "b")])
    other = slept(ada, session.id, [tensor(b"whole", "a")])
    bad = "X'00'" if kind(archive) == "sqlite" else "'\\x00'"
    change(ada, f"UPDATE chunks SET data = {bad} WHERE scope_id = :scope AND size = 6")
    with pytest.raises(SnapshotDamaged, match="part 0 of b"):
        ada.load_state(whole.id)
    assert bytes(ada.load_state(whole.id, ["a"])[0].data) == bytes(ada.load_state(other.id)[0].data) == b"whole"
    slept(ada, session.id, [tensor(b"needle", "c")])
    assert bytes(ada.load_state(whole.id)[1].data) == b"needle"


def test_a_chunk_that_vanishes_between_look_and_count_is_stored_again(
    ada: UserArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another writer's pruning does it on PostgreSQL, where writers are not alone."""
    session = opened(ada)
    slept(ada, session.id, b"shared")
    stored = chunks._stored

    def then_gone(tx: Any, scope_id: str, names: Any) -> Any:
        found = stored(tx, scope_id, names)
        assert found
        chunks.drop(tx, scope_id, [one.id for one in first])
        return found

    first = ada.snapshots(session.id)
    monkeypatch.setattr(chunks, "_stored", then_gone)
    second = slept(ada, session.id, b"shared")
    assert loaded(ada, second.id) == b"shared"
    assert count(ada, "chunks") == 1


def test_dropped_states_free_what_nothing_else_needs(ada: UserArchive) -> None:
    session = opened(ada)
    first = slept(ada, session.id, [tensor(b"shared", "a"), tensor(b"only first", "b"), tensor(b"only first", "c")])
    second = slept(ada, session.id, [tensor(b"shared", "a")])
    with ada.writing() as (tx, scope_id, _key):
        assert chunks.drop(tx, scope_id, [first.id]) == len(b"only first")
    assert (count(ada, "tensors"), count(ada, "pieces"), count(ada, "chunks")) == (1, 1, 1)
    assert bytes(ada.load_state(second.id)[0].data) == b"shared"
    with ada.writing() as (tx, scope_id, _key):
        assert chunks.drop(tx, scope_id, [first.id, second.id]) == len(b"shared")
    assert (count(ada, "tensors"), count(ada, "pieces"), count(ada, "chunks")) == (0, 0, 0)


def test_a_pruned_state_says_where_to_go(ada: UserArchive) -> None:
    snapshot = slept(ada, opened(ada).id, b"abcd")
    change(ada, "UPDATE snapshots SET status = 'pruned' WHERE scope_id = :scope")
    with pytest.raises(SnapshotPruned, match=r"replay|newer snapshot"):
        ada.load_state(snapshot.id)
    assert ada.snapshot(snapshot.id).status == "pruned"


class Backwards:
    """A transformation that a test can undo by eye."""

    def __init__(self, name: str = "backwards") -> None:
        self.name = name

    def encode(self, data: bytes) -> bytes:
        return b"!" + data[::-1]

    def decode(self, data: bytes) -> bytes:
        if not data.startswith(b"!"):
            raise ValueError("no mark")
        return data[:0:-1]


def test_states_go_through_the_transformation_and_come_back(archive: Archive, ada: UserArchive, where: str) -> None:
    session = opened(ada)
    plain = slept(ada, session.id, b"written before")
    archive.close()
    with Archive(where, transform=Backwards()) as reopened:
        user = reopened.user("acme", "ada")
        coded = slept(user, session.id, b"abc")
        assert (loaded(user, coded.id), loaded(user, plain.id)) == (b"abc", b"written before")
        with user.reading() as (tx, scope_id):
            found = chunks._stored(tx, scope_id, list(chunks.SplitState([tensor(b"abc")]).chunks))
        assert list(found.values()) == [("backwards", b"!cba")]
        slept(user, session.id, b"abc")
        assert count(user, "chunks") == 2  # their digests are those of the plain bytes
        change(user, "UPDATE chunks SET data = substr(data, 2) WHERE scope_id = :scope AND size = 3")
        with pytest.raises(SnapshotDamaged, match="does not match"):
            user.load_state(coded.id)
    for other in (None, Backwards("another")):
        with Archive(where, transform=other) as reopened:
            user = reopened.user("acme", "ada")
            assert loaded(user, plain.id) == b"written before"
            with pytest.raises(ArchiveError, match="through the transformation 'backwards'"):
                user.load_state(coded.id)


def test_marks_are_in_the_same_transaction(ada: UserArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that fails at its very last statement leaves nothing behind."""

    def broken(*_: object) -> None:
        raise RuntimeError("stop")

    session = opened(ada)
    ada.append(session.id, [said(1)])
    monkeypatch.setattr(rows, "move_head", broken)
    with pytest.raises(RuntimeError, match="stop"):
        slept(ada, session.id, b"one", events=[SLEEP, SLEEP])
    assert counts(ada) == [1, 0, 0, 0, 0]
    assert ada.session(session.id).events == 1
