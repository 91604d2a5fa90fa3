"""``agentsleep snapshots forget``: what was said goes, and every state that has seen it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, complain, console, emit
from agentsleep.cli.archives import ArchiveFile, Model, Tenant, User, archive_place, find_thread, open_existing
from agentsleep.cli.snapshots import snapshots_app
from agentsleep.errors import InputError, SessionNotFound

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.archive import Archive, SessionRecord, UserArchive
    from agentsleep.memory.past.forgetting import Forgotten

MOST = 20  # messages that are shown before it is done


@snapshots_app.command("forget")
def forget(
    thread: Annotated[str | None, typer.Argument(help="The thread's name.", show_default=False)] = None,
    message: Annotated[
        list[int] | None, typer.Option(help="The seq of a message; may be repeated. Without any, the thread goes.")
    ] = None,
    span: Annotated[str | None, typer.Option(help="All messages with A <= seq < B, as A:B.")] = None,
    phrase: Annotated[
        list[str] | None, typer.Option(help="Later messages that hold this text count as repeats; may be repeated.")
    ] = None,
    cascade: Annotated[bool, typer.Option("--cascade", help="Repeats go too; otherwise they are listed.")] = False,
    everything: Annotated[bool, typer.Option("--everything", help="All of the user, in place of a thread.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Forget messages, a thread or a user. What remains, forks too, is read again as if it had never been said."""
    chosen = bool(message or span or phrase or cascade)
    if everything == (thread is not None) or (everything and chosen):
        raise InputError("give a thread, with messages or without, or --everything alone to forget the user")
    seqs: list[int] | None = None
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        if thread is None:
            planned = _all_of(opened, theirs)
        else:
            record = find_thread(theirs, thread)
            seqs = _chosen(theirs, record, message or (), span)
            planned = _plan(theirs, record, seqs, phrase or (), cascade)
        path = opened.database.name
    document = {"archive": path, "tenant": tenant, "user": user, "thread": thread, "planned": planned, "done": None}
    if dry_run:
        emit(document, as_json, lambda out: _show_plan(out, planned))
        return
    if not yes:
        _show_plan(console(), planned)
        _confirm()
    try:
        if thread is None:
            done = _forget_user(archive, user, tenant)
        else:
            done = _forget(archive, user, tenant, model, thread, seqs, phrase or (), cascade)
    except KeyboardInterrupt:
        complain("interrupted: either all of it was forgotten, or nothing; the same command tells which")
        raise
    document["done"] = asdict(done)
    emit(document, as_json, lambda out: _show_done(out, done))


def _chosen(theirs: UserArchive, record: SessionRecord, messages: Sequence[int], span: str | None) -> list[int] | None:
    """The seqs that were named; None for the whole thread."""
    if not messages and span is None:
        return None
    seqs = {*messages}
    if span is not None:
        first, colon, last = span.partition(":")
        if not (colon and first.strip().isdecimal() and last.strip().isdecimal()):
            raise InputError(f"--span is {span!r}; give two seqs, such as 3:9, which are 3 to 8")
        inside = [e.seq for e in theirs.events(record.id, int(first), int(last)) if e.kind == "tokens"]
        if not inside:
            raise InputError(f"thread {record.scope.thread!r} has no message from seq {first} on and before {last}")
        seqs |= {*inside}
    return sorted(seqs)


def _plan(
    theirs: UserArchive, record: SessionRecord, seqs: list[int] | None, phrases: Sequence[str], cascade: bool
) -> dict[str, Any]:
    """What forgetting would do, by the same rules; changes nothing."""
    from agentsleep.memory.past.forgetting import Family, planned

    family = Family(theirs)
    plan = planned(family, record.id, seqs, phrases, cascade)
    messages = [
        {"thread": one.scope.thread, "seq": event.seq, "role": event.role, "text": event.text}
        for one in family.sessions.values()
        for event in family.own(one.id)
        if (one.id, event.seq) in plan.gone and event.kind == "tokens"
    ]
    return {
        "messages": messages,
        "threads": [family.sessions[one].scope.thread for one in plan.threads],
        "rebuilt": [family.sessions[one].scope.thread for one in plan.affected if one not in plan.threads],
        "snapshots": plan.condemned,
        "state_bytes": sum(family.snapshots[one].state_bytes for one in plan.condemned),
        "repeats": [asdict(repeat) for repeat in plan.repeats],
        "cascade": cascade,
    }


def _all_of(opened: Archive, theirs: UserArchive) -> dict[str, Any]:
    """The same for a whole user."""
    sessions, snapshots = theirs.sessions(), theirs.all_snapshots()
    if not sessions and (theirs.tenant, theirs.name) not in opened.users():
        raise SessionNotFound(
            f"{opened.database.name} holds nothing of user {theirs.name!r} of tenant {theirs.tenant!r}; check --user "
            "and --tenant"
        )
    return {
        "messages": [],
        "threads": [one.scope.thread for one in sessions],
        "rebuilt": [],
        "snapshots": [one.id for one in snapshots],
        "state_bytes": sum(one.state_bytes for one in snapshots if one.status == "stored"),
        "repeats": [],
        "cascade": False,
    }


def _confirm() -> None:
    try:
        if typer.confirm("Forget this? It cannot be undone.", err=True):
            return
    except typer.Abort:
        complain("nobody answered, so nothing was forgotten; in a script, give --yes")
        raise
    complain("nothing was forgotten")
    raise typer.Abort


def _forget_user(archive: str | None, user: str, tenant: str) -> Forgotten:
    """Needs no model: nothing is read again."""
    from agentsleep.memory.past.forgetting import forget_everything

    with open_existing(archive) as opened:
        return forget_everything(opened.user(tenant, user))


def _forget(
    archive: str | None,
    user: str,
    tenant: str,
    model: Path | None,
    thread: str,
    seqs: list[int] | None,
    phrases: Sequence[str],
    cascade: bool,
) -> Forgotten:
    from agentsleep.cli.app import quiet_transformers

    quiet_transformers()
    from agentsleep.cli.progress import bar
    from agentsleep.memory import SleepMemory

    with SleepMemory(model, archive=archive_place(archive)) as memory, bar(console(), "reading again") as part:
        return memory.forget(
            thread,
            seqs,
            user=user,
            tenant=tenant,
            phrases=phrases,
            cascade=cascade,
            progress=lambda now, of: part(now / of if of else 1.0),
        )


def _show_plan(out: Console, planned: dict[str, Any]) -> None:
    from rich.filesize import decimal
    from rich.text import Text

    lines = [f"thread {name!r} goes as a whole" for name in planned["threads"]]
    for said in planned["messages"][:MOST]:
        lines.append(f"{said['thread']} {said['seq']}  {said['role'] or '–'}: {said['text'] or '–'}")
    if len(planned["messages"]) > MOST:
        lines.append(f"… and {len(planned['messages']) - MOST} more messages")
    lines.append(f"{len(planned['snapshots'])} states that have seen it go ({decimal(planned['state_bytes'])})")
    lines += [f"thread {name!r} is read again without it" for name in planned["rebuilt"]]
    out.print(Text("\n".join(lines)), soft_wrap=True)
    _show_repeats(out, planned["repeats"], "goes too" if planned["cascade"] else "stays; --cascade takes it too")


def _show_done(out: Console, done: Forgotten) -> None:
    from rich.filesize import decimal
    from rich.text import Text

    lines = [f"forgotten: {done.messages} entries of logs, {done.snapshots} states ({decimal(done.state_bytes)})"]
    lines += [f"thread {name!r} is gone" for name in done.threads]
    lines += [f"thread {name!r} was read again without it" for name in done.rebuilt]
    out.print(Text("\n".join(lines)), soft_wrap=True)
    _show_repeats(out, [asdict(one) for one in done.repeats], "said it again")
    for place in done.out_of_reach:
        out.print(Text(f"out of reach: {place}"), soft_wrap=True)


def _show_repeats(out: Console, repeats: Sequence[dict[str, Any]], what: str) -> None:
    from rich.text import Text

    for one in repeats:
        said = f"{one['thread']} {one['seq']}  {one['role'] or '–'}: {one['text']}"
        out.print(Text(f"repeats it ({what}): {said}"), soft_wrap=True)
