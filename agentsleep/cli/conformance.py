"""``agentsleep conformance``: can this model's memory be relied on?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import FAILED, AsJson, Invocation, Threads, app, console, emit, quiet_transformers, use_threads
from agentsleep.errors import InputError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

_SIGNS = {"ok": ("✓", "green"), "skip": ("–", "dim"), "fail": ("✗", "bold red")}


@app.command("conformance")
def conformance(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[FAMILY]...", help="With --families: only these.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="A checkpoint, or a name on the hub; by default the shipped model.")
    ] = None,
    families: Annotated[bool, typer.Option("--families", help="A tiny model of every supported family.")] = False,
    checks: Annotated[str | None, typer.Option(help="Only these checks, with commas.")] = None,
    make: Annotated[
        tuple[str, Path] | None,
        typer.Option(metavar="FAMILY FOLDER", help="Write a tiny model of a family, with random weights, and end."),
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, as torch names it.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Its numbers; float32 tells most, auto: the checkpoint's.")] = "float32",
    threads: Threads = 1,
    out: Annotated[Path | None, typer.Option(help="Write the JSON document into this file, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that a model's memory can be relied on.

    Ends with 1 if a check fails; skipped ones do not count. Changes nothing.
    """
    if sum((model is not None, families, make is not None)) > 1:
        raise SettingsError("--model, --families and --make each ask for something else; give one of them")
    if names and not families:
        raise SettingsError(f"{' '.join(names)}: families are named behind --families; a model is given as --model")
    if families and (device, dtype) != ("cpu", "float32"):
        raise SettingsError("--device and --dtype are for --model; the families run on the CPU in float32")
    if out is not None and not out.absolute().parent.is_dir():  # known before the minutes of work, not after them
        raise SettingsError(f"--out is {out}, but there is no folder {out.absolute().parent}; make it first")
    use_threads(threads)
    quiet_transformers()
    if make is not None:
        _make(*make, as_json)
        return
    from agentsleep.cli.progress import bar
    from agentsleep.conformance import suite

    asked = None if checks is None else [name.strip() for name in checks.split(",")]
    what = "families" if families else model or "nap-mini"
    with bar(console(), f"conformance of {what}") as progress:
        if families:
            reports = suite.report_on_families(names, asked, progress)
        else:
            reports = [suite.report_on(model, asked, device=device, dtype=dtype, progress=progress)]
    invocation: Invocation = context.obj
    document = {"command": invocation.command, **suite.document(reports, asked)}
    if out is not None:
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
        out.write_text(f"{text}\n", encoding="utf-8")
    emit(document, as_json, lambda shown: _show(shown, document))
    if not document["ok"]:
        raise typer.Exit(FAILED)


def _make(family: str, folder: Path, as_json: bool) -> None:
    from agentsleep.conformance import save_model

    if folder.exists() and any(folder.iterdir()):
        raise InputError(f"{folder} is not empty; name a folder that is not there yet")
    save_model(family, folder)
    written: dict[str, Any] = {"family": family, "model": str(folder)}
    emit(written, as_json, lambda shown: shown.print(f"a tiny {family} with random weights: {folder}", markup=False))


def _show(out: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    for report in document["models"]:
        table = Table("", "check", title=f"{report['model']} ({report['class']}, {report['dtype']})")
        table.add_column("figure", justify="right")
        table.add_column("found")
        for one in report["outcomes"]:
            sign, style = _SIGNS[one["status"]]
            figure = "" if one["figure"] is None else f"{one['figure']:.1e}"
            table.add_row(Text(sign, style=style), Text(one["name"]), figure, Text(one["text"]))
        out.print(table)
        for repair in report["repairs"]:
            out.print(f"repaired: {repair}", markup=False, soft_wrap=True)
    out.print(Text(_verdict(document), style="bold green" if document["ok"] else "bold red"))


def _verdict(document: Mapping[str, Any]) -> str:
    failed = [
        f"{report['model']}: {one['name']}"
        for report in document["models"]
        for one in report["outcomes"]
        if one["status"] == "fail"
    ]
    return f"{len(failed)} failed: {', '.join(failed)}" if failed else "all checks hold"
