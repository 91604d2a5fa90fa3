"""Verifying: what is whole is told so, and whatever is not is found and named."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agentsleep.archive import Archive, NewEvent, Snapshot, TensorBytes, UserArchive
from agentsleep.archive.retention import prune
from agentsleep.archive.rules import Retention
from agentsleep.archive.verify import Finding, verify
from agentsleep.errors import ArchiveError
from tests.archive.helpers import MODEL, change, kind, opened, said, slept, tensor


def filled(user: UserArchive) -> list[Snapshot]:
    """Two threads, one a fork, with three states that share a chunk."""
    session = opened(user)
    shared = tensor(b"shared" * 20, "layers.0.recurrent")
    snapshots = []
    for place in range(2):
        user.append(session.id, [said(1, 2, 3, text="bob hands over"), said(4, text="late " + "é" * place)])
        own = TensorBytes(name="layers.1.conv", dtype="F32", shape=(1, 4, 2), data=bytes([place]) * 32)
        snapshots.append(slept(user, session.id, [shared, own]))
    fork = user.fork(snapshots[0].id, "fork")
    user.append(fork.id, [NewEvent(kind="tokens", role="tool", token_ids=(7,), text="so", data={"id": "a", "n": 12})])
    return [*snapshots, slept(user, fork.id, [shared])]


def only(user: UserArchive, *problems: str) -> Finding:
    """The first finding, if these problems are all that was found."""
    report = verify(user)
    assert not report.ok
    assert {one.problem for one in report.findings} == set(problems), report.findings
    return report.findings[0]


def test_what_is_whole_is_told_so(archive: Archive, ada: UserArchive) -> None:
    assert verify(ada).ok
    filled(ada), filled(archive.user("acme", "eve"))
    parts: list[float] = []
    report = verify(ada, progress=parts.append)
    assert report.ok
    assert (report.sessions, report.snapshots, report.pruned, report.chunks, report.events) == (2, 3, 0, 3, 8)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert verify(ada, deep=False).ok


def test_a_pruned_state_is_no_damage(ada: UserArchive) -> None:
    snapshots = filled(ada)
    slept(ada, snapshots[1].session_id, b"more")
    prune(ada, Retention(keep_last=1))
    report = verify(ada)
    assert report.ok
    assert report.pruned == 2


def test_a_damaged_chunk_is_named_in_every_state(archive: Archive, ada: UserArchive) -> None:
    snapshots = filled(ada)
    zero = "zeroblob(size)" if kind(archive) == "sqlite" else "convert_to(repeat('x', size::int), 'UTF8')"
    change(ada, f"UPDATE chunks SET data = {zero} WHERE scope_id = :scope AND refs = 3")
    report = verify(ada)
    assert sorted((one.problem, one.snapshot_id, one.tensor) for one in report.findings) == sorted(
        ("chunk", one.id, "layers.0.recurrent") for one in snapshots
    )
    assert "does not match its digest" in report.findings[0].message
    assert len({one.chunk for one in report.findings}) == 1
    assert verify(ada, deep=False).ok  # does not read them


def test_a_wrong_count_is_found(ada: UserArchive) -> None:
    filled(ada)
    change(ada, "UPDATE chunks SET refs = 7 WHERE scope_id = :scope AND refs = 3")
    found = only(ada, "references")
    assert "counts 7 references, there are 3" in found.message
    assert not verify(ada, deep=False).ok


def test_a_chunk_of_no_state_is_an_orphan(ada: UserArchive) -> None:
    snapshots = filled(ada)
    change(ada, f"DELETE FROM pieces WHERE scope_id = :scope AND snapshot_id = '{snapshots[0].id}' AND ordinal = 1")
    report = verify(ada)
    assert {one.problem for one in report.findings} == {"orphan", "references", "manifest"}
    (manifest,) = [one for one in report.findings if one.problem == "manifest"]
    assert manifest.snapshot_id == snapshots[0].id


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tensors SET name = 'layers.9.conv' WHERE scope_id = :scope AND ordinal = 1",
        "UPDATE tensors SET dtype = 'F16' WHERE scope_id = :scope AND ordinal = 1",
        "UPDATE tensors SET shape = '[1,2,4]' WHERE scope_id = :scope AND ordinal = 1",
        "UPDATE snapshots SET state_digest = 'x' WHERE scope_id = :scope",
        "UPDATE snapshots SET state_bytes = 1 WHERE scope_id = :scope",
        "UPDATE snapshots SET status = 'pruned' WHERE scope_id = :scope",
    ],
)
def test_a_state_that_is_not_as_it_was_stored_is_found(ada: UserArchive, statement: str) -> None:
    snapshots = filled(ada)
    change(ada, statement)
    assert only(ada, "manifest").snapshot_id in [one.id for one in snapshots]


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("UPDATE events SET text = 'x' WHERE scope_id = :scope AND seq = 1", "fails its checksum"),
        ("UPDATE events SET data = '{}' WHERE scope_id = :scope AND kind = 'sleep'", "fails its checksum"),
        ("UPDATE events SET position = 9 WHERE scope_id = :scope AND seq = 1", "fails its checksum"),
        ("UPDATE events SET token_count = 9 WHERE scope_id = :scope AND seq = 1", "counts 9 tokens, and has 1"),
        ("UPDATE events SET text_hash = 'x' WHERE scope_id = :scope AND seq = 1", "has a hash that is not"),
        ("UPDATE events SET text_hash = NULL WHERE scope_id = :scope AND seq = 1", "has a hash that is not"),
    ],
)
def test_a_damaged_event_is_named(ada: UserArchive, statement: str, said: str) -> None:
    filled(ada)
    change(ada, statement)
    found = only(ada, "log")
    assert found.seq in (1, 2, 4, 5)
    assert said in found.message


@pytest.mark.parametrize("deep", [True, False])
def test_a_missing_event_is_named(ada: UserArchive, deep: bool) -> None:
    snapshots = filled(ada)
    change(ada, "DELETE FROM events WHERE scope_id = :scope AND seq = 1")
    (found,) = verify(ada, deep=deep).findings
    assert (found.problem, found.seq, found.session_id) == ("log", 1, snapshots[0].session_id)


def test_counters_that_do_not_fit_are_found(ada: UserArchive) -> None:
    filled(ada)
    change(ada, "UPDATE sessions SET next_position = 99 WHERE scope_id = :scope AND thread = 'fork'")
    assert "should have 99 tokens, its events end at 5" in only(ada, "log").message
    change(ada, "UPDATE sessions SET next_position = 5, next_seq = 4 WHERE scope_id = :scope AND thread = 'fork'")
    assert "lie outside of their logs" in only(ada, "orphan").message


def test_lineage_that_does_not_fit_is_found(ada: UserArchive) -> None:
    snapshots = filled(ada)
    child = f"WHERE scope_id = :scope AND id = '{snapshots[1].id}'"
    change(ada, f"UPDATE snapshots SET span_start = 1 {child}")
    assert only(ada, "lineage").snapshot_id == snapshots[1].id
    change(ada, f"UPDATE snapshots SET span_start = 3, fingerprint = '{MODEL[::-1]}' {child}")
    assert {one.snapshot_id for one in verify(ada).findings} == {snapshots[1].id}
    assert len(verify(ada).findings) == 2  # its parent's model, and its session's


class Xor:
    """A transformation that takes every byte apart."""

    name = "xor"

    def encode(self, data: bytes) -> bytes:
        return bytes(byte ^ 255 for byte in data)

    decode = encode


def test_chunks_are_checked_through_their_transformation(where: str) -> None:
    with Archive(where, transform=Xor()) as archive:
        user = archive.user("acme", "ada")
        filled(user)
        assert verify(user).ok
        change(user, "UPDATE chunks SET data = substr(data, 2) WHERE scope_id = :scope AND refs = 3")
        assert only(user, "chunk").tensor == "layers.0.recurrent"
    with Archive(where) as archive, pytest.raises(ArchiveError, match="transformation 'xor'"):
        verify(archive.user("acme", "ada"))


CELLS = {
    "chunks": ("data", "digest"),
    "tensors": ("name", "shape", "dtype"),
    "events": ("token_ids", "text", "data"),
    "snapshots": ("state_digest",),
}


def missed(path: Path, flips: int) -> Iterator[str]:
    """Flips single bits of stored values, one at a time, and gives those that nobody notices."""
    with Archive(path) as archive:
        filled(archive.user("acme", "ada"))
    rng = random.Random(0)
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("PRAGMA synchronous = OFF")
        cells = [
            (table, column, rowid)
            for table, columns in CELLS.items()
            for column in columns
            for (rowid,) in raw.execute(f"SELECT rowid FROM {table} WHERE length({column}) > 0 AND {column} != '{{}}'")
        ]
        with Archive(path, synchronous="NORMAL") as archive:
            user = archive.user("acme", "ada")
            assert verify(user).ok
            for _ in range(flips):
                table, column, rowid = rng.choice(cells)
                query = f"SELECT CAST({column} AS BLOB), typeof({column}) FROM {table} WHERE rowid = ?"
                (data, stored_as) = raw.execute(query, [rowid]).fetchone()
                bit = rng.randrange(8 * len(data))
                changed = bytearray(data)
                changed[bit // 8] ^= 1 << bit % 8
                update = f"UPDATE {table} SET {column} = CAST(? AS {stored_as}) WHERE rowid = ?"
                raw.execute(update, [bytes(changed), rowid])
                if verify(user).ok:
                    yield f"bit {bit} of {column} of row {rowid} of {table}"
                raw.execute(update, [data, rowid])
            assert verify(user).ok


def test_flipped_bits_are_found(tmp_path: Path) -> None:
    assert list(missed(tmp_path / "memory.db", 100)) == []


@pytest.mark.slow
def test_a_thousand_flipped_bits_are_found(tmp_path: Path) -> None:
    assert list(missed(tmp_path / "memory.db", 1_000)) == []


def test_rows_that_cannot_be_read_are_named_and_the_others_checked(tmp_path: Path) -> None:
    with Archive(tmp_path / "memory.db") as archive:
        ada = archive.user("acme", "ada")
        snapshots = filled(ada)
        change(ada, "UPDATE events SET text = CAST(x'ff' AS TEXT) WHERE scope_id = :scope AND seq = 1")
        change(ada, "UPDATE tensors SET shape = '[1' WHERE scope_id = :scope AND dtype = 'F32'")
        change(ada, "UPDATE chunks SET refs = 9 WHERE scope_id = :scope AND refs = 3")
        findings = verify(ada).findings
        unreadable = [one for one in findings if one.problem == "unreadable"]
        assert sum("of events" in one.message for one in unreadable) == 1
        assert sum("of tensors" in one.message for one in unreadable) == 2
        assert [one.session_id for one in unreadable if "of events" in one.message] == [snapshots[0].session_id]
        assert {"references", "manifest", "unreadable"} <= {one.problem for one in findings}
