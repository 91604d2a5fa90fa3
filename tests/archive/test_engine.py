from __future__ import annotations

import os
import random
import shutil
import sqlite3
import threading
import warnings
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import MetaData, create_mock_engine
from sqlalchemy import event as sql_event

from agentsleep.archive import Archive, engine, schema
from agentsleep.errors import (
    AgentsleepError,
    ArchiveDamaged,
    ArchiveError,
    ArchiveFull,
    SessionBusy,
    SettingsError,
)
from tests.archive.helpers import ADA, opened, said, scope, slept


def fill(path: Path, sessions: int = 3) -> dict[str, list[Any]]:
    """A database with some sessions; returns their events and states."""
    content = {}
    with Archive(path) as archive:
        for i in range(sessions):
            session = opened(archive, str(i))
            archive.append(session.id, [said(*range(200), text="word " * 50)] * 20)
            snapshot = slept(archive, session.id, b"state %d " % i * 4_000)
            content[session.id] = [archive.events(session.id), archive.load_state(snapshot.id, **ADA)]
    return content


def read(path: Path) -> dict[str, list[Any]]:
    with Archive(path) as archive:
        return {
            session.id: [archive.events(session.id), archive.load_state(session.head or "", **ADA)]
            for session in archive.sessions("acme", "ada")
        }


# Opening


@pytest.mark.parametrize("kind", ["str", "path", "url", "pysqlite"])
def test_a_path_or_a_url_names_the_file_and_makes_its_folders(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a folder" / "deeper" / "m é.db"
    where = {"str": str(path), "path": path, "url": f"sqlite:///{path}", "pysqlite": f"sqlite+pysqlite:///{path}"}[kind]
    with Archive(where) as archive:
        assert archive.path == path
        assert str(path) in repr(archive)
        opened(archive)
    assert path.is_file()


def test_home_and_relative_paths_and_links_are_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.db").symlink_to(tmp_path / "here.db")
    for where in ("~/here.db", "here.db", Path("here.db"), "link.db", "sqlite:///here.db"):
        with Archive(where) as archive:
            assert archive.path == tmp_path / "here.db"


@pytest.mark.parametrize(
    "where",
    ["", "mysql://me:secret@host/db", "postgresql+psycopg://me:secret@host/db", "file:x.db", "sqlite://x:y/z?a=b"],
)
def test_what_is_no_path_is_refused_without_its_password(where: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Archive(where)
    assert "secret" not in str(caught.value)
    assert "sqlite:///" in str(caught.value) or "memory.db" in str(caught.value)


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot be opened"):
        Archive(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArchiveError, match="folder"):
        Archive(tmp_path / "file" / "memory.db")


def test_the_pragmas_are_set_on_every_connection(archive: Archive) -> None:
    for begin in (archive._db.reading, archive._db.writing):
        with begin() as tx:
            found = {
                name: tx.connection().exec_driver_sql(f"PRAGMA {name}").scalar()
                for name in (
                    "journal_mode",
                    "synchronous",
                    "foreign_keys",
                    "busy_timeout",
                    "page_size",
                    "journal_size_limit",
                )
            }
        assert found == {
            "journal_mode": "wal",
            "synchronous": 2,
            "foreign_keys": 1,
            "busy_timeout": 5000,
            "page_size": 16384,
            "journal_size_limit": 64 * 2**20,
        }


def test_the_wal_is_folded_in_on_close(path: Path) -> None:
    content = fill(path)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    assert read(path) == content


@pytest.mark.parametrize("where", [":memory:", "sqlite://", "sqlite:///:memory:"])
def test_in_memory(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Archive(where) as archive, Archive(where) as other:
        assert archive.path is None
        session = opened(archive)
        threads = [
            threading.Thread(target=lambda: [archive.append(session.id, [said(1)]) for _ in range(20)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.position for one in archive.events(session.id)] == list(range(80))
        assert other.sessions("acme", "ada") == []
    assert list(tmp_path.iterdir()) == []


def test_many_open_a_new_file_at_once(path: Path) -> None:
    barrier, found, failed = threading.Barrier(8), [], []

    def one() -> None:
        barrier.wait()
        try:
            with Archive(path) as archive:
                found.append(opened(archive).id)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(found) == 8
    assert len(set(found)) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_must_open_its_own(archive: Archive) -> None:
    session = opened(archive)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test runner
        pid = os.fork()
    if pid == 0:
        try:
            archive.session(session.id)
        except ArchiveError as error:
            os._exit(0 if "after the fork" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert archive.session(session.id) == session


# Schema


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    fill(path)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE meta SET value = '2'")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(ArchiveError, match="version 2, this agentsleep knows 1; upgrade"):
        Archive(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "tables", ["CREATE TABLE notes (x)", "CREATE TABLE meta (key, value)", "CREATE TABLE meta (x)"]
)
def test_another_programs_database_is_refused(path: Path, tables: str) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute(tables)
    raw.close()
    with pytest.raises(ArchiveError):
        Archive(path)
    raw = sqlite3.connect(path)
    assert raw.execute("SELECT count(*) FROM sqlite_master").fetchone() == (1,)
    raw.close()


def test_a_version_that_is_none_is_damage(path: Path) -> None:
    fill(path)
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE meta SET value = 'one'")
    raw.close()
    with pytest.raises(ArchiveDamaged, match="'one'"):
        Archive(path)


def test_an_empty_file_is_an_empty_archive(path: Path) -> None:
    path.touch()
    with Archive(path) as archive:
        assert archive.sessions("acme", "ada") == []


def test_the_schema_is_postgresqls_too() -> None:
    made: list[str] = []
    mock = create_mock_engine(
        "postgresql://", lambda statement, *_args, **_options: made.append(str(statement.compile(dialect=mock.dialect)))
    )
    # A copy: a constraint that was once added by ALTER is left out of every later CREATE TABLE.
    copy = MetaData(naming_convention=schema.Base.metadata.naming_convention)
    for table in schema.Base.metadata.tables.values():
        table.to_metadata(copy)
    copy.create_all(mock, checkfirst=False)
    text = "\n".join(made)
    assert "BYTEA" in text
    assert "TIMESTAMP WITH TIME ZONE" in text
    assert text.index("CREATE TABLE snapshots") < text.index("fk_sessions_head_id")  # the circle is closed last
    for table in copy.tables.values():
        names = [str(constraint.name) for constraint in table.constraints]
        assert all(name in text and len(name) <= 63 for name in names)  # a migration can only alter what has a name


def test_foreign_keys_hold(archive: Archive) -> None:
    session = opened(archive)
    slept(archive, session.id, b"x")
    for statement in ("DELETE FROM states", "DELETE FROM snapshots", "DELETE FROM sessions"):
        with pytest.raises(ArchiveError, match="FOREIGN KEY"), archive._db.writing() as tx:
            tx.connection().exec_driver_sql(statement)


# Damage


@pytest.mark.parametrize("what", ["header", "text", "short"])
def test_a_file_that_is_no_database(path: Path, what: str) -> None:
    fill(path)
    raw = path.read_bytes()
    noise = random.Random(1).randbytes(100)
    path.write_bytes({"header": noise + raw[100:], "text": b"hello " * 500, "short": raw[: len(raw) // 3]}[what])
    with pytest.raises(ArchiveDamaged) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert "backup" in str(caught.value)


def test_random_bytes_in_the_middle(path: Path) -> None:
    content = fill(path, sessions=6)
    raw = bytearray(path.read_bytes())
    third = len(raw) // 3
    raw[third : 2 * third] = random.Random(2).randbytes(third)
    path.write_bytes(raw)
    with pytest.raises(ArchiveError, match=r"damaged|cannot be read|fails|do not match|missing|found"):
        assert read(path) == content  # what is read at all must be right


def test_sampled_flips_never_give_wrong_text_or_states(path: Path) -> None:
    content = fill(path, sessions=2)
    whole = path.read_bytes()
    places = random.Random(3)
    noticed = 0
    for _ in range(120):
        raw = bytearray(whole)
        place = places.randrange(len(raw))
        raw[place] ^= 1 << places.randrange(8)
        path.write_bytes(raw)
        for leftover in ("-wal", "-shm"):
            path.with_name(path.name + leftover).unlink(missing_ok=True)
        try:
            found = read(path)
        except AgentsleepError:
            noticed += 1
            continue
        for session_id, wanted in content.items():
            if session_id in found:
                assert found[session_id] == wanted, f"byte {place}"
    assert noticed > 20  # the rest hit free space, or rows that only describe


# Full, busy, unwritable


def cap(archive: Archive, pages: int) -> None:
    """Leaves the database `pages` pages in all: what a full disk is to SQLite."""
    archive._db.engine.dispose()
    sql_event.listen(
        archive._db.engine, "connect", lambda connection, _: connection.execute(f"PRAGMA max_page_count = {pages}")
    )


def test_a_full_disk_loses_nothing_that_was_stored(archive: Archive, path: Path) -> None:
    session = opened(archive)
    log = archive.append(session.id, [said(1, 2, 3)])
    first = slept(archive, session.id, b"small")
    before = archive.session(session.id)
    cap(archive, 40)
    with pytest.raises(ArchiveFull) as caught:
        slept(archive, session.id, os.urandom(2**20))
    assert str(path) in str(caught.value)
    assert "free some space" in str(caught.value)
    with pytest.raises(ArchiveFull):
        archive.append(session.id, [said(*range(100_000))] * 4)
    assert archive.session(session.id) == before
    assert archive.snapshots(session.id) == [first]
    assert archive.events(session.id)[:1] == log
    assert archive.load_state(first.id, **ADA) == b"small"
    cap(archive, 100_000)
    assert slept(archive, session.id, b"large" * 2**18, expected_head=first.id).parent == first.id
    assert archive.events(session.id)[-1].seq == 2


def test_an_io_error_on_a_full_disk_is_a_full_disk(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 100, 100))
    assert type(archive._db.translate(error)) is ArchiveFull
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
    assert type(archive._db.translate(error)) is ArchiveDamaged


def test_a_database_that_another_program_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "BUSY_MS", 50)
    with Archive(path) as archive:
        session = opened(archive)
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SessionBusy, match="try again"):
            archive.append(session.id, [said(1)])
        assert archive.events(session.id) == []  # readers are free
        other.rollback()
        other.close()
        assert len(archive.append(session.id, [said(1)])) == 1


def test_the_switch_to_the_wal_waits_for_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite itself refuses at once to switch a file that someone is about to write."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "BUSY_MS", 50)
        with pytest.raises(SessionBusy, match="locked"):
            Archive(path)
    timer = threading.Timer(0.2, other.rollback)
    timer.start()
    with Archive(path) as archive:
        assert archive.sessions("acme", "ada") == []
    timer.join()
    other.close()


def test_a_value_beyond_sqlites_limit(archive: Archive) -> None:
    session = opened(archive)
    archive._db.engine.dispose()
    sql_event.listen(
        archive._db.engine, "connect", lambda connection, _: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000)
    )
    with pytest.raises(ArchiveError, match="too large"):
        slept(archive, session.id, b"x" * 20_000)
    assert archive.session(session.id) == session


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_may_not_be_written(path: Path) -> None:
    fill(path)
    path.chmod(0o400)
    with pytest.raises(ArchiveError, match="may write"), Archive(path) as archive:
        opened(archive, "new")


def test_an_error_in_the_block_rolls_back(archive: Archive) -> None:
    session = opened(archive)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), archive._db.writing() as tx:
        interrupt(tx.connection().exec_driver_sql("UPDATE sessions SET next_seq = 7"))
    assert archive.session(session.id) == session
    assert archive.fork(slept(archive, session.id, b"x").id, scope("branch")).events == 1
