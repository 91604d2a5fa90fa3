"""``agentsleep demo``: the whole line in three minutes, offline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from agentsleep.cli.app import FAILED, AsJson, Threads, app, complain, console, emit, quiet_transformers, use_threads

PACE_S = 0.12
FAST_STARTS = 4


@app.command("demo")
def demo(
    archive: Annotated[
        Path | None, typer.Option(help="Database of the sessions; by default memory.db in --out.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the archive, the chart and the figures.")] = Path(
        "agentsleep-demo"
    ),
    seed: Annotated[int, typer.Option(help="Of the rota.")] = 0,
    model: Annotated[Path | None, typer.Option(help="A checkpoint folder; by default the shipped model.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="Fewer questions, and no pauses to read along.")] = False,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """An agent reads, sleeps, loses its window, and still answers.

    A real agent loop with a tool that queries an SQLite table. When every fact
    is evicted it is asked questions of depth 1 to 6, after light sleeps of 1, 2
    and 4 passes and after a deep sleep; then a new process restores the archive
    and is asked again, and a fork of an early snapshot shows what it does not know.
    """
    from agentsleep.demo.run import Demo, DemoSettings
    from agentsleep.demo.show import Display, report

    use_threads(threads)
    quiet_transformers()
    told = console(stderr=as_json)
    settings = DemoSettings(out=out, archive=archive, model=model, seed=seed)
    if fast:
        settings = replace(settings, starts=FAST_STARTS)
    elif told.is_terminal:
        settings = replace(settings, pace=PACE_S)
    with Display(told) as display:
        document = Demo(settings, display).run()
    emit(document, as_json, lambda shown: shown.print(report(document)))
    if not document["again"]["equal"]:
        complain("the new process did not answer as this one did; 'agentsleep doctor' checks the model and the archive")
        raise typer.Exit(FAILED)
