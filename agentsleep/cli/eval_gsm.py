"""``agentsleep eval gsm``: word problems as text, our own or a file of GSM-Infinite's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Threads, console, emit, numbers, quiet_transformers, use_threads
from agentsleep.cli.eval import Model, Passes, Seed, eval_app
from agentsleep.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table


@eval_app.command("gsm")
def gsm(
    model: Model,
    data: Annotated[Path | None, typer.Option(help="A JSONL file of GSM-Infinite; fresh problems by default.")] = None,
    problems: Annotated[int, typer.Option(help="So many; of a file, its first.")] = 500,
    windows: Annotated[int, typer.Option(help="Windows that a problem is cut into, at least.")] = 3,
    question: Annotated[str, typer.Option(help="last (behind the problem) or first (before it).")] = "last",
    passes: Passes = "1,2,4",
    seed: Seed = 0,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Word problems, asked after every sentence was evicted."""
    n = numbers(passes, "--passes")
    if problems < 1 or seed < 0:
        raise SettingsError(f"--problems is {problems} and --seed {seed}; give at least 1 and 0")
    import numpy as np

    from agentsleep.cli.progress import bar
    from agentsleep.evals.raw import FRESH
    from agentsleep.evals.word_problems import evaluate_examples
    from agentsleep.tasks.gsm import Gsm, read_jsonl
    from agentsleep.training.config import config_from
    from agentsleep.training.runs import find_model, load_model, make_task

    use_threads(threads)
    quiet_transformers()
    directory, record = find_model(model)
    if record["task"] != "gsm":
        raise SettingsError(
            f"the model at {directory} was trained on {record['task']}; use 'agentsleep eval {record['task']}'"
        )
    task = make_task("gsm", config_from(record["config"]).task)
    assert isinstance(task, Gsm)
    if data is not None:
        examples = read_jsonl(data)[:problems]
    else:
        examples = task.examples(np.random.default_rng([seed, FRESH]), problems, max(task.depths))
    with bar(console(), "gsm: problems") as progress:
        rows = evaluate_examples(
            load_model(directory),
            task.tokenizer,
            examples,
            passes=n,
            windows=windows,
            question=question,
            progress=progress,
        )
    document: dict[str, Any] = {
        "model": str(directory),
        "data": None if data is None else str(data),
        "seed": seed,
        "problems": len(examples),
        "windows": windows,
        "question": question,
        "results": rows,
    }
    emit(document, as_json, lambda out: out.print(_table(rows, len(examples), question)))


def _table(rows: Sequence[dict[str, Any]], problems: int, question: str) -> Table:
    from rich.table import Table

    ops = sorted({row["op"] for row in rows})
    table = Table("passes", title=f"{problems} problems, question {question}: accuracy by op, 95 % interval")
    for op in ops:
        table.add_column(f"op {op}", justify="right")
    for n in sorted({row["passes"] for row in rows}):
        cells = {row["op"]: row for row in rows if row["passes"] == n}
        table.add_row(f"{n}", *(_cell(cells[op]) for op in ops))
    return table


def _cell(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['accuracy']:.2f}\n[dim]{low:.2f}–{high:.2f}[/dim]"
