"""``agentsleep bench turn``: what does a session add to a turn?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Invocation, Threads, console, emit, quiet_transformers, use_threads
from agentsleep.cli.bench import bench_app

if TYPE_CHECKING:
    from rich.console import Console


@bench_app.command("turn")
def turn(
    context: typer.Context,
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint; by default a random qwen3_5 of 10 million weights.")
    ] = None,
    prefill: Annotated[int, typer.Option(help="Tokens before the answer.")] = 256,
    tokens: Annotated[int, typer.Option(help="Tokens of the answer.")] = 64,
    repeats: Annotated[int, typer.Option(help="Timed turns of each kind; their medians count.")] = 9,
    seed: Annotated[int, typer.Option(help="Of the text, and of the random model.")] = 0,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """A turn of a session with its archive, against the same tokens through transformers' generate."""
    from agentsleep.bench.turn import bench_turn
    from agentsleep.cli.progress import bar

    use_threads(threads)
    quiet_transformers()
    with bar(console(), "turns") as progress:
        document = bench_turn(model, prefill=prefill, tokens=tokens, repeats=repeats, seed=seed, progress=progress)
    invocation: Invocation = context.obj
    document["command"] = invocation.command
    emit(document, as_json, lambda out: _show(out, document))


def _show(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(
        title=f"a turn of {document['prefill']} tokens read and {document['tokens']} written, "
        f"medians of {document['counted']} turns"
    )
    table.add_column("turn")
    for name in ("ms", "ms to read", "CPU ms", "ratio", "CPU ratio"):
        table.add_column(name, justify="right")
    for row in document["rows"]:
        read = "" if row["read_ms"] is None else f"{row['read_ms']:.1f}"
        table.add_row(
            row["turn"],
            f"{row['ms']:.1f}",
            read,
            f"{row['cpu_ms']:.1f}",
            f"{row['ratio']:.3f}",
            f"{row['cpu_ratio']:.3f}",
        )
    out.print(table)
    for row in document["bars"]:
        out.print(f"{row['bar']}: {row['ratio']:.3f}, at most {row['most']}: {'passed' if row['passed'] else 'missed'}")
    same = "the same tokens" if document["same_tokens"] else "not always the same tokens"
    out.print(
        f"{document['model']}, {document['parameters']:,} parameters; sessions and generate wrote {same}. "
        "NORMAL and FULL: what the archive's commits wait for; NORMAL survives SIGKILL, FULL a power cut, too.",
        markup=False,
        soft_wrap=True,
    )
