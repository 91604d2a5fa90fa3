"""What the commands about an archive share: finding it, and reading it without a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentsleep.errors import ArchiveError, InputError, SessionNotFound, SnapshotNotFound

if TYPE_CHECKING:
    from agentsleep.archive import Archive, SessionRecord, Snapshot

ArchiveFile = Annotated[str | None, typer.Option("--archive", help="The database; by default that of SleepMemory().")]
User = Annotated[str, typer.Option(help="Whose memory.")]
Tenant = Annotated[str, typer.Option(help="Of which tenant.")]

_PREFIX = "sqlite:///"


def archive_path(where: str | None) -> Path:
    """Where an archive lies, or would lie; ``sqlite:///file`` is understood as elsewhere."""
    from agentsleep.archive import default_archive

    return default_archive() if where is None else Path(where.removeprefix("sqlite:///")).expanduser()


def open_existing(where: str | None) -> Archive:
    """An archive that is there; opening a missing one would make an empty file.

    Raises:
        ArchiveError: there is none, or it cannot be opened.
    """
    from agentsleep.archive import Archive

    path = archive_path(where)
    if not path.is_file():
        raise ArchiveError(
            f"there is no archive at {path}; name another with --archive, or let a session write it first"
        )
    return Archive(path)


def sessions_of(archive: Archive, tenant: str, user: str, thread: str | None) -> list[SessionRecord]:
    """The sessions of a user; only that of ``thread`` where one is named.

    Raises:
        SessionNotFound: no such thread.
    """
    records = archive.sessions(tenant, user)
    if thread is None:
        return records
    chosen = [record for record in records if record.scope.thread == thread]
    if not chosen:
        named = ", ".join(repr(record.scope.thread) for record in records[:10]) or "none"
        raise SessionNotFound(
            f"no thread {thread!r} of user {user!r} of tenant {tenant!r}; there are: {named}"
            + (" and more" if len(records) > 10 else "")
        )
    return chosen


def snapshots_of(archive: Archive, records: list[SessionRecord]) -> list[Snapshot]:
    """All snapshots that these sessions descend from, each once, oldest first."""
    found = {snapshot.id: snapshot for record in records for snapshot in archive.snapshots(record.id)}
    return sorted(found.values(), key=lambda snapshot: (snapshot.created, snapshot.id))


def find_snapshot(archive: Archive, prefix: str, tenant: str, user: str) -> Snapshot:
    """The one snapshot of a user whose id begins like this.

    Raises:
        SnapshotNotFound: there is none.  InputError: there are several, or nothing was given.
    """
    wanted = prefix.strip().lower()
    if not wanted:
        raise InputError("the snapshot's id is empty; give its first characters (agentsleep snapshots list)")
    known = snapshots_of(archive, sessions_of(archive, tenant, user, None))
    fitting = [snapshot for snapshot in known if snapshot.id.startswith(wanted)]
    if not fitting:
        raise SnapshotNotFound(
            f"no snapshot of user {user!r} of tenant {tenant!r} has an id that begins with {prefix!r}; "
            "'agentsleep snapshots list' shows those that there are"
        )
    if len(fitting) > 1:
        ids = ", ".join(snapshot.id[: len(wanted) + 4] for snapshot in fitting[:5])
        raise InputError(f"{len(fitting)} snapshots have ids that begin with {prefix!r} ({ids}); give more of it")
    return fitting[0]
