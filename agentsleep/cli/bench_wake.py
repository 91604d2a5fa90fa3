"""``agentsleep bench wake``: does waking feel a long history?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Threads, console, emit, numbers, quiet_transformers, use_threads
from agentsleep.cli.bench import bench_app

if TYPE_CHECKING:
    from rich.console import Console


@bench_app.command("wake")
def wake(
    history: Annotated[str, typer.Option(help="Tokens to read before, with commas.")] = "1000,100000",
    tokens: Annotated[int, typer.Option(help="At least so many are written on each side.")] = 600,
    passes: Annotated[int, typer.Option(help="Passes of the sleeps while the history is read.")] = 1,
    model: Annotated[Path | None, typer.Option(help="A checkpoint; the shipped model by default.")] = None,
    seed: Annotated[int, typer.Option(help="Of the texts.")] = 0,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Milliseconds a token, a message and a reopening take after a short and after a long history."""
    sizes = numbers(history, "--history")
    from agentsleep.bench.wake import bench_wake
    from agentsleep.cli.progress import bar

    use_threads(threads)
    quiet_transformers()
    with bar(console(), f"reading {sum(sizes):,} tokens, then in turn") as progress:
        document = bench_wake(model, history=sizes, tokens=tokens, passes=passes, seed=seed, progress=progress)
    emit(document, as_json, lambda out: _show(out, document))


def _show(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    read = f"read with {document['passes']} passes a sleep" if document["passes"] > 1 else "read with 1 pass a sleep"
    table = Table(title=f"waking, {document['tokens']} tokens a side; history {read}")
    for name in ("history", "ms/token", "state bytes", "add ms", "reopen ms", "sleep ms", "read s", "archive MB"):
        table.add_column(name, justify="right")
    for row in document["rows"]:
        table.add_row(
            f"{row['history_tokens']:,}",
            f"{row['ms_per_token']:.2f}",
            f"{row['state_bytes']:,}",
            f"{row['add_ms']:.2f}",
            f"{row['reopen_ms']:.2f}",
            f"{row['sleep_ms']:.2f}",
            f"{row['read_seconds']:.1f}",
            f"{row['archive_bytes'] / 1e6:.1f}",
        )
    out.print(table)
    for row in document["bars"]:
        out.print(f"{row['bar']} {row['ratio']:.3f}, at most {row['most']}: {'passed' if row['passed'] else 'missed'}")
    equal = "equal" if document["state_bytes_equal"] else "not equal"
    out.print(f"sleep_ratio {document['sleep_ratio']:.3f}; states of {equal} size")
