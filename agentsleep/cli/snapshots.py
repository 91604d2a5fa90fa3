"""``agentsleep snapshots …``: what an archive holds. Only ``restore`` loads a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from agentsleep.cli.app import AsJson, app, emit, quiet_transformers
from agentsleep.cli.archives import (
    ArchiveFile,
    Tenant,
    User,
    archive_path,
    find_snapshot,
    open_existing,
    sessions_of,
    snapshots_of,
)
from agentsleep.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.archive import Archive, Event, SessionRecord, Snapshot

snapshots_app = typer.Typer(help="Look into an archive, and bring a state back to life.", no_args_is_help=False)
app.add_typer(snapshots_app, name="snapshots")

Id = Annotated[str, typer.Argument(help="The snapshot's id, or its first characters.", metavar="ID")]


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
        everyone = sessions_of(opened, tenant, user, None)
        snapshots = snapshots_of(opened, sessions_of(opened, tenant, user, thread))
        path = str(opened.path)
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
        snapshot = find_snapshot(opened, snapshot_id, tenant, user)
        everyone = sessions_of(opened, tenant, user, None)
        events = _taken_in(opened, snapshot)
        path = str(opened.path)
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
    model: Annotated[Path | None, typer.Option(help="A checkpoint folder; by default the shipped model.")] = None,
    as_json: AsJson = False,
) -> None:
    """Fork a snapshot into a new thread, and check that the state came back."""
    with open_existing(archive) as opened:  # first what needs no model: a wrong id is told at once
        snapshot = find_snapshot(opened, snapshot_id, tenant, user)
        if thread in [record.scope.thread for record in opened.sessions(tenant, user)]:
            raise InputError(f"user {user!r} has a thread {thread!r} already; give --thread another name, or none")
    quiet_transformers()
    from agentsleep.cli.probe import restored

    done = restored(archive_path(archive), model, snapshot, thread)
    go_on = _python(archive, model, user, tenant, done["thread"])
    document = {"archive": str(archive_path(archive)), "snapshot": snapshot.id, **done, "python": go_on}
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
        "tag": snapshot.tag,
        "thread": thread,
        "head_of": [s.scope.thread for s in sessions if s.head == snapshot.id],
    }


def _taken_in(archive: Archive, snapshot: Snapshot) -> list[dict[str, Any]]:
    """What a snapshot covers: the events of its span, and before them a message of which its parent took in a part.

    ``consolidated`` counts the tokens of an event that lay in the window that was slept on.
    """
    first, last = snapshot.span
    begin = first
    if snapshot.parent is not None:
        begin = cast(int, archive.events(snapshot.session_id, first - 1, first)[0].data.get("next_seq", first))
    events = archive.events(snapshot.session_id, min(begin, first), last)
    window = range(0)
    if snapshot.mode == "light":
        mark: Any = events[-1].data
        window = range(mark["start"], mark["stop"])
    return [_event(event, window) for event in events if event.seq >= first or event.kind == "tokens"]


def _event(event: Event, window: range) -> dict[str, Any]:
    tokens = range(event.position, event.position + len(event.token_ids))
    return {
        "seq": event.seq,
        "kind": event.kind,
        "role": event.role,
        "position": event.position,
        "tokens": len(tokens),
        "consolidated": len(range(max(tokens.start, window.start), min(tokens.stop, window.stop))),
        "text": event.text,
        "data": dict(event.data),
    }


def _show_list(out: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = document["snapshots"]
    if not rows:
        out.print(Text(f"no snapshots of user {document['user']!r} in {document['archive']}"), soft_wrap=True)
        return
    table = Table(
        "id", "parent", "when (UTC)", "mode", "trigger", "passes x rounds", "tokens", "bytes", "tag", "thread"
    )
    for column in table.columns[5:8]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row["id"][:8],
            (row["parent"] or "–")[:8],
            row["created"][:19].replace("T", " "),
            row["mode"],
            Text(row["trigger"]),
            f"{row['passes']} x {row['rounds']}",
            f"{row['tokens']:,}",
            f"{row['state_bytes']:,}",
            Text(row["tag"] or ""),
            Text(f"{row['thread'] or '?'}{' ←' if row['thread'] in row['head_of'] else ''}"),
        )
    table.caption = "← the newest state of its thread"
    out.print(table)


def _show_one(out: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    facts = Table.grid(padding=(0, 2))
    for name in ("id", "parent", "thread", "head_of", "tag", "created", "mode", "trigger", "passes", "rounds"):
        facts.add_row(name, Text(_plain(document[name])))
    for name in ("tokens", "state_bytes", "fingerprint", "state_digest", "span"):
        facts.add_row(name, Text(_plain(document[name])))
    for group in ("metrics", "environment"):
        for name, value in document[group].items():
            facts.add_row(f"{group}.{name}", Text(_plain(value)))
    out.print(facts)
    out.print()
    for event in document["events"]:
        out.print(Text(_line(event)), soft_wrap=True)


def _plain(value: object) -> str:
    if value is None or value == []:
        return "–"
    if isinstance(value, list):
        return ", ".join(str(part) for part in value)
    return f"{value:,.6g}" if isinstance(value, float) else str(value)


def _line(event: Mapping[str, Any]) -> str:
    """An event of the log for a reader."""
    data, seq = event["data"], f"{event['seq']:>5}  "
    if event["kind"] == "sleep":
        return f"{seq}— sleep on tokens {data['start']} to {data['stop']}, passes {data['passes']}: {data['reason']} —"
    if event["kind"] == "deep_sleep":
        windows = f"{data['windows']} windows from the {data['first'] + 1}. on"
        return f"{seq}— deep sleep: {windows} read again, passes {data['passes']}, rounds {data['rounds']} —"
    if "pins" in data:
        names = ", ".join(tool["function"]["name"] for tool in data["pins"]["tools"]) or "none"
        return f"{seq}pinned: system {event['text'] or 'none'!r}, tools: {names}"
    text = event["text"] if event["text"] is not None else "(the beginning of a turn that goes on)"
    whole = event["consolidated"] == event["tokens"]
    part = "" if whole else f"  [{event['consolidated']} of {event['tokens']} tokens lay in this window]"
    return f"{seq}{event['role']}: {text}{part}"


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
    memory += [f"archive={str(archive_path(archive).resolve())!r}"] if archive is not None else []
    session = [repr(thread)]
    session += [f"{name}={value!r}" for name, value in (("user", user), ("tenant", tenant)) if value != "default"]
    return (
        "from agentsleep import SleepMemory\n\n"
        f"with SleepMemory({', '.join(memory)}) as memory, memory.session({', '.join(session)}) as session:\n"
        '    print(session.ask("...", remember=False))'
    )
