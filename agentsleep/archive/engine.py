"""The way to the database: locating it, its pragmas, its transactions, and the one place where its errors are named."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, get_args

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session as Transaction
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from agentsleep.archive.codec import dump_json
from agentsleep.errors import AgentsleepError, ArchiveDamaged, ArchiveError, ArchiveFull, SessionBusy, SettingsError

BUSY_MS = 5000
"""How long a writer waits for another process's write transaction, in milliseconds."""

PAGE_BYTES = 16384
"""States are megabytes: large pages store 19 MB in 31 ms instead of 51 ms."""

WAL_LIMIT_BYTES = 64 * 2**20
"""The write-ahead log is cut back to this after a checkpoint."""

Synchronous = Literal["FULL", "NORMAL"]
"""What a commit waits for: FULL, that its pages are on the disk; NORMAL, that the operating system has them."""

_LOW_SPACE_BYTES = 2**20

# What decoding a row raises when its bytes are not what was written.
_UNREADABLE = (struct.error, ValueError, TypeError, AttributeError, OverflowError)


class Database:
    """An SQLite database and its transactions; safe to share between threads, not across `os.fork`.

    Args:
        where: a path (its folder is created), ":memory:", or an SQLAlchemy URL `sqlite:///…`.
        synchronous: SQLite's own setting. What is acknowledged under FULL survives SIGKILL and a power cut; under
            NORMAL it survives SIGKILL, but a power cut or a crash of the operating system may take back the last
            commits. Neither damages the file (https://www.sqlite.org/pragma.html#pragma_synchronous, for WAL mode).

    Raises:
        SettingsError: `where` is empty or names another kind of database; `synchronous` is neither of the two.
        ArchiveError: the file cannot be opened here; also raised by every later call, in the form that
            `translate` gives it.
    """

    def __init__(self, where: str | Path, synchronous: Synchronous = "FULL") -> None:
        if synchronous not in get_args(Synchronous):
            raise SettingsError(f"synchronous is {synchronous!r}; it must be one of {get_args(Synchronous)}")
        self.synchronous = synchronous
        self.path = _locate(where)
        self.name = ":memory:" if self.path is None else str(self.path)
        self._pid = os.getpid()
        self._closed = False
        # Threads queue here and not at SQLite's lock, whose waiters poll and may starve.
        self._gate = threading.Lock()
        if self.path is None:
            url = URL.create("sqlite", database=":memory:")
            # One connection shared by all threads, or each thread would see a database of its own.
            pool = {"poolclass": StaticPool, "connect_args": {"check_same_thread": False}}
        else:
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ArchiveError(
                    f"the folder {self.path.parent} of the archive cannot be made: {error}; choose another path"
                ) from error
            url = URL.create("sqlite", database=str(self.path))
            pool = {}
        self.engine: Engine = create_engine(url, json_serializer=dump_json, **pool)
        self._writer = self.engine.execution_options(agentsleep_begin="BEGIN IMMEDIATE")
        event.listen(self.engine, "connect", self._on_connect)
        event.listen(self.engine, "begin", _on_begin)

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """A consistent view; waits for no writer."""
        # A :memory: database has one connection, hence one transaction at a time.
        with self._transaction(self.engine, alone=self.path is None) as tx:
            yield tx

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """A transaction that owns the write lock from its first statement; on return it is on disk, or it never was."""
        with self._transaction(self._writer, alone=True) as tx:
            yield tx

    def close(self) -> None:
        """Lets go of the file; calling it again does nothing."""
        self._closed = True
        if os.getpid() == self._pid:
            self.engine.dispose()

    @contextmanager
    def _transaction(self, engine: Engine, *, alone: bool) -> Iterator[Transaction]:
        if self._closed:
            raise ArchiveError(f"the archive {self.name} is closed; open a new Archive")
        if os.getpid() != self._pid:
            raise ArchiveError(
                f"the archive {self.name} was opened by process {self._pid} and is used in its fork {os.getpid()}, "
                "which can damage the file; open a new Archive after the fork"
            )
        with self._gate if alone else nullcontext():
            try:
                with Transaction(engine, expire_on_commit=False) as tx, tx.begin():
                    yield tx
            except AgentsleepError:
                raise
            except (SQLAlchemyError, sqlite3.Error, *_UNREADABLE) as error:
                raise self.translate(error) from error

    def translate(self, error: Exception) -> ArchiveError:
        """The typed error for a low-level one; arguments are checked before, so `_UNREADABLE` is a bad row."""
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorname", "")
        said = str(cause).rstrip(".")
        if code.startswith("SQLITE_FULL") or (code.startswith("SQLITE_IOERR") and self._space_is_low()):
            return ArchiveFull(
                f"no space left for the archive {self.name} ({said}): what was being written is not stored, what was "
                "stored before is intact; free some space and do it again"
            )
        if (
            code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR"))
            or "Could not decode to UTF-8" in said
            or not isinstance(error, (SQLAlchemyError, sqlite3.Error))
        ):
            return ArchiveDamaged(
                f"the archive {self.name} cannot be read ({said}); check the disk, then restore a backup, or save what "
                "is left into a new file with `sqlite3 OLD .recover | sqlite3 NEW`"
            )
        if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            return SessionBusy(
                f"another process has kept the archive {self.name} locked for more than {BUSY_MS / 1000:g} s; nothing "
                "was stored; try again, or end the program (a backup, a shell) that holds it open for writing"
            )
        if code.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM", "SQLITE_AUTH")):
            return ArchiveError(
                f"the archive {self.name} cannot be opened for writing ({said}); check that it is a file and that you "
                "may write to it and to its folder"
            )
        if code.startswith("SQLITE_TOOBIG"):
            return ArchiveError(f"a value is too large for the archive {self.name} ({said}); split it")
        return ArchiveError(f"the archive {self.name} refused: {said}; nothing was stored")

    def _space_is_low(self) -> bool:
        # Outside an ordinary write (its shared-memory file) SQLite reports a full disk as an I/O error.
        try:
            return self.path is not None and shutil.disk_usage(self.path.parent).free < _LOW_SPACE_BYTES
        except OSError:
            return False

    def _on_connect(self, connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
        # Python's own implicit transactions off: `_on_begin` says which kind is begun.
        connection.isolation_level = None
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        connection.execute("PRAGMA foreign_keys = ON")
        if self.path is None:
            return
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")  # before the first page is written; a no-op later
        _use_wal(connection, self.name)
        # By default FULL, for what is acknowledged must survive a power cut; fullfsync is what that takes on macOS.
        connection.execute(f"PRAGMA synchronous = {self.synchronous}")
        connection.execute("PRAGMA fullfsync = ON")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")


def _on_begin(connection: Connection) -> None:
    # IMMEDIATE: a transaction that read first and then wants to write could be refused in the middle.
    connection.exec_driver_sql(connection.get_execution_options().get("agentsleep_begin", "BEGIN"))


def _use_wal(connection: sqlite3.Connection, name: str) -> None:
    """Switches to the write-ahead log; SQLite does not wait for others while it switches, so we do."""
    deadline = time.monotonic() + BUSY_MS / 1000
    while True:
        try:
            (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
            break
        except sqlite3.OperationalError as error:
            if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    if mode != "wal":
        raise ArchiveError(f"the archive {name} cannot use a write-ahead log here ({mode}); choose a local disk")


def _locate(where: str | Path) -> Path | None:
    """The database file, symbolic links resolved so that its lock has one name; None for a database in memory."""
    text = str(where)
    if "://" in text and not isinstance(where, Path):
        try:
            url = make_url(text)
        except (ArgumentError, ValueError) as error:
            raise SettingsError("the archive's URL cannot be parsed; write sqlite:///folder/file.db") from error
        if url.drivername not in ("sqlite", "sqlite+pysqlite") or url.query:
            raise SettingsError(
                f"the archive {url.render_as_string()} is not supported; give a path or sqlite:///folder/file.db"
            )
        text = url.database or ":memory:"
    if text == ":memory:":
        return None
    if not text or text.startswith("file:") or "\0" in text:
        raise SettingsError(f"the archive's path {text!r} is no path; give one like 'memory.db', or ':memory:'")
    return Path(text).expanduser().resolve()
