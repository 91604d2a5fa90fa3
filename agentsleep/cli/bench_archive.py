"""``agentsleep bench archive``: what does the archive add to storing a state?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Invocation, Threads, console, emit, use_threads
from agentsleep.cli.bench import bench_app

if TYPE_CHECKING:
    from rich.console import Console


@bench_app.command("archive")
def archive(
    context: typer.Context,
    layers: Annotated[int, typer.Option(help="Recurrent layers of the state.")] = 18,
    heads: Annotated[int, typer.Option(help="Heads of a layer, each with 128 x 128 numbers.")] = 16,
    repeats: Annotated[int, typer.Option(help="Timed repeats; their medians count.")] = 15,
    seed: Annotated[int, typer.Option(help="Of the states.")] = 0,
    folder: Annotated[Path | None, typer.Option(help="Where the files are made; on the disk that is meant.")] = None,
    postgres: Annotated[str | None, typer.Option(help="URL of a PostgreSQL database to measure, too.")] = None,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """A state stored and loaded with its lineage, against one safetensors file of the same bytes."""
    from agentsleep.bench.archive import bench_archive
    from agentsleep.cli.progress import bar

    use_threads(threads)
    with bar(console(), "states") as progress:
        document = bench_archive(
            layers=layers, heads=heads, repeats=repeats, seed=seed, folder=folder, postgres=postgres, progress=progress
        )
    invocation: Invocation = context.obj
    document["command"] = invocation.command
    emit(document, as_json, lambda out: _show(out, document))


def _show(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    size = document["rows"][0]["bytes"]
    table = Table(title=f"a state of {size / 1e6:.1f} MB, medians of {document['repeats']} repeats")
    table.add_column("what")
    for name in ("ms", "file, ms", "ratio"):
        table.add_column(name, justify="right")
    for row in document["rows"]:
        for what, name, against in (
            ("save", "save", "file_save"),
            ("save and checkpoint", "checkpoint", "file_save"),
            ("load", "load", "file_load"),
        ):
            if row[f"{name}_ms"] is None:
                continue
            table.add_row(
                f"{row['backend']}: {what}",
                f"{row[f'{name}_ms']:.1f}",
                f"{row[f'{against}_ms']:.1f}",
                f"{row[f'{name}_ratio']:.2f}",
            )
    out.print(table)
    for row in document["bars"]:
        verdict = "passed" if row["passed"] else "missed"
        out.print(f"sqlite, {row['bar']}: {row['ratio']:.2f}, at most {row['most']}: {verdict}")
    out.print(
        "Saved is what a power cut cannot take back, on both sides; loaded is what has been checked against its "
        "SHA-256. A checkpoint falls due in some commits, and then is part of them.",
        soft_wrap=True,
    )
