"""``agentsleep snapshots replay``, ``recover`` and ``rebuild``: states computed from the log again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, complain, console, emit
from agentsleep.cli.archives import (
    ArchiveFile,
    Model,
    Tenant,
    Thread,
    User,
    archive_place,
    find_in_thread,
    find_thread,
    named,
    open_existing,
    say,
)
from agentsleep.cli.snapshots import snapshots_app
from agentsleep.errors import InputError, SnapshotNotFound

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from agentsleep.archive import Snapshot


@snapshots_app.command("replay")
def replay(
    thread: Thread,
    start: Annotated[
        str | None, typer.Option("--from", help="Begin with this snapshot's state; with nothing by default.")
    ] = None,
    stop: Annotated[str | None, typer.Option("--to", help="The snapshot to arrive at; by default the newest.")] = None,
    passes: Annotated[int | None, typer.Option(help="Passes of every sleep in place of those there were.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Rounds of every deep sleep in place of those there were.")] = None,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Compute a thread's state from its log again, and say whether it is the stored one. Changes nothing."""
    with open_existing(archive) as opened:  # first what needs no model: a wrong id is told at once
        theirs = opened.user(tenant, user)
        record = find_thread(theirs, thread)
        line = theirs.snapshots(record.id)
        if not line:
            raise SnapshotNotFound(f"thread {thread!r} has not slept yet: there is no state to compute again")
        first = find_in_thread(theirs, record, start) if start is not None else None
        last = find_in_thread(theirs, record, stop) if stop is not None else line[-1]
        if first is not None and first.span[1] > last.span[1]:
            raise InputError(f"snapshot {last.id[:8]} comes before {first.id[:8]}; exchange --from and --to")
        path = opened.database.name
    from agentsleep.cli.probe import replayed, writer_of

    began = line.index(first) + 1 if first is not None else 0
    sleeps = line.index(last) + 1 - began
    try:
        with writer_of(f"thread {thread!r}", record.fingerprint, archive_place(archive), model) as memory:
            found = replayed(memory, record.id, first, last, passes, rounds)
    except KeyboardInterrupt:
        complain(f"interrupted: the state of {last.id[:8]} was not computed to the end; the archive is as it was")
        raise
    document = {
        "archive": path,
        "thread": thread,
        "from": first.id if first is not None else None,
        "to": last.id,
        "sleeps": sleeps,
        "passes": passes,
        "rounds": rounds,
        **found,
    }
    emit(document, as_json, lambda out: _show_replay(out, document, last))


@snapshots_app.command("recover")
def recover(
    thread: Thread,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Mend a thread whose newest state is damaged: compute it from the nearest intact one and the log."""
    with open_existing(archive) as opened:
        record = find_thread(opened.user(tenant, user), thread)
        path = opened.database.name
    from agentsleep.cli.probe import writer_of

    with writer_of(f"thread {thread!r}", record.fingerprint, archive_place(archive), model) as memory:
        done = memory.recover(thread, user=user, tenant=tenant)
    document = {
        "archive": path,
        "thread": thread,
        "base": done.base.id if done.base is not None else None,
        "mended": [one.id for one in done.mended],
        "exact": done.exact,
    }
    if not done.mended:
        said = f"the newest state of thread {thread!r} is intact; nothing was changed"
    else:
        base = f"snapshot {named(done.base)}" if done.base is not None else "the beginning of its log"
        ids = ", ".join(one.id[:8] for one in done.mended)
        exact = "bit-equal to what was stored first" if done.exact else "not bit-equal to what was stored first"
        said = f"thread {thread!r} was mended from {base} on: {ids}; what is stored now is {exact}"
    say(document, as_json, said)


@snapshots_app.command("rebuild")
def rebuild(
    thread: Thread,
    into: Annotated[
        str | None, typer.Option(help="The new thread; by default named after the old one and the model.")
    ] = None,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Read a thread again under another model, into a thread of its own. The old one stays as it is."""
    with open_existing(archive) as opened:
        record = find_thread(opened.user(tenant, user), thread)
        path = opened.database.name
    from agentsleep.cli.app import quiet_transformers

    quiet_transformers()
    from agentsleep.cli.progress import bar
    from agentsleep.memory import SleepMemory

    done, steps = 0, 0
    with SleepMemory(model, archive=archive_place(archive)) as memory, bar(console(), "reading again") as part:

        def progress(now: int, of: int) -> None:
            nonlocal done, steps
            done, steps = now, of
            part(now / of if of else 1.0)

        try:
            session = memory.rebuild(thread, user=user, tenant=tenant, into=into, progress=progress)
        except KeyboardInterrupt:
            complain(
                f"interrupted: {done} of {steps} steps were read again and are kept; the same command goes on with them"
            )
            raise
        with session:
            document = {
                "archive": path,
                "thread": thread,
                "into": session.scope.thread,
                "fingerprint_before": record.fingerprint,
                "fingerprint": memory.fingerprint,
                "steps": steps,
                "tokens": session.tokens,
                "sleeps": len(session.history()),
            }
    say(
        document,
        as_json,
        f"thread {document['into']!r} holds what was said in {thread!r}, read by model {memory.fingerprint[:12]}: "
        f"{document['tokens']:,} tokens, {document['sleeps']} sleeps",
    )


def _show_replay(out: Console, document: Mapping[str, Any], last: Snapshot) -> None:
    from rich.table import Table
    from rich.text import Text

    change, count = document["difference"], document["sleeps"]
    other = [f"{name} {document[name]}" for name in ("passes", "rounds") if document[name] is not None]
    did = f"{count} sleep{'' if count == 1 else 's'} computed again" + (f" with {', '.join(other)}" if other else "")
    if document["equal"]:
        found = "bit-equal to what was stored"
    elif change is None:
        found = "not equal to what was stored; how far away it is cannot be told, since that state was pruned"
    else:
        found = f"not equal to what is stored: the largest difference is {change:.3g}, in {document['where']}"
    out.print(Text(f"snapshot {named(last)}, {did}: {found}"), soft_wrap=True)
    if document["environment"]:
        table = Table("environment", "when it was stored", "at hand")
        for name, (then, now) in document["environment"].items():
            table.add_row(name, Text(f"{then}"), Text(f"{now}"))
        out.print(table)
