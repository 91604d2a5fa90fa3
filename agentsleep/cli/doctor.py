"""``agentsleep doctor``: is everything in order, and if not, what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import FAILED, AsJson, app, emit
from agentsleep.cli.archives import ArchiveFile, archive_path

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.cli.checks import Check

_SIGNS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}


@app.command("doctor")
def doctor(
    model: Annotated[
        str | None, typer.Option(help="A checkpoint, or a name on the hub; by default the shipped model.")
    ] = None,
    archive: ArchiveFile = None,
    as_json: AsJson = False,
) -> None:
    """Check the installation, the archive and the model.

    Changes nothing. Ends with 1 if something fails; warnings alone end with 0.
    """
    checks = _examine(archive, model)
    failures = sum(check.status == "fail" for check in checks)
    warnings = sum(check.status == "warn" for check in checks)
    document = {
        "ok": failures == 0,
        "failures": failures,
        "warnings": warnings,
        "checks": [vars(check) for check in checks],
    }
    emit(document, as_json, lambda out: _show(out, document))
    if failures:
        raise typer.Exit(FAILED)


def _examine(archive: str | None, model: str | None) -> list[Check]:
    from agentsleep.cli import checks

    path = archive_path(archive)
    stored = checks.archive(path) if path is not None else checks.server(str(archive))
    found = [*checks.versions(), *checks.sqlite(), *stored]
    if any(check.status == "fail" and check.name in ("torch", "transformers") for check in found):
        return found  # without them there is no model to look at
    from agentsleep.cli.app import quiet_transformers
    from agentsleep.cli.selftest import selftest

    quiet_transformers()
    return [*found, *checks.machine(), *selftest(model)]


def _show(out: Console, document: Mapping[str, Any]) -> None:
    from rich.padding import Padding
    from rich.text import Text

    group = ""
    for check in document["checks"]:
        if check["group"] != group:
            group = check["group"]
            out.print(Text(group, style="bold"))
        sign, style = _SIGNS[check["status"]]
        out.print(Text.assemble("  ", (sign, style), f" {check['name']:<18} ", check["value"]), soft_wrap=True)
        if check["remedy"]:
            out.print(Padding(Text(f"→ {check['remedy']}", style=style), (0, 0, 0, 23)))
    verdict = "all is well" if document["ok"] else f"{document['failures']} failed"
    if document["warnings"]:
        verdict += f", {document['warnings']} warning{'s' * (document['warnings'] > 1)}"
    out.print(Text(verdict, style="bold green" if document["ok"] else "bold red"))
