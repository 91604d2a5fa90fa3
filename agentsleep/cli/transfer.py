"""``agentsleep snapshots export`` and ``import``: a thread as one file. Only ``import --probe`` loads a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, emit, quiet_transformers
from agentsleep.cli.archives import ArchiveFile, Tenant, User, archive_place, open_existing, sessions_of
from agentsleep.cli.snapshots import snapshots_app

if TYPE_CHECKING:
    from rich.console import Console

WITHOUT = (
    "Its messages cannot be read, searched, replayed or forgotten, and a deep sleep re-reads only what is said from "
    "now on; system message and tools are to be given again."
)
PRIVATE = "States and texts lie in it in plain: treat it as the conversation itself."


@snapshots_app.command("export")
def export(
    thread: Annotated[str, typer.Argument(help="The thread's name.", metavar="THREAD")],
    file: Annotated[Path, typer.Argument(help="The zip to write.", metavar="FILE")],
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    no_text: Annotated[
        bool, typer.Option("--no-text", help="Leave out all that was said: states and lineage alone.")
    ] = False,
    head_only: Annotated[bool, typer.Option("--head-only", help="Of the states, only the newest.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a thread into one file, whole by itself: log, states and lineage."""
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        sessions_of(theirs, thread)  # a wrong name is told with those that there are, and at once
        from agentsleep.memory.transfer import export_thread

        done = export_thread(
            theirs,
            thread,
            file.expanduser(),
            text=not no_text,
            states="head" if head_only else "stored",
            force=force,
        )
        path = opened.database.name
    document = {
        "archive": path,
        "tenant": tenant,
        "user": user,
        "thread": thread,
        "file": str(done.path),
        "text": done.text,
        "events": done.events,
        "snapshots": done.snapshots,
        "states": done.states,
        "bytes": done.bytes,
        "left_out": done.left_out,
    }
    emit(document, as_json, lambda out: _show_exported(out, document))


@snapshots_app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="A zip that export wrote.", metavar="FILE")],
    thread: Annotated[str | None, typer.Option(help="Name of the thread; by default as it was called.")] = None,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    into_user: Annotated[str | None, typer.Option(help="Make it this user's, whoever's it was.")] = None,
    into_tenant: Annotated[str | None, typer.Option(help="Make it this tenant's, whoever's it was.")] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Load the model, and ask the newest state whether it speaks as it did.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="For --probe: a checkpoint folder; by default the shipped model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a thread of an exported one. All of the file is verified before anything is stored."""
    from agentsleep.archive import Archive
    from agentsleep.memory import SleepMemory
    from agentsleep.memory.textless import textless
    from agentsleep.memory.transfer import import_thread
    from agentsleep.memory.transfer.threadfile import ThreadFile

    source = file.expanduser()
    ThreadFile(source).close()  # a file that is none makes no archive
    with Archive(archive_place(archive)) as opened:
        memory = None
        if probe or model is not None:
            quiet_transformers()
            memory = SleepMemory(model, archive=opened)
        theirs = opened.user(into_tenant or tenant, into_user or user)
        record = import_thread(
            theirs, source, model=memory, thread=thread, into_tenant=into_tenant, into_user=into_user
        )
        snapshots = theirs.snapshots(record.id)
        document = {
            "archive": opened.database.name,
            "tenant": theirs.tenant,
            "user": theirs.name,
            "thread": record.scope.thread,
            "file": str(source),
            "fingerprint": record.fingerprint,
            "head": record.head,
            "events": record.events,
            "snapshots": len(snapshots),
            "states": sum(one.status == "stored" for one in snapshots),
            "text": not any(map(textless, theirs.events(record.id))),
            "probed": memory is not None,
        }
    emit(document, as_json, lambda out: _show_imported(out, document))


def _show_exported(out: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    said = (
        f"thread {document['thread']!r}: {document['events']} events and {document['snapshots']} snapshots, "
        f"{document['states']} with their states, are in {document['file']} ({document['bytes']:,} bytes). "
    )
    if document["text"]:
        said += PRIVATE
    else:
        said += "It holds no text and no token, but states partly give away what was read: treat it as private."
    if document["left_out"]:
        said += f" {document['left_out']} tokens were said since the newest sleep: they are in no state, and not in it."
    out.print(Text(said), soft_wrap=True)


def _show_imported(out: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    said = (
        f"thread {document['thread']!r} of user {document['user']!r} of tenant {document['tenant']!r}: "
        f"{document['events']} events and {document['snapshots']} snapshots, {document['states']} with their states. "
        f"It belongs to model {document['fingerprint'][:12]}"
    )
    if document["probed"]:
        said += ", which is the one at hand; its newest state speaks as it did."
    else:
        said += ", which will ask its newest state when the thread is opened (--probe asks now)."
    if not document["text"]:
        said += f" It came without its texts. {WITHOUT}"
    out.print(Text(said), soft_wrap=True)
