"""``agentsleep eval rota``: the live agent's memory, through the public calls."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Threads, console, emit, numbers, quiet_transformers, use_threads
from agentsleep.cli.eval import Passes, Rounds, eval_app
from agentsleep.errors import SettingsError

if TYPE_CHECKING:
    from rich.console import Console

_MODES = {"fork": "each question of the same state", "sequence": "all questions in turn, a sleep after each"}


@eval_app.command("rota")
def rota(
    model: Annotated[
        Path | None, typer.Option(help="A checkpoint or a run's folder; the shipped model by default.")
    ] = None,
    passes: Passes = "1,2,4",
    rounds: Rounds = "1,2",
    episodes: Annotated[int, typer.Option(help="Fresh rotas, each explored once for every number of passes.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the episodes; those of training are never drawn again.")] = 0,
    people: Annotated[int, typer.Option(help="On every rota.")] = 12,
    depths: Annotated[str, typer.Option(help="Of the questions: 1-6, or 1,2,4.")] = "1-6",
    questions: Annotated[int, typer.Option(help="Of every depth, in every episode.")] = 2,
    harness: Annotated[
        int, typer.Option(help="About so many of every depth through the training harness too; 0 leaves it out.")
    ] = 400,
    workers: Annotated[int, typer.Option(help="Processes; the result is the same for any number.")] = 2,
    threads: Threads = 1,
    png: Annotated[Path | None, typer.Option(help="Draw accuracy by depth into this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """An agent explores an on-call rota, sleeps, and is asked once every fact is evicted."""
    n, r, asked = numbers(passes, "--passes"), numbers(rounds, "--rounds"), depth_range(depths)
    if png is not None and not png.absolute().parent.is_dir():  # known before the minutes of work, not after them
        raise SettingsError(f"--png is {png}, but there is no folder {png.absolute().parent}; make it first")
    from agentsleep.cli.progress import bar
    from agentsleep.evals.plots import plot_accuracy
    from agentsleep.evals.rota import evaluate_rota

    use_threads(threads)
    quiet_transformers()
    with bar(console(), "rota: episodes") as progress:
        document = evaluate_rota(
            _checkpoint(model),
            passes=n,
            rounds=r,
            episodes=episodes,
            seed=seed,
            people=people,
            depths=asked,
            per_depth=questions,
            harness=harness,
            workers=workers,
            progress=progress,
        )
    if png is not None:
        plot_accuracy(
            {f"{mode}: {what}": _of(document, mode) for mode, what in _MODES.items()},
            png,
            title=f"rota: {people} people, facts evicted, {episodes} episodes, seed {seed}",
            chance=1 / (people - 1),
            baseline=[row for row in document["baselines"] if row["name"] == "no-memory"],
        )
        console().print(f"drawn: {png}", markup=False)
    emit(document, as_json, lambda out: _show(out, document))


def depth_range(text: str) -> list[int]:
    """``"1-6"`` or ``"1,2,4"`` as depths.

    Raises:
        SettingsError: it is something else.
    """
    span = re.fullmatch(r"(\d{1,3})-(\d{1,3})", text.strip(), re.ASCII)
    if span is None:
        return numbers(text, "--depths")
    low, high = int(span[1]), int(span[2])
    if not 1 <= low <= high:
        raise SettingsError(f"--depths is {text!r}; give the shallowest first, from 1 on: 1-6")
    return list(range(low, high + 1))


def _checkpoint(folder: Path | None) -> Path | None:
    """The model of a run's folder; a checkpoint's own folder as it is."""
    if folder is None or (folder / "config.json").is_file() or not (folder / "model").is_dir():
        return folder
    return folder / "model"


def _of(document: dict[str, Any], mode: str) -> list[dict[str, Any]]:
    return [row for row in document["summary"] if row["mode"] == mode]


def _show(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    depths = sorted({row["depth"] for row in document["summary"]})
    for mode, what in _MODES.items():
        table = Table("passes", "rounds", title=f"rota, {mode}: {what}")
        for depth in depths:
            table.add_column(f"depth {depth}", justify="right")
        cells: dict[tuple[int, int], dict[int, str]] = {}
        for row in _of(document, mode):
            low, high = row["interval"]
            shown = f"{row['accuracy']:.3f}\n[dim]{low:.3f}–{high:.3f}[/dim]"
            cells.setdefault((row["passes"], row["rounds"]), {})[row["depth"]] = shown
        for (passes, rounds), by_depth in sorted(cells.items()):
            table.add_row(f"{passes}", f"{rounds}", *(by_depth.get(depth, "") for depth in depths))
        out.print(table)
    table = Table("baseline", title="what answers without a memory")
    for depth in depths:
        table.add_column(f"depth {depth}", justify="right")
    for name in dict.fromkeys(row["name"] for row in document["baselines"]):
        rates = {row["depth"]: row["accuracy"] for row in document["baselines"] if row["name"] == name}
        table.add_row(name, *(f"{rates[depth]:.3f}" if depth in rates else "" for depth in depths))
    out.print(table)
    table = Table("bar", "mode", "need", "reached", "by", "passed")
    for row in document["bars"]:
        by = f"{row['passes']} x {row['rounds']}" if row["passes"] else ""
        reached = "" if row["accuracy"] is None else f"{row['accuracy']:.3f}"
        passed = {True: "yes", False: "no", None: "not asked"}[row["passed"]]
        table.add_row(row["bar"], row["mode"] or "", f"{row['need']:.2f}", reached, by, passed)
    out.print(table)
    for row in document["agreement"]:
        out.print(
            f"passes {row['passes']}, rounds {row['rounds']}, {row['mode']}: live {row['live']:.3f}, "
            f"training harness {row['harness']:.3f}, difference {row['difference']:+.3f}"
        )
    windows = document["fact_windows"]
    out.print(
        f"{document['episodes']} episodes, seed {document['seed']}; facts in {windows['mean']:.1f} windows on average, "
        f"{windows['least']} at least. Beyond depth 1 the facts of a question lie in at least 2 windows."
    )
