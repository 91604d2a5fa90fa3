"""The archive: the database, and the door to each user's part of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from sqlalchemy import select

from agentsleep.archive import migrate
from agentsleep.archive.chunks import Transform
from agentsleep.archive.database import Database, Synchronous
from agentsleep.archive.postgres import PostgresDatabase
from agentsleep.archive.rules import DEFAULT, Retention
from agentsleep.archive.schema import ScopeRow
from agentsleep.archive.sqlite import SqliteDatabase
from agentsleep.archive.types import Scope
from agentsleep.archive.user import UserArchive


class Archive:
    """Event logs and snapshots of many users in one SQLite or PostgreSQL database.

    What a method that writes has returned is on disk: neither SIGKILL nor, unless `synchronous` is NORMAL, a power cut
    takes it back. What raises has stored nothing. Reads never wait for writers. One `Archive` serves all threads of a
    process; after `os.fork` a new one is needed. The archive itself lets any number of writers append; `SessionLock`
    keeps them apart.

    Args:
        where: a file (made, with its folder, if it is missing), ":memory:", or a URL: `sqlite:///…`, `postgresql://…`.
        synchronous: "FULL" waits for the disk at every commit; "NORMAL" does not, so that a power cut or a crash of the
            operating system may take back the last commits (SIGKILL still may not).
        retention: which states stay; by default the newest 16 of each thread, its head, and all that have a tag. Their
            logs stay in any case, and a state that went can be computed again from them. None: all stay.
        transform: what the bytes of states go through before they are stored, such as encryption. Texts do not.

    Raises:
        SettingsError: `where` names no such database; `synchronous` is neither of the two.
        ArchiveError: it cannot be opened, is another program's, or of a newer revision.
        ArchiveDamaged: the file is damaged or no database. Every method may raise this, and `ArchiveFull` for a full
            disk, and `SessionBusy` if other programs keep the database locked for too long.
    """

    def __init__(
        self,
        where: str | Path,
        *,
        synchronous: Synchronous = "FULL",
        retention: Retention | None = DEFAULT,
        transform: Transform | None = None,
    ) -> None:
        url = str(where)
        known = isinstance(where, str) and url.startswith(("postgresql:", "postgresql+", "postgres:"))
        self._db: Database = PostgresDatabase(url, synchronous) if known else SqliteDatabase(where, synchronous)
        self._transform, self.retention = transform, retention
        try:
            migrate.prepare(self._db)
        except BaseException:
            self._db.close()
            raise

    @property
    def path(self) -> Path | None:
        """The database file; None where there is none: in memory, or on a server."""
        return self._db.path

    @property
    def database(self) -> Database:
        """What its transactions go through."""
        return self._db

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the database; calling it again does nothing."""
        self._db.close()

    def __repr__(self) -> str:
        return f"Archive({self._db.name!r})"

    def user(self, tenant: str, user: str) -> UserArchive:
        """The part of one user of one tenant: nothing that is read or written through it is anybody else's.

        Raises:
            InputError: an id is empty, longer than 255 characters or no text.
        """
        return UserArchive(self._db, Scope(tenant=tenant, user=user, thread="*"), self._transform, self.retention)

    def users(self) -> Sequence[tuple[str, str]]:
        """Tenant and user of everyone that the archive holds something of, in order."""
        with self._db.reading() as tx:
            query = select(ScopeRow.tenant, ScopeRow.user_id).order_by(ScopeRow.tenant, ScopeRow.user_id)
            return [(tenant, user) for tenant, user in tx.execute(query)]
