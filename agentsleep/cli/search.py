"""``agentsleep snapshots search``: what was said, by its words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, emit
from agentsleep.cli.archives import ArchiveFile, Tenant, User, find_thread, open_existing
from agentsleep.cli.snapshots import snapshots_app

if TYPE_CHECKING:
    from rich.console import Console


@snapshots_app.command("search")
def search(
    words: Annotated[list[str], typer.Argument(help="What to look for.", metavar="WORDS...", show_default=False)],
    thread: Annotated[str | None, typer.Option(help="Only in the log of this thread.")] = None,
    any_word: Annotated[bool, typer.Option("--any", help="One of the words is enough.")] = False,
    limit: Annotated[int, typer.Option(help="Hits at most.")] = 20,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Search a user's messages, the best first."""
    query = " ".join(words)
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        if thread is not None:
            find_thread(theirs, thread)
        hits = theirs.search(query, thread=thread, limit=limit, any_word=any_word)
        path = opened.database.name
    document = {
        "archive": path,
        "tenant": tenant,
        "user": user,
        "thread": thread,
        "query": query,
        "hits": [{**asdict(hit), "created": hit.created.isoformat(timespec="seconds")} for hit in hits],
    }
    emit(document, as_json, lambda out: _show(out, document))


def _show(out: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not document["hits"]:
        where = f"in thread {document['thread']!r} " if document["thread"] is not None else ""
        out.print(Text(f"no message {where}of user {document['user']!r} has {document['query']!r}"), soft_wrap=True)
        return
    table = Table("thread", "seq", "when (UTC)", "role", "said")
    table.columns[1].justify = "right"
    for hit in document["hits"]:
        when = hit["created"][:16].replace("T", " ")
        table.add_row(Text(hit["thread"]), str(hit["seq"]), when, hit["role"] or "", Text(hit["snippet"]))
    out.print(table)
