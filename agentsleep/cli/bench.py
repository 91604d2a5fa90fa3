"""``agentsleep bench …``: speed; and what integrations measure, which register theirs by entry point."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Threads, app, console, emit, numbers
from agentsleep.cli.plugins import Extended

if TYPE_CHECKING:
    from rich.console import Console


class Benches(Extended):
    """Integrations register theirs."""

    entry_points = "agentsleep.bench"


bench_app = typer.Typer(cls=Benches, help="Measure speed.", no_args_is_help=False)
app.add_typer(bench_app, name="bench")


@bench_app.command("ops")
def ops(
    lengths: Annotated[str, typer.Option(help="Numbers of tokens, with commas.")] = "1024",
    repeats: Annotated[int, typer.Option(help="Timed runs of each form; their medians count.")] = 15,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Tokens per second of the chunked rules, against transformers' torch paths, measured in turn."""
    sizes = numbers(lengths, "--lengths")
    from agentsleep.bench.ops import bench_ops

    remarks = console()
    document = bench_ops(
        lengths=sizes, repeats=repeats, threads=threads, progress=lambda line: remarks.print(line, markup=False)
    )
    emit(document, as_json, lambda out: _show_ops(out, document))


def _show_ops(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("rule", "mode", "B", "T", "tokens/s", "ratio")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in document["rows"]:
        table.add_row(
            row["rule"], row["mode"], f"{row['B']}", f"{row['T']}", f"{row['tokens_per_s']:,.0f}", f"{row['ratio']:.2f}"
        )
    out.print(table)
