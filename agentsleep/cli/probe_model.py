"""``agentsleep probe``: does deeper sleep help this model?"""

from __future__ import annotations

from math import exp
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Threads, app, console, emit, numbers, quiet_transformers, use_threads
from agentsleep.errors import InputError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console


@app.command("probe")
def probe(
    model: Annotated[
        str | None,
        typer.Option(help="A checkpoint, a run's folder, or a name on the hub; by default the shipped model."),
    ] = None,
    passes: Annotated[str, typer.Option(help="Passes to compare with 1, with commas.")] = "1,2,4",
    samples: Annotated[int, typer.Option(help="Windows of facts, pairs of windows of text, episodes of a task.")] = 100,
    seed: Annotated[int, typer.Option(help="Of the texts, the episodes and the bootstrap.")] = 0,
    text: Annotated[
        Path | None, typer.Option(help="Your own text for the perplexity; by default texts are made.")
    ] = None,
    override: Annotated[
        list[str] | None, typer.Option("--set", help="A sleep setting, such as feedback=tokens; may be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs, as torch names it.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Its numbers, as torch names them; auto: the checkpoint's.")] = "auto",
    threads: Threads = 1,
    out: Annotated[Path | None, typer.Option(help="Draw the result into this PNG.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure whether deeper sleep helps a model.

    What it knows of evicted text after 1, 2, 4 passes, and with S dropped.

    Ends with 0 whatever the verdict: no gain is a result, too.
    """
    n, settings = numbers(passes, "--passes"), dict(setting(part) for part in override or ())
    if out is not None and not out.absolute().parent.is_dir():  # known before the minutes of work, not after them
        raise SettingsError(f"--out is {out}, but there is no folder {out.absolute().parent}; make it first")
    read = None if text is None else _read(text)
    from agentsleep.cli.progress import bar
    from agentsleep.evals.deeper import probe_model

    use_threads(threads)
    quiet_transformers()
    with bar(console(), "probing") as progress:
        document = probe_model(
            model,
            settings=settings or None,
            device=device,
            dtype=dtype,
            passes=n,
            samples=samples,
            seed=seed,
            text=read,
            progress=progress,
        )
    if out is not None:
        from agentsleep.evals.deeper_plot import plot_probe

        plot_probe(document, out)
        console().print(f"drawn: {out}", markup=False)
    emit(document, as_json, lambda shown: _show(shown, document))


def setting(text: str) -> tuple[str, Any]:
    """``"feedback=tokens"`` as a name and its value: a whole number, several with commas, or a word.

    Raises:
        SettingsError: it has another form.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not (name and equals and value):
        raise SettingsError(f"--set is {text!r}; give a name and a value: feedback=tokens, window=256, loop=2,5")
    parts = [part.strip() for part in value.split(",")]
    if all(part.isascii() and part.isdigit() for part in parts):
        found = tuple(int(part) for part in parts)
        return name, found if len(found) > 1 else found[0]
    return name, value


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"--text {path} is no UTF-8 text ({error}); give a plain text file") from error


def _show(out: Console, document: dict[str, Any]) -> None:
    from rich.table import Table

    passes = document["passes"]
    table = Table("measure", title=f"{document['model']}: what is left of evicted text")
    for name in ("items", "chance", "S dropped", *(f"N = {n}" for n in passes)):
        table.add_column(name, justify="right")
    for measure in document["measures"]:
        cells = {row["passes"]: row for row in measure["conditions"]}
        chance = "" if measure["chance"] is None else f"{measure['chance']:.3f}"
        shown = [_cell(cells[n], measure["unit"]) for n in (None, *passes)]
        table.add_row(measure["measure"], f"{measure['items']}", chance, *shown)
    out.print(table)
    for measure in document["measures"]:
        out.print(f"\n{measure['measure']} ({measure['what']}): {measure['verdict']}", markup=False, soft_wrap=True)
        for line in measure["says"]:
            out.print(f"  {line}", markup=False, soft_wrap=True)
    out.print(f"\nverdict, by {document['decisive']}: {document['verdict']}", markup=False, soft_wrap=True)


def _cell(row: dict[str, Any], unit: str) -> str:
    if row["mean"] is None:
        return "NaN"
    shown = [row["mean"], *row["interval"]]
    if unit == "nats a token":
        value, high, low = (exp(-number) for number in shown)
        return f"{value:,.4g}\n[dim]{low:,.4g}–{high:,.4g}[/dim]"
    value, low, high = shown
    return f"{value:.3f}\n[dim]{low:.3f}–{high:.3f}[/dim]"
