"""``agentsleep snapshots verify``: is everything in an archive as it was written?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import FAILED, AsJson, console, emit
from agentsleep.cli.archives import ArchiveFile, Tenant, User, open_existing

if TYPE_CHECKING:
    from rich.console import Console


def verify(
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    everyone: Annotated[bool, typer.Option("--everyone", help="All users of the archive.")] = False,
    fast: Annotated[bool, typer.Option("--fast", help="Leave out the bytes of states and the texts.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check states, logs and lineage against digests and checksums. Exit code 1: something is not as it was."""
    from agentsleep.archive import verify as checks
    from agentsleep.cli.progress import bar

    reports: list[dict[str, Any]] = []
    with open_existing(archive) as opened:
        users = opened.users() if everyone else [(tenant, user)]
        for whose in users:
            with bar(console(), f"checking {whose[1]}") as progress:
                report = checks.verify(opened.user(*whose), deep=not fast, progress=progress)
            reports.append({"tenant": whose[0], "user": whose[1], **asdict(report), "ok": report.ok})
        path = str(opened.path or opened.database.name)
    document = {"archive": path, "ok": all(report["ok"] for report in reports), "users": reports}
    emit(document, as_json, lambda out: _show(out, document))
    if not document["ok"]:
        raise typer.Exit(FAILED)


def _show(out: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    for report in document["users"]:
        what = ", ".join(f"{report[name]:,} {name}" for name in ("sessions", "snapshots", "chunks", "events"))
        whose = f"user {report['user']!r} of tenant {report['tenant']!r}"
        findings = report["findings"]
        said = f"{len(findings):,} findings" if findings else "nothing wrong"
        out.print(Text(f"{whose}: {what}: {said}"), soft_wrap=True)
        for finding in findings:
            out.print(Text(f"  {finding['problem']}: {finding['message']}"), soft_wrap=True)
