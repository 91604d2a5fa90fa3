"""``agentsleep snapshots tree``, ``tag``, ``fork`` and ``rollback``: lineage, without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agentsleep.cli.app import AsJson, emit
from agentsleep.cli.archives import (
    ArchiveFile,
    Id,
    Tenant,
    Thread,
    User,
    find_in_thread,
    find_snapshot,
    find_thread,
    named,
    open_existing,
    say,
)
from agentsleep.cli.snapshots import snapshots_app
from agentsleep.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.archive import SessionRecord, Snapshot

NewThread = Annotated[str, typer.Argument(help="Name of the new thread.", metavar="THREAD", show_default=False)]


@snapshots_app.command("tree")
def tree(
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    thread: Annotated[str | None, typer.Option(help="Only the tree that this thread is part of.")] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every sleep; long rows are folded otherwise.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show what came from what: every thread's line of sleeps, and where forks leave it."""
    from rich.text import Text

    from agentsleep.cli.tree import lineage_document, lineage_tree

    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        sessions, snapshots = theirs.sessions(), theirs.all_snapshots()
        if thread is not None:
            sessions, snapshots = _family(find_thread(theirs, thread), sessions, snapshots)
        path = opened.database.name
    document = {
        "archive": path,
        "tenant": tenant,
        "user": user,
        "thread": thread,
        **lineage_document(sessions, snapshots),
    }

    def show(out: Console) -> None:
        if not sessions:
            out.print(Text(f"no threads of user {user!r} in {path}"), soft_wrap=True)
            return
        out.print(lineage_tree(sessions, snapshots, full=full))
        out.print(Text("← the newest state of a thread", style="dim"))

    emit(document, as_json, show)


@snapshots_app.command("tag")
def tag(
    snapshot_id: Id,
    name: Annotated[str | None, typer.Argument(help="The tag.", metavar="NAME", show_default=False)] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the tag away.")] = False,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Name a snapshot, or take its name away. A state that has a tag is never pruned."""
    if remove == (name is not None):
        raise InputError("give either a name for the snapshot, or --remove to take its tag away")
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        snapshot = find_snapshot(theirs, snapshot_id)
        if remove and snapshot.tag is None:
            raise InputError(
                f"snapshot {snapshot.id[:8]} has no tag; 'agentsleep snapshots list' shows those that have"
            )
        holder = next((one for one in theirs.all_snapshots() if name is not None and one.tag == name), None)
        if holder is not None and holder.id != snapshot.id:
            raise InputError(
                f"snapshot {holder.id[:8]} has the tag {name!r} already; choose another, or take it away there first: "
                "agentsleep snapshots tag ID --remove"
            )
        now = theirs.tag(snapshot.id, name)
        path = opened.database.name
    document = {"archive": path, "snapshot": now.id, "tag": now.tag, "tag_before": snapshot.tag}
    before = "" if snapshot.tag in (None, now.tag) else f"; it was {snapshot.tag!r}"
    what = f"has the tag {now.tag!r}" if now.tag is not None else "has no tag any more"
    say(document, as_json, f"snapshot {now.id[:8]} {what}{before}")


@snapshots_app.command("fork")
def fork(
    snapshot_id: Id,
    thread: NewThread,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Begin a new thread at a snapshot. Copies nothing and loads no model; `restore` also checks the state."""
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        snapshot = find_snapshot(theirs, snapshot_id)
        record = theirs.fork(snapshot.id, thread)
        path = opened.database.name
    document = {"archive": path, "thread": thread, "snapshot": snapshot.id, "tokens": record.tokens}
    said = f"thread {thread!r} goes on from snapshot {named(snapshot)} ({record.tokens:,} tokens)"
    say(document, as_json, f"{said}; it knows nothing that came later")


@snapshots_app.command("rollback")
def rollback(
    thread: Thread,
    snapshot_id: Id,
    aside: Annotated[
        str | None, typer.Option(help="The thread that keeps what came after; by default named after its last state.")
    ] = None,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Take a thread back to one of its snapshots. What came after it is kept, as another thread."""
    from agentsleep.archive import SessionLock

    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        record = find_thread(theirs, thread)
        snapshot = find_in_thread(theirs, record, snapshot_id)
        kept = aside if aside is not None else f"{thread[:200]}~{(record.head or snapshot.id)[:8]}"
        if theirs.find(kept) is not None:
            raise InputError(f"there is a thread {kept!r} already; name another with --aside")
        with SessionLock(theirs, record.id):
            record = theirs.session(record.id)
            later = [one.id for one in theirs.snapshots(record.id)]
            later = later[later.index(snapshot.id) + 1 :]
            now = theirs.rollback(record.id, snapshot.id, kept)
        path = opened.database.name
    document = {
        "archive": path,
        "thread": thread,
        "snapshot": snapshot.id,
        "tokens": now.tokens,
        "aside": kept,
        "sleeps_aside": later,
        "tokens_aside": record.tokens - now.tokens,
    }
    say(
        document,
        as_json,
        f"thread {thread!r} is back at snapshot {named(snapshot)} ({now.tokens:,} tokens). What came after, "
        f"{len(later)} sleeps and {record.tokens - now.tokens:,} tokens, is kept as thread {kept!r}",
    )


# Helpers


def _family(
    chosen: SessionRecord, sessions: list[SessionRecord], snapshots: list[Snapshot]
) -> tuple[list[SessionRecord], list[Snapshot]]:
    """Of these the ones that come from the same first sleep as the thread."""
    roots: dict[str, str] = {}
    left = {snapshot.id: snapshot for snapshot in snapshots}
    for snapshot in snapshots:
        line = [snapshot.id]
        while line[-1] not in roots:
            parent = left[line[-1]].parent
            if parent is None or parent not in left or parent in line:
                break
            line.append(parent)
        root = roots.get(line[-1], line[-1])
        roots.update(dict.fromkeys(line, root))
    root_of_it = roots.get(chosen.head or "")
    related = [one for one in sessions if one.id == chosen.id or (one.head and roots.get(one.head) == root_of_it)]
    return related, [one for one in snapshots if roots[one.id] == root_of_it]
