"""``agentsleep reproduce TABLE``: trains and measures what a table of the docs needs, over several seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from agentsleep.cli.app import INTERRUPTED, AsJson, Invocation, app, complain, console, emit, quiet_transformers
from agentsleep.errors import SettingsError


@app.command()
def reproduce(
    context: typer.Context,
    table: Annotated[str, typer.Argument(help="The table's name; 'list' shows all, and what is missing.")],
    scale: Annotated[str, typer.Option(help="small (CPU, at most 45 minutes a run) or paper (a GPU, days).")] = "small",
    seeds: Annotated[int, typer.Option(help="Runs of every arm, seeds 0, 1, 2 ...")] = 3,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what is measured, go on with what was cut off.")
    ] = False,
    only: Annotated[
        list[str] | None, typer.Option("--arm", help="Keep to this arm; may be given several times.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The folder of the evidence.")] = Path("docs/evidence"),
    runs: Annotated[Path, typer.Option(help="The folder of the runs, with their checkpoints.")] = Path(
        "runs/reproduce"
    ),
    workers: Annotated[int, typer.Option(help="Runs at once, each a process of one thread.")] = 1,
    anew: Annotated[bool, typer.Option("--anew", help="Throw away what is measured and trained.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train, measure and draw a table of the docs.

    Writes TABLE.json (every run, with its costs and a compact log), TABLE.md
    and TABLE.png to --out.

    Ctrl-C loses nothing: --resume goes on, also on another day.
    """
    if seeds < 1 or workers < 1:
        raise SettingsError(f"--seeds is {seeds} and --workers is {workers}; give at least 1 of each")
    if resume and anew:
        raise SettingsError("--resume keeps what --anew throws away; give one of them")
    from agentsleep.reproduce.campaign import Campaign, carry_out
    from agentsleep.reproduce.plan import load_table
    from agentsleep.reproduce.statistics import MOST

    if seeds > MOST:
        raise SettingsError(f"--seeds is {seeds}; there are intervals for at most {MOST}")
    quiet_transformers()
    if table == "list":
        _list(scale, seeds, runs, out, as_json)
        return
    invocation: Invocation = context.obj
    campaign = Campaign(
        table=load_table(table),
        scale=scale,
        seeds=range(seeds),
        runs=runs,
        out=out,
        only=only or (),
        command=invocation.command,
    )
    if campaign.begun() and not (resume or anew):
        raise SettingsError(
            f"{table} was begun in {runs} or is held by {campaign.target}; "
            "go on with it by --resume, or start again with --anew"
        )
    try:
        with _display(workers, len(campaign.missing() if resume else campaign.jobs())) as (report, progress):
            measured = carry_out(campaign, resume=resume, workers=workers, report=report, progress=progress)
    except KeyboardInterrupt:
        complain("stopped; what was measured is kept, and the run that was cut off has its checkpoint: use --resume")
        raise typer.Exit(INTERRUPTED) from None
    from agentsleep.reproduce.publish import publish

    written = publish(campaign.table, out)
    emit(
        {"table": table, "scale": scale, "measured": measured, "files": [str(path) for path in written]},
        as_json,
        lambda shown: shown.print(f"{measured} runs measured; wrote {', '.join(map(str, written))}", soft_wrap=True),
    )


def _list(scale: str, seeds: int, runs: Path, out: Path, as_json: bool) -> None:
    from rich.table import Table as Shown

    from agentsleep.reproduce.campaign import Campaign
    from agentsleep.reproduce.plan import load_table, table_names

    found: list[dict[str, Any]] = []
    for name in table_names():
        campaign = Campaign(table=load_table(name), scale=scale, seeds=range(seeds), runs=runs, out=out)
        missing = [f"{arm.name} seed {seed}" for arm, seed in campaign.missing()]
        found.append({"table": name, "title": campaign.table.title, "runs": len(campaign.jobs()), "missing": missing})
    shown = Shown("table", "what it shows", "runs", "missing", title=f"tables at scale {scale}, {seeds} seeds")
    for row in found:
        shown.add_row(row["table"], row["title"], f"{row['runs']}", f"{len(row['missing'])}")
    emit({"scale": scale, "tables": found}, as_json, lambda to: to.print(shown))


@contextmanager
def _display(workers: int, jobs: int) -> Iterator[tuple[Callable[[str, float], None], Callable[[float], None]]]:
    """What a run does, and how many runs are done; plain lines where there is no terminal."""
    from agentsleep.cli.progress import steps

    with steps(console(), f"{jobs} runs" if workers == 1 else f"{jobs} runs, {workers} at once") as shown:
        yield shown
