"""``agentsleep snapshots prune``: takes away the states that a retention does not keep."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, emit
from agentsleep.cli.archives import ArchiveFile, Tenant, User, open_existing, sessions_of

if TYPE_CHECKING:
    from rich.console import Console

_DAY_S = 86_400.0


def prune(
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    thread: Annotated[str | None, typer.Option(help="Only states of this thread's history.")] = None,
    keep_last: Annotated[int, typer.Option(help="Keep the newest so many states of each thread; 0: all.")] = 16,
    every: Annotated[int | None, typer.Option(help="Besides, keep every n-th state of a thread.")] = None,
    ttl_days: Annotated[float | None, typer.Option(help="Take away states that are older than this.")] = None,
    quota_bytes: Annotated[
        int | None, typer.Option(help="Most bytes of states that the user may have; the oldest go.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be taken away.")] = False,
    as_json: AsJson = False,
) -> None:
    """Take away old states of a user. Heads, tagged states, logs and lineage stay."""
    from agentsleep.archive import retention, rules

    rule = rules.Retention(
        keep_last=keep_last or None,
        every=every,
        ttl=None if ttl_days is None else ttl_days * _DAY_S,
        quota_bytes=quota_bytes,
    )
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        names = {record.id: record.scope.thread for record in theirs.sessions()}
        chosen = sessions_of(theirs, thread)[0].id if thread is not None else None
        done = (retention.plan if dry_run else retention.prune)(theirs, rule, chosen)
        path = str(opened.path or opened.database.name)
    document = {
        "archive": path,
        "tenant": tenant,
        "user": user,
        "thread": thread,
        "dry_run": dry_run,
        "bytes": done.bytes,
        "over_quota": done.over_quota,
        "snapshots": [
            {
                "id": one.snapshot_id,
                "thread": names.get(one.session_id),
                "created": one.created.isoformat(timespec="seconds"),
                "reason": one.reason,
                "bytes": one.bytes,
            }
            for one in done.snapshots
        ],
    }
    emit(document, as_json, lambda out: _show(out, document))


def _show(out: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    pruned, would = document["snapshots"], "would be " if document["dry_run"] else ""
    if pruned:
        table = Table("id", "thread", "when (UTC)", "why", "bytes freed")
        table.columns[4].justify = "right"
        for one in pruned:
            when = one["created"][:19].replace("T", " ")
            table.add_row(one["id"][:8], Text(one["thread"] or "?"), when, one["reason"], f"{one['bytes']:,}")
        out.print(table)
    out.print(f"{len(pruned):,} states {would}taken away, {document['bytes']:,} bytes {would}free", highlight=False)
    if document["over_quota"]:
        out.print(
            f"still {document['over_quota']:,} bytes over the quota: heads and tagged states stay", highlight=False
        )
