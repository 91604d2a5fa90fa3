"""``agentsleep train``: a run in a folder, which can be stopped at any moment and goes on with ``--resume``."""

from __future__ import annotations

import shlex
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import INTERRUPTED, AsJson, Invocation, app, complain, console, emit, quiet_transformers
from agentsleep.errors import SettingsError
from agentsleep.training.presets import task_names

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.tasks import Task
    from agentsleep.training.config import TrainConfig
    from agentsleep.training.loop import Progress, Trainer

FINAL_QUESTIONS = 400  # of every depth, in the evaluation that goes into the record


@app.command()
def train(
    context: typer.Context,
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(task_names())}.")],
    out: Annotated[Path, typer.Option(help="The folder of the run.")],
    config: Annotated[
        str | None, typer.Option(help="A TOML file, or the name of a preset such as depo-n1; by default TASK's preset.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run that is in the folder.")] = False,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Start from the weights of this model folder: one of ours, a hybrid of transformers, or a model with "
            "attention alone, which is then given layers with fast weights."
        ),
    ] = None,
    data: Annotated[
        Path | None, typer.Option(help="For 'transcripts': conversations to learn from, a JSONL file of messages.")
    ] = None,
    window: Annotated[int | None, typer.Option(help="For 'transcripts': tokens that a window holds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the weights and the episodes.")] = None,
    steps: Annotated[int | None, typer.Option(help="End after so many steps in all.")] = None,
    minutes: Annotated[float | None, typer.Option(help="End after so many minutes of CPU time in all.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads that torch uses.")] = None,
    muon_lr: Annotated[float | None, typer.Option(help="Learning rate of the blocks' matrices.")] = None,
    adamw_lr: Annotated[float | None, typer.Option(help="Learning rate of all else.")] = None,
    lora: Annotated[int | None, typer.Option(help="Train adapters of this rank in place of the projections.")] = None,
    fast_first: Annotated[
        int | None, typer.Option(help="Train only the layers with fast weights for so many steps, then all.")
    ] = None,
    truncate: Annotated[
        int | None, typer.Option(help="Let gradients flow back through so many windows; 0: all.")
    ] = None,
    recompute: Annotated[
        bool | None, typer.Option("--recompute", help="Compute every pass twice rather than keep its activations.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model through sleep.

    The folder gets checkpoint.pt, history.jsonl, curves.png and, at the end,
    model/ and record.json.

    Ctrl-C leaves a checkpoint from which --resume goes on.
    """
    from agentsleep.training.loop import Trainer
    from agentsleep.training.retrofit import copy_tokenizer
    from agentsleep.training.runs import MODEL, check, make_task, note_command

    quiet_transformers()
    overrides = {
        "seed": seed,
        "max_steps": steps,
        "max_minutes": minutes,
        "threads": threads,
        "muon_lr": muon_lr,
        "adamw_lr": adamw_lr,
        "lora": lora,
        "fast_first": fast_first,
        "truncate": truncate,
        "recompute": recompute,
    }
    _check_folder(task, out, resume=resume, init=init)
    settings = _settings(task, out, config, resume, overrides)
    if task == "transcripts":
        settings = _transcripts(settings, data, init, window, resume=resume)
    elif data is not None or window is not None:
        raise SettingsError(f"--data and --window belong to 'transcripts', not to {task}; its config sets its window")
    made = make_task(task, settings.task)
    if init is not None:
        settings = _like(init, made, settings)
    check(made, settings)
    trainer = Trainer(made, settings, out, init=init)
    for remark in trainer.subject.remarks:
        console().print(remark, markup=False, soft_wrap=True)
    if resume:
        trainer.resume()
    invocation: Invocation = context.obj
    note_command(out, task, settings, invocation.command)
    if init is not None:
        copy_tokenizer(init, out / MODEL)
    try:
        _run(trainer, console())
        record = _finish(trainer, console())
    except KeyboardInterrupt:
        again = shlex.join(["agentsleep", "train", task, "--resume", "--out", str(out)])
        complain(f"stopped at step {trainer.step}, which is saved in {out}; go on with: {again}")
        raise typer.Exit(INTERRUPTED) from None
    emit({"out": str(out), **record}, as_json, lambda shown: _show(shown, out, record))


def _check_folder(task: str, out: Path, *, resume: bool, init: Path | None) -> None:
    from agentsleep.training.loop import CHECKPOINT
    from agentsleep.training.runs import holds_run, saved_run

    if out.exists() and not out.is_dir():
        raise SettingsError(f"--out {out} is a file; give a folder")
    if not resume:
        if holds_run(out):
            raise SettingsError(f"{out} already holds a run; go on with it by --resume, or give another --out")
        return
    if init is not None:
        raise SettingsError(
            "--init starts from other weights, --resume goes on with those of the run; give one of them"
        )
    if not (out / CHECKPOINT).exists():
        raise SettingsError(
            f"nothing to resume: there is no {out / CHECKPOINT}; start without --resume, in an empty --out"
        )
    run = saved_run(out)
    if run is not None and run["task"] != task:
        raise SettingsError(
            f"{out} holds a run of {run['task']}, not of {task}; train {run['task']}, or give another --out"
        )


def _settings(task: str, out: Path, config: str | None, resume: bool, overrides: dict[str, Any]) -> TrainConfig:
    """From --config; else, on --resume, those that the run was started with; else from the task's preset."""
    from agentsleep.training.config import config_from, load_config
    from agentsleep.training.presets import preset, preset_names
    from agentsleep.training.runs import saved_run

    if task not in task_names():
        raise SettingsError(f"no task {task!r}; there are {', '.join(task_names())}")
    given = {name: value for name, value in overrides.items() if value is not None}
    run = saved_run(out) if resume else None
    if run is not None and given.get("seed", run["config"]["seed"]) != run["config"]["seed"]:
        raise SettingsError(
            f"the run in {out} has seed {run['config']['seed']}; leave --seed out, or give another --out"
        )
    if run is not None and config is None:
        return config_from(run["config"] | given)
    if config is None:
        return load_config(preset(task), **given)
    if not Path(config).exists() and "/" not in config and not config.endswith(".toml"):
        if config not in preset_names():
            raise SettingsError(
                f"--config {config!r} is no file and no preset; presets are {', '.join(preset_names())}"
            )
        return load_config(preset(config), **given)
    return load_config(config, **given)


def _transcripts(
    settings: TrainConfig, data: Path | None, init: Path | None, window: int | None, *, resume: bool
) -> TrainConfig:
    """The settings with the conversations, and with the tokenizer of the model that learns from them."""
    found = {
        "path": None if data is None else str(data.absolute()),
        "tokenizer": None if init is None else str(init.absolute()),
        "window": window,
    }
    task = {**settings.task, **{name: value for name, value in found.items() if value is not None}}
    if not resume and (lacking := [f"--{o}" for o, n in (("data", "path"), ("init", "tokenizer")) if n not in task]):
        raise SettingsError(
            f"transcripts want {' and '.join(lacking)}: "
            "agentsleep train transcripts --data FILE.jsonl --init MODEL --out RUN"
        )
    model = {**settings.model, "sleep_window": task["window"]} if "window" in task else settings.model
    return replace(settings, task=task, model=model)


def _like(init: Path, task: Task, settings: TrainConfig) -> TrainConfig:
    """The settings with the architecture of the model that the run starts from. A model of transformers sleeps as the
    settings say, where they do."""
    from agentsleep.models.nap import NapConfig
    from agentsleep.training.retrofit import architecture_at, family_of
    from agentsleep.training.runs import load_model, settings_of

    if family_of(init) != NapConfig.model_type:
        sleep = {name: value for name, value in settings.model.items() if name.startswith("sleep_")}
        return replace(settings, model=architecture_at(init, sleep))
    model = load_model(init)
    if model.config.vocab_size != task.vocab_size:
        raise SettingsError(
            f"the model at {init} has {model.config.vocab_size} tokens, {task.name} as set has {task.vocab_size}; "
            "start from a model of the same task and settings"
        )
    return replace(settings, model=settings_of(model))


def _run(trainer: Trainer, remarks: Console) -> None:
    """Trains, and draws the curves as often as checkpoints are written."""
    from agentsleep.cli.progress import TrainingDisplay

    drawn = time.monotonic()
    with TrainingDisplay(remarks, trainer.task.name, trainer.config) as display:

        def report(now: Progress) -> None:
            nonlocal drawn
            display.report(now)
            if time.monotonic() - drawn > 60 * trainer.config.checkpoint_minutes:
                _draw(trainer)
                drawn = time.monotonic()

        try:
            trainer.run(report)
        finally:
            _draw(trainer)


def _draw(trainer: Trainer) -> None:
    from agentsleep.training.loop import HISTORY
    from agentsleep.training.plots import plot_curves
    from agentsleep.training.runs import CURVES

    title = f"{trainer.task.name}, {trainer.step:,} steps, {trainer.seconds / 60:.1f} minutes"
    plot_curves(trainer.out / HISTORY, trainer.out / CURVES, title=title, chance=trainer.task.chance())


def _finish(trainer: Trainer, remarks: Console) -> dict[str, Any]:
    """Evaluates the trained model and completes its record."""
    from agentsleep.cli.progress import bar
    from agentsleep.evals.raw import evaluate_task
    from agentsleep.training.runs import MODEL, add_to_record, final_difficulty, saved_run

    chat = getattr(trainer.task, "chat", None)
    if chat is not None:
        chat.tokenizer.save_pretrained(trainer.out / MODEL)
    visits = [visit for visit in trainer.config.visits if visit.weight > 0]
    with bar(remarks, "evaluation") as progress:
        evaluation = evaluate_task(
            trainer.subject.reader,
            trainer.task,
            difficulty=final_difficulty(trainer.config),
            passes=sorted({visit.passes for visit in visits}),
            rounds=sorted({visit.rounds for visit in visits}),
            questions=FINAL_QUESTIONS,
            seed=trainer.config.seed,
            eviction=trainer.config.eviction,
            progress=progress,
        )
    run = saved_run(trainer.out)
    return add_to_record(
        trainer.out,
        commands=run["commands"] if run else [],
        reached={"stage": trainer.curriculum.stage_index, "depth": trainer.curriculum.depth},
        evaluation=evaluation,
    )


def _show(shown: Console, out: Path, record: dict[str, Any]) -> None:
    from agentsleep.cli.tables import accuracy_table
    from agentsleep.training.runs import CURVES, MODEL

    shown.print(accuracy_table(record["evaluation"]))
    shown.print(
        f"{record['parameters']:,} parameters, {record['steps']:,} steps, {record['minutes']} minutes; "
        f"model in {out / MODEL}, curves in {out / CURVES}",
        markup=False,
        soft_wrap=True,
    )
