"""The command ``agentsleep bench agent``, which agentsleep's command line finds by entry point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Invocation, Threads, console, emit, numbers, quiet_transformers, use_threads
from agentsleep.cli.eval_rota import depth_range
from agentsleep.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console


def command(
    context: typer.Context,
    model: Annotated[Path | None, typer.Option(help="A checkpoint of rota; the shipped model by default.")] = None,
    passes: Annotated[str, typer.Option(help="N of the agents that sleep, with commas.")] = "1,2,4",
    dialogues: Annotated[int, typer.Option(help="Fresh rotas, each explored by every agent.")] = 34,
    questions: Annotated[int, typer.Option(help="Of every depth, in every dialogue.")] = 6,
    depths: Annotated[str, typer.Option(help="Of the questions: 1-6, or 1,2,4.")] = "1-6",
    turns: Annotated[int, typer.Option(help="Turns of the long conversation, by which costs are measured.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the dialogues.")] = 0,
    threads: Threads = 1,
    png: Annotated[Path | None, typer.Option(help="Draw accuracy and tokens into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """LangChain agents on one model and window: sleep against trimming, summaries, retrieval and full context."""
    n, asked = numbers(passes, "--passes"), depth_range(depths)
    if png is not None and not png.absolute().parent.is_dir():
        raise SettingsError(f"--png is {png}, but there is no folder {png.absolute().parent}; make it first")
    from agentsleep.cli.progress import bar
    from langchain_agentsleep.bench.measure import bench_agent
    from langchain_agentsleep.bench.plot import plot

    use_threads(threads)
    quiet_transformers()
    with bar(console(), "agents") as progress:
        document = bench_agent(
            model,
            passes=n,
            dialogues=dialogues,
            questions=questions,
            depths=asked,
            turns=turns,
            seed=seed,
            progress=progress,
        )
    invocation: Invocation = context.obj
    document["command"] = invocation.command
    if png is not None:
        plot(document, png)
    emit(document, as_json, lambda out: _show(out, document))


def _show(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    what = {row["arm"]: row["what"] for row in document["arms"]}
    known = Table(title=f"rota, facts gone from the list: accuracy by depth, {document['questions']} questions each")
    known.add_column("agent")
    for depth in document["depths"]:
        known.add_column(f"{depth}", justify="right")
    for arm, name in what.items():
        cells = {row["depth"]: row for row in document["accuracy"] if row["arm"] == arm}
        shown = [
            f"{cells[depth]['accuracy']:.3f}\n[dim]{cells[depth]['interval'][0]:.3f}–{cells[depth]['interval'][1]:.3f}"
            "[/dim]"
            for depth in document["depths"]
        ]
        known.add_row(name, *shown)
    out.print(known)
    costs = Table(title=f"{document['turns']} turns of an agent with a tool: means a turn, ms: median")
    costs.add_column("agent")
    ends = document["costs"][0]["ends"]
    for title in (
        "ms",
        "ratio",
        "mean ms",
        "wake",
        "sleep",
        "probe",
        "tokens",
        f"wake, first {ends}",
        f"last {ends}",
        "messages",
    ):
        costs.add_column(title, justify="right")
    for row in document["costs"]:
        read = [f"{row[key]:.1f}" for key in ("wake_tokens", "sleep_tokens", "probe_tokens", "tokens", "first", "last")]
        costs.add_row(
            what[row["arm"]],
            f"{row['ms']:.1f}",
            f"{row['ratio']:.2f}",
            f"{row['mean_ms']:.1f}",
            *read,
            f"{row['listed']}",
        )
    out.print(costs)
    for row in document["bars"]:
        within = "" if row["interval"] is None else f" ({row['interval'][0]:+.3f} to {row['interval'][1]:+.3f})"
        verdict = "passed" if row["passed"] else "missed"
        out.print(f"{row['bar']}: {row['value']:.3f}{within}, {row['need']}: {verdict}", markup=False, soft_wrap=True)
    for note in document["notes"]:
        out.print(f"- {note}", markup=False, soft_wrap=True)
