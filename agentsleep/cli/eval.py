"""``agentsleep eval …``: accuracy on fresh episodes, one command for each task."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from agentsleep.cli.app import AsJson, Threads, app, console, emit, numbers, quiet_transformers, use_threads
from agentsleep.errors import SettingsError

eval_app = typer.Typer(help="Measure accuracy by depth, on fresh episodes.", no_args_is_help=False)
app.add_typer(eval_app, name="eval")

Model = Annotated[Path, typer.Option(help="The model/ folder of a finished run, or the run's own folder.")]
Passes = Annotated[str, typer.Option(help="Passes of every visit, with commas.")]
Rounds = Annotated[str, typer.Option(help="Visits of every window, with commas; 1 is light sleep alone.")]
Questions = Annotated[int, typer.Option(help="At least so many of every depth.")]
Seed = Annotated[int, typer.Option(help="Of the episodes, which come from another stream than those of training.")]


TASKS = {
    "depo": "Hops along a cycle, asked after its edges were evicted.",
    "rule110": "Bits of a cellular automaton some steps on, asked after its first state was evicted.",
    "lexicon": "New words that are defined by words, asked after their definitions were evicted.",
    "retention": "Facts, asked after later windows were slept on too.",
}


def _add(task: str, what: str) -> None:
    """The command of a task."""

    @eval_app.command(task, help=what)
    def evaluate(
        model: Model,
        passes: Passes = "1,2,4",
        rounds: Rounds = "1",
        questions: Questions = 2000,
        seed: Seed = 0,
        threads: Threads = 1,
        as_json: AsJson = False,
    ) -> None:
        _eval_raw(task, model, passes, rounds, questions, seed, threads, as_json)


for _task, _what in TASKS.items():
    _add(_task, _what)


def _eval_raw(
    task_name: str, folder: Path, passes: str, rounds: str, questions: int, seed: int, threads: int, as_json: bool
) -> None:
    n, r = numbers(passes, "--passes"), numbers(rounds, "--rounds")
    from agentsleep.cli.progress import bar
    from agentsleep.cli.tables import accuracy_table
    from agentsleep.evals.raw import evaluate_task
    from agentsleep.training.config import config_from
    from agentsleep.training.runs import final_difficulty, find_model, load_subject, make_task

    use_threads(threads)
    quiet_transformers()
    directory, record = find_model(folder)
    if record["task"] != task_name:
        raise SettingsError(
            f"the model at {directory} was trained on {record['task']}; use 'agentsleep eval {record['task']}'"
        )
    config = config_from(record["config"])
    task = make_task(task_name, config.task)
    loaded = load_subject(directory)
    with bar(console(), f"{task_name}: questions") as progress:
        measured = evaluate_task(
            loaded,
            task,
            difficulty=final_difficulty(config),
            passes=n,
            rounds=r,
            questions=questions,
            seed=seed,
            eviction=config.eviction,
            progress=progress,
        )
    document: dict[str, Any] = {"model": str(directory), **measured}
    emit(document, as_json, lambda out: out.print(accuracy_table(document)))
