"""What the commands about an archive share: finding it, and reading it without a model."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import emit
from agentsleep.errors import ArchiveError, InputError, SessionNotFound, SnapshotNotFound

if TYPE_CHECKING:
    from agentsleep.archive import Archive, SessionRecord, Snapshot, UserArchive

ArchiveFile = Annotated[
    str | None,
    typer.Option(
        "--archive", help="The database, a file or a URL (postgresql://...); by default that of SleepMemory()."
    ),
]
User = Annotated[str, typer.Option(help="Whose memory.")]
Tenant = Annotated[str, typer.Option(help="Of which tenant.")]
Model = Annotated[Path | None, typer.Option(help="A checkpoint folder; by default the shipped model.")]
Id = Annotated[
    str, typer.Argument(help="The snapshot's id, its first characters, or its tag.", metavar="ID", show_default=False)
]
Thread = Annotated[str, typer.Argument(help="The thread's name.", metavar="THREAD", show_default=False)]


def archive_path(where: str | None) -> Path | None:
    """Where an archive's file lies, or would lie; ``sqlite:///file`` is understood as elsewhere. None on a server."""
    from agentsleep.archive import default_archive

    if where is not None and where.startswith("postgres"):
        return None
    return default_archive() if where is None else Path(where.removeprefix("sqlite:///")).expanduser()


def archive_place(where: str | None) -> str:
    """An archive as :class:`agentsleep.archive.Archive` is to be given it."""
    return str(archive_path(where) or where)


def shown_place(where: str) -> str:
    """An archive as the user gave it, but for a password."""
    from sqlalchemy import make_url

    return where if archive_path(where) else make_url(where).render_as_string(hide_password=True)


def command_line(*words: str, archive: str | None, user: str, tenant: str) -> str:
    """A command on the same user's part of the same archive, to be typed into a shell."""
    place = [] if archive is None else ["--archive", shown_place(archive)]
    named = [("--user", user), ("--tenant", tenant)]
    whose = [word for pair in named if pair[1] != "default" for word in pair]
    return shlex.join(["agentsleep", "snapshots", *words, *place, *whose])


def open_existing(where: str | None) -> Archive:
    """An archive that is there; opening a missing file would make an empty one.

    Raises:
        ArchiveError: there is none, or it cannot be opened.
    """
    from agentsleep.archive import Archive

    path = archive_path(where)
    if path is not None and not path.is_file():
        raise ArchiveError(
            f"there is no archive at {path}; name another with --archive, or let a session write it first"
        )
    return Archive(archive_place(where))


def sessions_of(archive: UserArchive, thread: str | None) -> list[SessionRecord]:
    """The sessions of a user; only that of ``thread`` where one is named.

    Raises:
        SessionNotFound: no such thread.
    """
    return archive.sessions() if thread is None else [find_thread(archive, thread)]


def find_thread(archive: UserArchive, thread: str) -> SessionRecord:
    """The session of a thread.

    Raises:
        SessionNotFound: no such thread.
    """
    chosen = archive.find(thread)
    if chosen is None:
        records = archive.sessions()
        named = ", ".join(repr(record.scope.thread) for record in records[:10]) or "none"
        raise SessionNotFound(
            f"no thread {thread!r} of user {archive.name!r} of tenant {archive.tenant!r}; there are: {named}"
            + (" and more" if len(records) > 10 else "")
        )
    return chosen


def snapshots_of(archive: UserArchive, records: list[SessionRecord]) -> list[Snapshot]:
    """All snapshots that these sessions descend from, each once, oldest first."""
    found = {snapshot.id: snapshot for record in records for snapshot in archive.snapshots(record.id)}
    return sorted(found.values(), key=lambda snapshot: (snapshot.created, snapshot.id))


def find_snapshot(archive: UserArchive, prefix: str) -> Snapshot:
    """The one snapshot of a user whose id begins like this, or that has this tag.

    Raises:
        SnapshotNotFound: there is none.  InputError: there are several, or nothing was given.
    """
    wanted = prefix.strip()
    if not wanted:
        raise InputError("the snapshot's id is empty; give its first characters (agentsleep snapshots list)")
    known = archive.all_snapshots()
    tagged = [snapshot for snapshot in known if snapshot.tag == wanted]
    fitting = tagged or [snapshot for snapshot in known if snapshot.id.startswith(wanted.lower())]
    if not fitting:
        raise SnapshotNotFound(
            f"no snapshot of user {archive.name!r} of tenant {archive.tenant!r} has an id that begins with {prefix!r}, "
            "or that tag; 'agentsleep snapshots list' shows those that there are"
        )
    if len(fitting) > 1:
        ids = ", ".join(snapshot.id[: len(wanted) + 4] for snapshot in fitting[:5])
        which = f"the tag {prefix!r}" if tagged else f"ids that begin with {prefix!r}"
        raise InputError(f"{len(fitting)} snapshots have {which} ({ids}); give more of the id")
    return fitting[0]


def find_in_thread(archive: UserArchive, record: SessionRecord, prefix: str) -> Snapshot:
    """The one snapshot that a thread descends from and whose id begins like this, or that has this tag.

    Raises:
        SnapshotNotFound: there is none, or the thread does not descend from it.  InputError: there are several.
    """
    snapshot = find_snapshot(archive, prefix)
    if snapshot.id not in {one.id for one in archive.snapshots(record.id)}:
        raise SnapshotNotFound(
            f"thread {record.scope.thread!r} does not descend from snapshot {snapshot.id[:8]}; "
            f"'agentsleep snapshots list --thread' shows those that it rests on"
        )
    return snapshot


def named(snapshot: Snapshot) -> str:
    """A snapshot in a sentence."""
    return snapshot.id[:8] + (f" ({snapshot.tag})" if snapshot.tag is not None else "")


def say(document: Mapping[str, Any], as_json: bool, text: str) -> None:
    """A result that is a sentence to a reader."""
    from rich.text import Text

    emit(document, as_json, lambda out: out.print(Text(text), soft_wrap=True))
