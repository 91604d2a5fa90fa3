"""Old files and old schemas: upgraded whole, or left alone."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from agentsleep.archive import Archive, UserArchive, migrate
from agentsleep.archive.codec import checksum, text_hash
from agentsleep.archive.schema import REVISION
from agentsleep.archive.sqlite import SqliteDatabase
from agentsleep.errors import ArchiveDamaged, ArchiveError, SnapshotDamaged, SnapshotPruned
from tests.archive.helpers import MODEL, child, opened, said, slept
from tests.postgres import PostgresServer

WHEN = "2026-05-04 03:02:01.000500"


def safetensors(tensors: dict[str, tuple[str, list[int], bytes]]) -> bytes:
    """A state as version 1 stored it: the names in an order of their own, and metadata."""
    header: dict[str, Any] = {"__metadata__": {"made": "by hand"}}
    data = b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


STATES = [
    safetensors({"z": ("F32", [2, 2], b"abcdefghijklmnop"), "a": ("BF16", [1], b"xy")}),
    safetensors({"a": ("BF16", [1], b"xy"), "z": ("U8", [3_000_000], b"long " * 600_000)}),
    safetensors({"a": ("BF16", [1], b"!!")}),
]


def old_file(path: Path) -> None:
    """Ada has a thread with two snapshots and a fork of the first; bob of another tenant has one, tagged."""
    database = SqliteDatabase(path)
    with database.writing() as tx:
        command.upgrade(migrate._config(tx.connection()), "0001")
        tx.connection().exec_driver_sql("DROP TABLE alembic_version")  # version 1 knew no Alembic
    database.close()
    with sqlite3.connect(path) as raw:
        for table in ("sessions", "snapshots"):
            raw.execute(f"PRAGMA foreign_keys = OFF -- {table}")
        digests = [hashlib.sha256(state).hexdigest() for state in STATES]
        raw.executemany("INSERT INTO states VALUES (?, ?)", zip(digests, STATES, strict=True))
        sessions = [
            ("s1", "acme", "ada", "thread-1", MODEL, '{"passes":2}', "p2", None, 6, 5, WHEN),
            ("s2", "acme", "ada", "fork/1", MODEL, '{"passes":4}', "p3", "p1", 4, 3, WHEN),
            ("s3", "other", "ada", "thread-1", MODEL, "{}", "p4", None, 2, 1, WHEN),
            ("s4", "acme", "ada", "empty", MODEL, "{}", None, None, 0, 0, WHEN),
        ]
        raw.executemany(f"INSERT INTO sessions VALUES ({', '.join('?' * 11)})", sessions)
        snapshots = [  # children may come before their parents
            (
                "p2",
                "s1",
                "p1",
                MODEL,
                2,
                1,
                2,
                6,
                5,
                "policy",
                "light",
                "{}",
                '{"norm":0.5}',
                digests[1],
                9,
                WHEN,
                None,
            ),
            ("p1", "s1", None, MODEL, 2, 1, 0, 2, 2, "asked", "light", "{}", "{}", digests[0], 9, WHEN, "first"),
            ("p3", "s2", "p1", MODEL, 4, 2, 2, 4, 3, "asked", "deep", "{}", "{}", digests[2], 9, WHEN, None),
            ("p4", "s3", None, MODEL, 1, 1, 0, 2, 1, "asked", "light", "{}", "{}", digests[0], 9, WHEN, None),
        ]
        raw.executemany(f"INSERT INTO snapshots VALUES ({', '.join('?' * 17)})", snapshots)
        log = {
            "s1": [
                (0, "hello é", (7, 8)),
                (1, None, ()),
                (2, "again", (9,)),
                (3, None, (1,)),
                (4, "x", (2,)),
                (5, None, ()),
            ],
            "s2": [(2, "another way", (3,)), (3, None, ())],
            "s3": [(0, "hello é", (7,)), (1, None, ())],
        }
        for session, events in log.items():
            position = 2 if session == "s2" else 0
            for seq, said_text, ids in events:
                kind, role, data = ("tokens", "user", {"n": 1.5}) if ids else ("sleep", None, {"passes": 2})
                packed = struct.pack(f"<{len(ids)}I", *ids)
                crc = checksum(
                    seq=seq, kind=kind, role=role, position=position, packed=packed, text=said_text, data=data
                )
                row = (session, seq, kind, role, len(ids), packed, position, said_text, json.dumps(data), crc, WHEN)
                raw.execute(f"INSERT INTO events VALUES ({', '.join('?' * 11)})", row)
                position += len(ids)
    raw.close()


def states(user: UserArchive, snapshot_id: str) -> list[tuple[str, str, tuple[int, ...], bytes]]:
    return [(one.name, one.dtype, one.shape, bytes(one.data)) for one in user.load_state(snapshot_id)]


def schema_of(path: Path) -> list[tuple[str, str, str]]:
    """Everything that SQLite knows of the tables, without blanks, quotes and the order of what is declared."""
    raw = sqlite3.connect(path)
    try:
        rows = raw.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL").fetchall()
    finally:
        raw.close()
    return sorted((kind, name, "".join(sorted(re.sub(r'["\s]+', "", sql)))) for kind, name, sql in rows)


def test_an_old_file_is_upgraded_on_opening_and_says_the_same(path: Path) -> None:
    old_file(path)
    with Archive(path) as archive:
        assert archive.users() == [("acme", "ada"), ("other", "ada")]
        ada, other = archive.user("acme", "ada"), archive.user("other", "ada")
        assert {one.scope.thread: (one.id, one.head, one.forked_from) for one in ada.sessions()} == {
            "thread-1": ("s1", "p2", None),
            "fork/1": ("s2", "p3", "p1"),
            "empty": ("s4", None, None),
        }
        assert ada.session("s2").settings == {"passes": 4}
        assert [event.text for event in ada.events("s1")] == ["hello é", None, "again", None, "x", None]
        assert [event.token_ids for event in ada.events("s2")] == [(7, 8), (), (3,), ()]
        assert [event.text for event in other.events("s3")] == ["hello é", None]
        assert ada.events("s1")[0].created.isoformat() == "2026-05-04T03:02:01.000500+00:00"
        first, second = ada.snapshots("s1")
        assert (first.id, first.parent, first.span, first.tag, first.status) == ("p1", None, (0, 2), "first", "stored")
        assert (second.id, second.parent, second.metrics, second.probe) == ("p2", "p1", {"norm": 0.5}, {})
        assert [one.id for one in ada.snapshots("s2")] == ["p1", "p3"]
        assert (first.state_bytes, second.state_bytes) == (18, 3_000_002)
        assert states(ada, "p1") == [("a", "BF16", (1,), b"xy"), ("z", "F32", (2, 2), b"abcdefghijklmnop")]
        assert states(other, "p4") == states(ada, "p1")
        assert states(ada, "p2")[1][3] == b"long " * 600_000
        assert migrate.check(archive.database) == []
        # The upgraded archive goes on.
        ada.append("s2", [said(5)])
        assert slept(ada, "s2", b"new").span == (4, 6)
        assert ada.fork("p1", "another").events == 2
        with ada.reading() as (tx, scope_id):
            key = tx.scalar(text("SELECT key FROM scopes WHERE id = :id"), {"id": scope_id})
            found = tx.scalar(text("SELECT text_hash FROM events WHERE session_id = 's1' AND seq = 0"))
            assert found == text_hash(key, "user", "hello é")
            hits = "SELECT count(*) FROM events_search WHERE events_search MATCH 'again'"
            assert tx.scalar(text(hits)) == 1


def test_equal_chunks_of_one_user_are_counted_and_not_shared_with_another(path: Path) -> None:
    old_file(path)
    with Archive(path) as archive, archive.database.reading() as tx:
        counted = tx.execute(
            text("SELECT scope_id, digest, refs FROM chunks ORDER BY scope_id, digest"),
        ).all()
        used = tx.execute(
            text("SELECT scope_id, digest, count(*) FROM pieces GROUP BY scope_id, digest ORDER BY scope_id, digest")
        ).all()
        assert counted == used
        assert len({scope for scope, *_ in counted}) == 2


def test_an_upgraded_file_is_like_a_new_one(path: Path) -> None:
    old_file(path)
    new = path.with_name("new.db")
    Archive(path).close()
    Archive(new).close()
    assert schema_of(path) == schema_of(new)


@pytest.mark.parametrize("damage", ["data = X'00'", "data = substr(data, 1, 30)", "data = 'text'", None])
def test_a_state_that_was_damaged_before_is_a_pruned_one(path: Path, damage: str | None) -> None:
    old_file(path)
    raw = sqlite3.connect(path)
    where = f"WHERE digest = '{hashlib.sha256(STATES[2]).hexdigest()}'"
    raw.execute(f"UPDATE states SET {damage} {where}" if damage else f"DELETE FROM states {where}")
    raw.commit()
    raw.close()
    with Archive(path) as archive:
        ada = archive.user("acme", "ada")
        assert [one.status for one in ada.snapshots("s2")] == ["stored", "pruned"]
        with pytest.raises(SnapshotPruned):
            ada.load_state("p3")
        assert len(states(ada, "p1")) == 2
        assert len(ada.events("s2")) == 4


def test_a_damaged_event_does_not_stop_the_upgrade_and_is_still_refused(path: Path) -> None:
    old_file(path)
    raw = sqlite3.connect(path)
    raw.execute("UPDATE events SET data = '{' WHERE session_id = 's1' AND seq = 4")
    raw.execute("UPDATE events SET created = 'yesterday' WHERE session_id = 's3'")
    raw.commit()
    raw.close()
    with Archive(path) as archive:
        ada = archive.user("acme", "ada")
        with pytest.raises(ArchiveDamaged):
            ada.events("s1")
        assert len(ada.events("s1", 0, 4)) == 4
        with pytest.raises(ArchiveDamaged):
            archive.user("other", "ada").events("s3")


def test_an_upgrade_that_fails_leaves_the_old_file_whole(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_file(path)
    before = schema_of(path)

    def broken(*_: object) -> None:
        real(*_)
        raise RuntimeError("stop")

    real = migrate.upgrade
    with monkeypatch.context() as patch:
        patch.setattr(migrate, "upgrade", broken)
        with pytest.raises(RuntimeError, match="stop"):
            Archive(path)
    assert schema_of(path) == before
    with Archive(path) as archive:
        assert len(archive.user("acme", "ada").events("s1")) == 6


def test_a_process_killed_in_an_upgrade_leaves_the_old_file_whole(path: Path) -> None:
    old_file(path)
    before = schema_of(path)
    killed = child("upgrade_and_die", path)
    assert killed.communicate()[0] == "upgraded\n"
    assert killed.returncode == -9
    assert schema_of(path) == before
    with Archive(path) as archive:
        assert len(archive.user("acme", "ada").events("s1")) == 6
        assert states(archive.user("acme", "ada"), "p3") == [("a", "BF16", (1,), b"!!")]


def at_once(where: object, processes: int) -> list[str]:
    """What processes print that open an archive at the same moment."""
    opening = [child("count", where, time.time() + 3) for _ in range(processes)]
    return [one.communicate(timeout=120)[0] for one in opening]


def test_processes_open_an_old_file_at_once(path: Path) -> None:
    old_file(path)
    assert at_once(path, 4) == ["ready\n3\n"] * 4
    with Archive(path) as archive:
        assert archive.users() == [("acme", "ada"), ("other", "ada")]
        assert migrate.check(archive.database) == []


def test_processes_open_an_empty_server_at_once(postgres_server: PostgresServer, empty_postgres: str) -> None:
    url = postgres_server.url(empty_postgres)
    assert at_once(url, 4) == ["ready\n0\n"] * 4
    with Archive(url) as archive:
        assert migrate.check(archive.database) == []
        assert migrate.revision(archive.database) == REVISION


def test_new_tables_are_those_that_the_library_knows(archive: Archive) -> None:
    assert migrate.check(archive.database) == []


def test_the_check_sees_what_differs(path: Path, postgres_server: PostgresServer, own_postgres: str) -> None:
    for where in (str(path), postgres_server.url(own_postgres)):
        with Archive(where) as archive:
            with archive.database.writing() as tx:
                tx.execute(text("DROP INDEX ix_snapshots_parent_id"))
                tx.execute(text("ALTER TABLE jobs ADD COLUMN mine INTEGER"))
            found = "\n".join(migrate.check(archive.database))
            assert "ix_snapshots_parent_id" in found
            assert "mine" in found


@pytest.mark.parametrize("newer", ["0003", "9999"])
def test_a_newer_revision_is_refused_and_left_alone(where: str, newer: str) -> None:
    with Archive(where) as archive:
        session = opened(archive.user("acme", "ada"))
        with archive.database.writing() as tx:
            tx.execute(text("UPDATE alembic_version SET version_num = :newer"), {"newer": newer})
    try:
        with pytest.raises(ArchiveError, match=f"revision {newer}, this agentsleep knows {REVISION}; upgrade"):
            Archive(where)
    finally:
        put_back(where)
    with Archive(where) as archive:
        assert archive.user("acme", "ada").sessions() == [session]


def test_a_revision_that_is_none_is_damage(where: str) -> None:
    with Archive(where) as archive, archive.database.writing() as tx:
        tx.execute(text("UPDATE alembic_version SET version_num = 'one'"))
    try:
        with pytest.raises(ArchiveDamaged, match="'one'"):
            Archive(where)
    finally:
        put_back(where)


def put_back(where: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "prepare", lambda _database: None)
        with Archive(where) as archive, archive.database.writing() as tx:
            tx.execute(text("UPDATE alembic_version SET version_num = :head"), {"head": REVISION})


@pytest.mark.parametrize(
    "tables",
    [
        "CREATE TABLE notes (x)",
        "CREATE TABLE meta (key, value)",
        "CREATE TABLE meta (x)",
        "CREATE TABLE alembic_version (version_num)",
    ],
)
def test_another_programs_file_is_refused(path: Path, tables: str) -> None:
    raw = sqlite3.connect(path)
    raw.execute(tables)
    raw.commit()
    with pytest.raises(ArchiveError):
        Archive(path)
    assert raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    raw.close()


def test_an_older_library_of_version_2_is_not_mistaken_for_version_1(path: Path) -> None:
    old_file(path)
    raw = sqlite3.connect(path)
    raw.execute("UPDATE meta SET value = '2'")
    raw.commit()
    raw.close()
    before = path.read_bytes()
    with pytest.raises(ArchiveError, match="schema version '2'"):
        Archive(path)
    assert path.read_bytes() == before


def test_tables_of_others_beside_the_archives_do_not_matter(
    postgres_server: PostgresServer, empty_postgres: str
) -> None:
    with postgres_server.connect(empty_postgres, autocommit=True) as raw:
        raw.execute("CREATE TABLE public.sessions (id int); CREATE TABLE public.alembic_version (version_num text)")
        raw.execute("INSERT INTO public.alembic_version VALUES ('their own')")
    with Archive(postgres_server.url(empty_postgres)) as archive:
        opened(archive.user("acme", "ada"))
        assert migrate.check(archive.database) == []
    with postgres_server.connect(empty_postgres) as raw:
        assert raw.execute("SELECT * FROM public.alembic_version").fetchall() == [("their own",)]
        assert raw.execute("SELECT count(*) FROM public.sessions").fetchone() == (0,)


def test_a_schema_of_this_name_that_is_anothers_is_refused(
    postgres_server: PostgresServer, empty_postgres: str
) -> None:
    with postgres_server.connect(empty_postgres, autocommit=True) as raw:
        raw.execute(f"CREATE SCHEMA agentsleep AUTHORIZATION {postgres_server.role}")
        raw.execute("CREATE TABLE agentsleep.notes (x int)")
        raw.execute(f"ALTER TABLE agentsleep.notes OWNER TO {postgres_server.role}")
    with pytest.raises(ArchiveError, match=r"another program's tables \(notes\)"):
        Archive(postgres_server.url(empty_postgres))


def test_a_state_damaged_after_the_upgrade_is_damaged(path: Path) -> None:
    old_file(path)
    with Archive(path) as archive:
        with archive.database.writing() as tx:
            tx.execute(text("UPDATE chunks SET data = X'00' WHERE size = 16"))
        with pytest.raises(SnapshotDamaged, match="part 0 of z"):
            archive.user("acme", "ada").load_state("p1")
