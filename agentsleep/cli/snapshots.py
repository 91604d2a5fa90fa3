"""``agentsleep snapshots list``, ``show`` and ``restore``: what an archive holds. Only ``restore`` loads a model.

The other commands of the group are in files of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, app, emit
from agentsleep.cli.archives import (
    ArchiveFile,
    Id,
    Model,
    Tenant,
    User,
    archive_path,
    archive_place,
    find_snapshot,
    open_existing,
    sessions_of,
    shown_place,
    snapshots_of,
)
from agentsleep.cli.events import event_line, taken_in
from agentsleep.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.archive import SessionRecord, Snapshot

snapshots_app = typer.Typer(
    help="States of an archive and their lineage: look, compare, go back, forget.", no_args_is_help=False
)
app.add_typer(snapshots_app, name="snapshots")

NARROW = 110  # columns below which the list leaves out what `show` tells
_LEFT_OUT = ("parent", "mode", "trigger", "passes x rounds", "bytes")
_RIGHT = ("passes x rounds", "tokens", "bytes")
_WHOLE = ("id", "tag", "thread")  # never cut into lines


@snapshots_app.command("list")
def list_(
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    thread: Annotated[str | None, typer.Option(help="Only this thread's history.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the snapshots of a user, oldest first."""
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        everyone = theirs.sessions()
        snapshots = snapshots_of(theirs, sessions_of(theirs, thread))
        path = opened.database.name
    rows = [_row(snapshot, everyone) for snapshot in snapshots]
    document = {"archive": path, "tenant": tenant, "user": user, "thread": thread, "snapshots": rows}
    emit(document, as_json, lambda out: _show_list(out, document))


@snapshots_app.command("show")
def show(
    snapshot_id: Id,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Show one snapshot: its figures, where it was made, and the text that it took in."""
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        snapshot = find_snapshot(theirs, snapshot_id)
        everyone = theirs.sessions()
        events = taken_in(theirs, snapshot)
        path = opened.database.name
    document = {
        "archive": path,
        **_row(snapshot, everyone),
        "fingerprint": snapshot.fingerprint,
        "state_digest": snapshot.state_digest,
        "span": list(snapshot.span),
        "metrics": dict(snapshot.metrics),
        "environment": dict(snapshot.environment),
        "events": events,
    }
    emit(document, as_json, lambda out: _show_one(out, document))


@snapshots_app.command("restore")
def restore(
    snapshot_id: Id,
    thread: Annotated[str | None, typer.Option(help="Name of the new thread; by default one that is free.")] = None,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Fork a snapshot into a new thread, and check that the state came back."""
    with open_existing(archive) as opened:  # first what needs no model: a wrong id is told at once
        theirs = opened.user(tenant, user)
        snapshot = find_snapshot(theirs, snapshot_id)
        path = opened.database.name
        if thread is not None and theirs.find(thread) is not None:
            raise InputError(f"user {user!r} has a thread {thread!r} already; give --thread another name, or none")
    from agentsleep.cli.probe import restored

    done = restored(archive_place(archive), model, snapshot, thread)
    go_on = _python(archive, model, user, tenant, done["thread"])
    document = {"archive": path, "snapshot": snapshot.id, **done, "python": go_on}
    emit(document, as_json, lambda out: _show_restored(out, document))


def _row(snapshot: Snapshot, sessions: Sequence[SessionRecord]) -> dict[str, Any]:
    thread = next((s.scope.thread for s in sessions if s.id == snapshot.session_id), None)
    return {
        "id": snapshot.id,
        "parent": snapshot.parent,
        "created": snapshot.created.isoformat(timespec="seconds"),
        "mode": snapshot.mode,
        "trigger": snapshot.trigger,
        "passes": snapshot.passes,
        "rounds": snapshot.rounds,
        "tokens": snapshot.tokens,
        "state_bytes": snapshot.state_bytes,
        "status": snapshot.status,
        "tag": snapshot.tag,
        "thread": thread,
        "head_of": [s.scope.thread for s in sessions if s.head == snapshot.id],
    }


def _show_list(out: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = document["snapshots"]
    if not rows:
        out.print(Text(f"no snapshots of user {document['user']!r} in {document['archive']}"), soft_wrap=True)
        return
    columns: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "id": lambda row: row["id"][:8],
        "parent": lambda row: (row["parent"] or "–")[:8],
        "when (UTC)": lambda row: row["created"][:19].replace("T", " "),
        "mode": lambda row: row["mode"],
        "trigger": lambda row: row["trigger"],
        "passes x rounds": lambda row: f"{row['passes']} x {row['rounds']}",
        "tokens": lambda row: f"{row['tokens']:,}",
        "bytes": lambda row: f"{row['state_bytes']:,}",
        "state": lambda row: row["status"],
        "tag": lambda row: row["tag"] or "",
        "thread": lambda row: f"{row['thread'] or '?'}{' ←' if row['thread'] in row['head_of'] else ''}",
    }
    if out.width < NARROW:
        columns = {name: text for name, text in columns.items() if name not in _LEFT_OUT}
    table = Table(caption="← the newest state of its thread")
    for name in columns:
        table.add_column(name, justify="right" if name in _RIGHT else "left", no_wrap=name in _WHOLE)
    for row in rows:
        table.add_row(*(Text(text(row)) for text in columns.values()))
    out.print(table)


def _show_one(out: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for name in (
        "id",
        "parent",
        "thread",
        "head_of",
        "tag",
        "status",
        "created",
        "mode",
        "trigger",
        "passes",
        "rounds",
    ):
        facts.add_row(name, Text(_plain(document[name])))
    for name in ("tokens", "state_bytes", "fingerprint", "state_digest", "span"):
        facts.add_row(name, Text(_plain(document[name])))
    for group in ("metrics", "environment"):
        for name, value in document[group].items():
            facts.add_row(f"{group}.{name}", Text(_plain(value)))
    out.print(facts)
    out.print()
    for event in document["events"]:
        out.print(Text(event_line(event)), soft_wrap=True)


def _plain(value: object) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _show_restored(out: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    probe = document["probe"]
    out.print(
        Text(
            f"thread {document['thread']!r} goes on from snapshot {document['snapshot'][:8]} ({document['tokens']:,} "
            f"tokens). Its state was read back as stored, and it speaks: on a fixed text its logits are finite and "
            f"differ from those of an empty memory by up to {probe['difference']:.3g}."
        ),
        soft_wrap=True,
    )
    out.print(Text(f"Go on in Python:\n\n{document['python']}"), soft_wrap=True)


def _python(archive: str | None, model: Path | None, user: str, tenant: str, thread: str) -> str:
    """The lines that open the new thread."""
    memory = [repr(str(model.resolve()))] if model is not None else []
    path = archive_path(archive)
    memory += [f"archive={str(path.resolve()) if path else shown_place(archive)!r}"] if archive is not None else []
    session = [repr(thread)]
    session += [f"{name}={value!r}" for name, value in (("user", user), ("tenant", tenant)) if value != "default"]
    return (
        "from agentsleep import SleepMemory\n\n"
        f"with SleepMemory({', '.join(memory)}) as memory, memory.session({', '.join(session)}) as session:\n"
        '    print(session.ask("...", remember=False))'
    )
