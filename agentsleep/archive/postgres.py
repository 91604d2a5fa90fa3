"""PostgreSQL: connecting, confining a transaction to its scope, advisory locks, and its errors by name."""

from __future__ import annotations

import hashlib
import os
import socket
import threading

from sqlalchemy import URL, Connection, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive.codec import dump_json
from agentsleep.archive.database import Database, Reach, Synchronous
from agentsleep.archive.schema import Base
from agentsleep.errors import ArchiveDamaged, ArchiveError, ArchiveFull, InputError, SessionBusy, SettingsError

SCHEMA = "agentsleep"
"""Where the tables lie, so that they stand beside those of other programs in one database."""

POOL = 10
"""Connections kept open; as many again are opened under load, and closed after it."""

LOCK_TIMEOUT_S = 30
"""How long a statement waits for a row that another writer has locked."""

_CONFINE = text(
    "SELECT set_config('agentsleep.tenant', :tenant, true), set_config('agentsleep.user', :user, true), "
    "set_config('agentsleep.scope', :scope_id, true)"
)


class PostgresDatabase(Database):
    """A PostgreSQL database, through psycopg 3.

    Args:
        where: an SQLAlchemy URL, `postgresql://user:password@host/database`, with or without `+psycopg`.
        synchronous: FULL is the server's own `synchronous_commit`; NORMAL does not wait for its disk, so that a crash
            of the server may take back the last commits (https://www.postgresql.org/docs/current/wal-async-commit.html).

    Raises:
        SettingsError: no such URL; `synchronous` is neither of the two.
        ArchiveError: psycopg is not installed, or the server cannot be reached; also raised by every later call, in the
            form that `translate` gives it.
    """

    def __init__(self, where: str, synchronous: Synchronous = "FULL") -> None:
        super().__init__(synchronous)
        url = _url(where)
        try:
            import psycopg
        except ImportError as error:
            raise ArchiveError(
                f"PostgreSQL needs psycopg, which cannot be imported ({error}); pip install 'agentsleep[postgres]'"
            ) from error
        self.low_level = (psycopg.Error,)
        self.path = None
        self.name = url.render_as_string(hide_password=True)
        options = f"-c search_path={SCHEMA} -c lock_timeout={LOCK_TIMEOUT_S}s -c timezone=UTC"
        if synchronous == "NORMAL":
            options += " -c synchronous_commit=off"
        arguments = {"application_name": f"agentsleep {os.getpid()} on {socket.gethostname()}"[:63], "options": options}
        self.engine = create_engine(
            url,
            json_serializer=dump_json,
            pool_size=POOL,
            max_overflow=POOL,
            pool_pre_ping=True,
            connect_args=arguments,
        )
        self.reader = self.engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self.writer = self.engine
        self._locks: Connection | None = None
        self._line = 0  # counts the connections that have held locks
        self._mutex = threading.Lock()

    def close(self) -> None:
        """Lets go of the server; calling it again does nothing."""
        with self._mutex:
            if self._locks is not None and os.getpid() == self._pid:
                self._locks.close()
            self._locks = None
        super().close()

    def confine(self, tx: Transaction, reach: Reach) -> None:
        """Sets what the policies of row-level security compare with, until the end of the transaction."""
        tx.execute(_CONFINE, reach._asdict())

    # Advisory locks: held by one connection for all sessions of this process, released by the server when it ends.

    def try_lock(self, what: str) -> int:
        """Takes the advisory lock of a name if it is free. The caller keeps threads of this process apart.

        Returns:
            The number of the connection that holds it; 0 if another one does.
        """
        with self._mutex, self.named_errors():
            self.check_usable()
            if not self.keeps_locks(self._line):
                self._locks = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
                self._line += 1
            assert self._locks is not None
            taken = self._locks.scalar(text("SELECT pg_try_advisory_lock(:key)"), {"key": _key(what)})
            return self._line if taken else 0

    def unlock(self, what: str, line: int) -> None:
        """Gives the lock back; a connection that is gone has given it back already."""
        with self._mutex:
            if self._locks is None or not self.keeps_locks(line):
                return
            try:
                with self.named_errors():
                    self._locks.scalar(text("SELECT pg_advisory_unlock(:key)"), {"key": _key(what)})
            except ArchiveError:
                if self.keeps_locks(line):
                    raise

    def keeps_locks(self, line: int) -> bool:
        """Whether the connection of this number stands and holds its locks, as far as this process knows."""
        locks = self._locks
        return locks is not None and line == self._line and not locks.closed and not locks.invalidated

    def holder(self, what: str) -> str:
        """Who holds a lock, as the server knows it."""
        with self.reading() as tx:
            pid = tx.scalar(_HOLDER, _halves(what))
            row = tx.execute(
                text("SELECT application_name, backend_start FROM pg_stat_activity WHERE pid = :pid"), {"pid": pid}
            ).first()
        if row is None or not row[0]:
            return "another process"
        return f"{row[0]} (server process {pid}, since {row[1]:%Y-%m-%dT%H:%M:%S} UTC)"

    def purge(self) -> list[str]:
        """Rewrites the tables, and names what no program can reach through them."""
        out = [
            "the server's own write-ahead log, its replicas and its backups still hold what was deleted, until they "
            "are recycled; that is for whoever runs the server"
        ]
        with self.named_errors(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            for table in Base.metadata.sorted_tables:
                if connection.scalar(_OWNED, {"table": f"{SCHEMA}.{table.name}"}):
                    connection.exec_driver_sql(f"VACUUM FULL {SCHEMA}.{table.name}")
                else:
                    out.append(f"the table {table.name} belongs to another user, who is to run `agentsleep db purge`")
        return out

    def translate(self, error: Exception) -> ArchiveError:
        """The typed error for a low-level one."""
        cause = getattr(error, "orig", None) or error
        state = getattr(cause, "sqlstate", None) or ""
        said = str(cause).strip().splitlines()[0].rstrip(".") if str(cause).strip() else type(cause).__name__
        if "NUL" in said and "0x00" in said:
            raise InputError(
                f"a text holds a NUL character, which PostgreSQL cannot store ({said}); remove it"
            ) from error
        if state in ("53100", "53200"):
            return ArchiveFull(
                f"no space left for the archive {self.name} ({said}): what was being written is not stored, what was "
                "stored before is intact; free some space and do it again"
            )
        if state.startswith("XX") or (not state and not isinstance(cause, (*self.low_level, PoolTimeout, OSError))):
            return ArchiveDamaged(f"the archive {self.name} cannot be read ({said}); restore a backup")
        if state in ("55P03", "40001", "40P01") or isinstance(error, PoolTimeout):
            return SessionBusy(
                f"other writers have kept the archive {self.name} busy for too long ({said}); nothing was stored; try "
                "again"
            )
        if state.startswith(("08", "28", "3D", "57P")) or not state:
            return ArchiveError(
                f"the archive {self.name} cannot be reached ({said}); check that the server runs, that the database "
                "exists, and user and password; nothing was stored"
            )
        if state == "42501":
            return ArchiveError(
                f"the archive {self.name} refused ({said}); give this user the right to its tables, or let the owner "
                "run `agentsleep db upgrade` first"
            )
        return ArchiveError(f"the archive {self.name} refused: {said}; nothing was stored")


# A bigint key appears in pg_locks as two halves, with objsubid 1.
_HOLDER = text(
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND classid = :high "
    "AND objid = :low AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


_OWNED = text("SELECT pg_has_role(current_user, relowner, 'USAGE') FROM pg_class WHERE oid = CAST(:table AS regclass)")


def _key(what: str) -> int:
    """A signed 64-bit number for a name."""
    return int.from_bytes(hashlib.sha256(what.encode()).digest()[:8], "big", signed=True)


def _halves(what: str) -> dict[str, int]:
    return {"high": _key(what) >> 32 & 0xFFFFFFFF, "low": _key(what) & 0xFFFFFFFF}


def _url(where: str) -> URL:
    try:
        url = make_url(where)
    except (ArgumentError, ValueError) as error:
        raise SettingsError(
            "the archive's URL cannot be parsed; write postgresql://user:password@host/database"
        ) from error
    if url.drivername not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise SettingsError(
            f"the driver {url.drivername!r} is not supported; write postgresql://user:password@host/database, which "
            "is read through psycopg 3"
        )
    return url.set(drivername="postgresql+psycopg")
