"""SQLite alone: its file, its pragmas, its write-ahead log, damage, and a disk that is full."""

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
from sqlalchemy import event as sql_event

from agentsleep.archive import Archive, UserArchive, sqlite
from agentsleep.errors import AgentsleepError, ArchiveDamaged, ArchiveError, ArchiveFull, SessionBusy, SettingsError
from tests.archive.helpers import change, loaded, opened, said, slept


@pytest.fixture
def where(path: Path) -> str:
    return str(path)


def fill(path: Path, sessions: int = 3) -> dict[str, list[Any]]:
    """A database with some sessions; returns their events and states."""
    content = {}
    with Archive(path) as archive:
        ada = archive.user("acme", "ada")
        for i in range(sessions):
            session = opened(ada, str(i))
            ada.append(session.id, [said(*range(200), text="word " * 50)] * 20)
            snapshot = slept(ada, session.id, b"state %d " % i * 4_000)
            content[session.id] = [ada.events(session.id), loaded(ada, snapshot.id)]
    return content


def read(path: Path) -> dict[str, list[Any]]:
    with Archive(path) as archive:
        ada = archive.user("acme", "ada")
        return {session.id: [ada.events(session.id), loaded(ada, session.head or "")] for session in ada.sessions()}


# Opening


@pytest.mark.parametrize("kind", ["str", "path", "url", "pysqlite"])
def test_a_path_or_a_url_names_the_file_and_makes_its_folders(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a folder" / "deeper" / "m é.db"
    where = {"str": str(path), "path": path, "url": f"sqlite:///{path}", "pysqlite": f"sqlite+pysqlite:///{path}"}[kind]
    with Archive(where) as archive:
        assert archive.path == path
        assert str(path) in repr(archive)
        opened(archive.user("acme", "ada"))
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
    ["", "mysql://me:secret@host/db", "postgresql+asyncpg://me:secret@host/db", "file:x.db", "sqlite://x:y/z?a=b"],
)
def test_what_is_no_path_is_refused_without_its_password(where: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Archive(where)
    assert "secret" not in str(caught.value)
    assert any(hint in str(caught.value) for hint in ("sqlite:///", "memory.db", "postgresql://"))


def test_a_folder_is_no_database(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="cannot be opened"):
        Archive(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArchiveError, match="folder"):
        Archive(tmp_path / "file" / "memory.db")


def test_the_pragmas_are_set_on_every_connection(archive: Archive) -> None:
    for begin in (archive.database.reading, archive.database.writing):
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
            "page_size": 32768,
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
        ada = archive.user("acme", "ada")
        session = opened(ada)
        threads = [
            threading.Thread(target=lambda: [ada.append(session.id, [said(1)]) for _ in range(20)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.position for one in ada.events(session.id)] == list(range(80))
        assert other.users() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_fork_must_open_its_own(ada: UserArchive) -> None:
    session = opened(ada)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test runner
        pid = os.fork()
    if pid == 0:
        try:
            ada.session(session.id)
        except ArchiveError as error:
            os._exit(0 if "after the fork" in str(error) else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0
    assert ada.session(session.id) == session


def test_an_empty_file_is_an_empty_archive(path: Path) -> None:
    path.touch()
    with Archive(path) as archive:
        assert archive.users() == []


def test_foreign_keys_hold(ada: UserArchive) -> None:
    slept(ada, opened(ada).id, b"x")
    for table in ("scopes", "sessions", "snapshots", "tensors", "chunks"):
        with pytest.raises(ArchiveError, match="FOREIGN KEY"):
            change(ada, f"DELETE FROM {table}")


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
    for _ in range(100):
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
    assert noticed > 8  # the rest hit free space, or rows that only describe


# Full, busy, unwritable


def cap(archive: Archive, pages: int) -> None:
    """Leaves the database `pages` pages in all: what a full disk is to SQLite."""
    archive.database.engine.dispose()
    sql_event.listen(
        archive.database.engine, "connect", lambda connection, _: connection.execute(f"PRAGMA max_page_count = {pages}")
    )


def test_a_full_disk_loses_nothing_that_was_stored(archive: Archive, ada: UserArchive, path: Path) -> None:
    session = opened(ada)
    log = ada.append(session.id, [said(1, 2, 3)])
    first = slept(ada, session.id, b"small")
    before = ada.session(session.id)
    cap(archive, 40)
    with pytest.raises(ArchiveFull) as caught:
        slept(ada, session.id, os.urandom(2**20))
    assert str(path) in str(caught.value)
    assert "free some space" in str(caught.value)
    with pytest.raises(ArchiveFull):
        ada.append(session.id, [said(*range(100_000))] * 4)
    assert ada.session(session.id) == before
    assert ada.snapshots(session.id) == [first]
    assert ada.events(session.id)[:1] == log
    assert loaded(ada, first.id) == b"small"
    cap(archive, 100_000)
    assert slept(ada, session.id, b"large" * 2**18, expected_head=first.id).parent == first.id
    assert ada.events(session.id)[-1].seq == 2


def test_an_io_error_on_a_full_disk_is_a_full_disk(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = "SQLITE_IOERR_SHMSIZE"
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 100, 100))
    assert type(archive.database.translate(error)) is ArchiveFull
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
    assert type(archive.database.translate(error)) is ArchiveDamaged


def test_a_database_that_another_program_locks(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "BUSY_MS", 50)
    monkeypatch.setattr(sqlite, "PATIENCE_S", 0.5)
    with Archive(path) as archive:
        ada = archive.user("acme", "ada")
        session = opened(ada)
        other = sqlite3.connect(path)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(SessionBusy, match="try again"):
            ada.append(session.id, [said(1)])
        assert ada.events(session.id) == []  # readers are free
        other.rollback()
        other.close()
        assert len(ada.append(session.id, [said(1)])) == 1


def test_the_switch_to_the_wal_waits_for_others(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite itself refuses at once to switch a file that someone is about to write."""
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    with monkeypatch.context() as patch:
        patch.setattr(sqlite, "BUSY_MS", 50)
        with pytest.raises(SessionBusy, match="locked"):
            Archive(path)
    timer = threading.Timer(0.2, other.rollback)
    timer.start()
    with Archive(path) as archive:
        assert archive.users() == []
    timer.join()
    other.close()


def test_a_value_beyond_sqlites_limit(archive: Archive, ada: UserArchive) -> None:
    session = opened(ada)
    archive.database.engine.dispose()
    sql_event.listen(
        archive.database.engine,
        "connect",
        lambda connection, _: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 10_000),
    )
    with pytest.raises(ArchiveError, match="too large"):
        slept(ada, session.id, b"x" * 20_000)
    assert ada.session(session.id) == session


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_file_that_may_not_be_written(path: Path) -> None:
    fill(path)
    path.chmod(0o400)
    with pytest.raises(ArchiveError, match="may write"), Archive(path) as archive:
        opened(archive.user("acme", "ada"), "new")


def test_an_error_in_the_block_rolls_back(archive: Archive, ada: UserArchive) -> None:
    session = opened(ada)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), archive.database.writing() as tx:
        interrupt(tx.connection().exec_driver_sql("UPDATE sessions SET next_seq = 7"))
    assert ada.session(session.id) == session
    assert ada.fork(slept(ada, session.id, b"x").id, "branch").events == 1
