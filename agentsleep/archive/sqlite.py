"""SQLite: locating the file, its pragmas, its write lock, and its errors by name."""

from __future__ import annotations

import random
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from sqlalchemy import URL, Connection, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import Session as Transaction
from sqlalchemy.pool import ConnectionPoolEntry, StaticPool

from agentsleep.archive.codec import dump_json
from agentsleep.archive.database import Database, Reach, Synchronous
from agentsleep.errors import ArchiveDamaged, ArchiveError, ArchiveFull, SessionBusy, SettingsError

BUSY_MS = 5000
"""How long SQLite itself waits for another process's write transaction, in milliseconds."""

PATIENCE_S = 30.0
"""How long a writer keeps trying to begin: SQLite's waiters poll and may starve beside many others."""

PAGE_BYTES = 32768
"""States are megabytes: the larger the pages, the faster they are stored; messages do not feel it yet."""

WAL_LIMIT_BYTES = 64 * 2**20
"""The write-ahead log is cut back to this after a checkpoint."""

_LOW_SPACE_BYTES = 2**20


class SqliteDatabase(Database):
    """An SQLite file, or a database in memory.

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

    low_level = (sqlite3.Error,)

    def __init__(self, where: str | Path, synchronous: Synchronous = "FULL") -> None:
        super().__init__(synchronous)
        self.path = _locate(where)
        self.name = ":memory:" if self.path is None else str(self.path)
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
        self.engine = self.reader = create_engine(url, json_serializer=dump_json, **pool)
        self.writer = self.engine.execution_options(agentsleep_begin="BEGIN IMMEDIATE")
        event.listen(self.engine, "connect", self._on_connect)
        event.listen(self.engine, "begin", self._on_begin)

    def gate(self, *, writes: bool) -> threading.Lock | nullcontext[None]:
        """Writers are alone; a database in memory has one connection, hence one transaction at a time."""
        return self._gate if writes or self.path is None else nullcontext()

    def confine(self, tx: Transaction, reach: Reach) -> None:
        """SQLite has no row-level security; the queries carry the scope."""

    @contextmanager
    def erasing(self, tx: Transaction) -> Iterator[None]:
        """Freed bytes are overwritten with zeros (https://www.sqlite.org/pragma.html#pragma_secure_delete).

        Not always on: states are megabytes, and pruning them would write each of them once more.
        """
        connection = tx.connection()
        connection.exec_driver_sql("PRAGMA secure_delete = ON")
        try:
            yield
            # Merges the index of words, in which deleted ones would stay until it is merged by itself.
            connection.exec_driver_sql("INSERT INTO events_search (events_search) VALUES ('optimize')")
        finally:
            connection.exec_driver_sql("PRAGMA secure_delete = OFF")

    def purge(self) -> list[str]:
        """Rewrites the index of words and the file, and empties the write-ahead log."""
        self.check_usable()
        with self._gate, self.named_errors():
            connection = sqlite3.connect(self.path) if self.path is not None else None
            if connection is None:
                return []
            try:
                self._on_connect(connection)
                connection.execute("INSERT INTO events_search (events_search) VALUES ('rebuild')")
                connection.execute("VACUUM")
                busy, *_pages = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                    raise
                busy = 1
            finally:
                connection.close()
        if not busy:
            return []
        return [
            "another process is reading the file: deleted pages are overwritten, but the write-ahead log still holds "
            "old ones until that process lets go; do it again then (agentsleep db purge)"
        ]

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
                f"another process has kept the archive {self.name} locked for more than {PATIENCE_S:g} s; nothing "
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

    def _on_connect(self, connection: sqlite3.Connection, _entry: ConnectionPoolEntry | None = None) -> None:
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

    def _on_begin(self, connection: Connection) -> None:
        # IMMEDIATE: a transaction that read first and then wants to write could be refused in the middle.
        begin = connection.get_execution_options().get("agentsleep_begin", "BEGIN")
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                connection.exec_driver_sql(begin)
                return
            except SQLAlchemyError as error:
                busy = getattr(error.orig, "sqlite_errorname", "") if hasattr(error, "orig") else ""
                if not busy.startswith("SQLITE_BUSY") or time.monotonic() > deadline:
                    raise
                time.sleep(random.uniform(0.001, 0.02))


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
