"""What the folder of a run holds, and the checks that are made before one is started.

run.json        the task, the settings, and every command line that worked on the run
checkpoint.pt   where it goes on from
history.jsonl   what it reported while it went on
curves.png      the same as a picture
model/          the trained model, once the run is finished
record.json     the training record of that model
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from agentsleep.backends.settings import SleepSettings
from agentsleep.errors import CheckpointDamaged, CheckpointMissing, SettingsError
from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.tasks import TASKS, Difficulty, Task, Transcripts
from agentsleep.training.config import TrainConfig
from agentsleep.training.fresh import settings_of_family
from agentsleep.training.loop import CHECKPOINT, RECORD
from agentsleep.training.retrofit import family_of, is_retrofit, load_retrofit
from agentsleep.training.subjects import StockSubject

MODEL, RUN, CURVES = "model", "run.json", "curves.png"


def make_task(name: str, settings: Mapping[str, Any]) -> Task:
    """A task with settings as a config gives them.

    Raises:
        SettingsError: no such task, or settings that do not fit it.
    """
    tasks: dict[str, Callable[..., Task]] = {**TASKS, "transcripts": Transcripts}
    if name not in tasks:
        raise SettingsError(f"no task {name!r}; there are {', '.join(sorted(tasks))}")
    known = [field for field in inspect.signature(tasks[name]).parameters if field != "name"]
    if unknown := sorted(set(settings) - set(known)):
        raise SettingsError(f"task {name} has no setting {', '.join(unknown)}; it has {', '.join(known)}")
    try:
        return tasks[name](**settings)
    except TypeError as error:
        raise SettingsError(f"a setting of task {name} has the wrong form: {error}") from error


def check(task: Task, config: TrainConfig) -> None:
    """Tries what a run would need only hours later: the model's settings, and a batch at both ends of every stage.

    Raises:
        SettingsError: one of them does not work.
    """
    _check_model(task, config)
    for number, stage in enumerate(config.curriculum):
        if stage.start_depth > stage.end_depth:
            raise SettingsError(
                f"stage {number} goes from depth {stage.start_depth} down to {stage.end_depth}; swap them"
            )
        for windows in stage.windows:
            for depth in (stage.start_depth, stage.end_depth):
                task.batch(np.random.default_rng(0), 1, Difficulty(windows=windows, depth=depth, form=stage.form))


def _check_model(task: Task, config: TrainConfig) -> None:
    if is_retrofit(config):
        SleepSettings.of(settings_of_family({"sleep_window": task.window, **config.model}))
        return
    known = {name for name in inspect.signature(NapConfig.__init__).parameters if name not in ("self", "kwargs")}
    known |= {"tie_word_embeddings", "model_type"}
    if unknown := sorted(set(config.model) - known):
        raise SettingsError(f"the model has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
    try:
        NapConfig(**{name: value for name, value in config.model.items() if name != "model_type"})
    except SettingsError:
        raise
    except Exception as error:  # the base class has checks, and kinds of errors, of its own
        raise SettingsError(f"a setting of the model has the wrong form: {error}") from error


def final_difficulty(config: TrainConfig) -> Difficulty:
    """What a run is meant to master: the deepest questions over the most windows of the last stage."""
    last = config.curriculum[-1]
    return Difficulty(windows=max(last.windows), depth=last.end_depth, form=last.form)


def holds_run(out: Path) -> bool:
    """Whether there is a run in a folder that a new one would overwrite."""
    return any((out / name).exists() for name in (CHECKPOINT, RUN, RECORD, MODEL))


def saved_run(out: Path) -> dict[str, Any] | None:
    """What :func:`note_command` wrote; None for a run that was started in another way.

    Raises:
        CheckpointDamaged: it cannot be read.
    """
    path = out / RUN
    if not path.exists():
        return None
    try:
        run = json.loads(path.read_text(encoding="utf-8"))
        if not (isinstance(run["task"], str) and isinstance(run["config"], dict) and isinstance(run["commands"], list)):
            raise TypeError("a value has the wrong type")
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDamaged(f"{path} cannot be read ({error!r}); remove it and name --config") from error
    return dict(run)


def note_command(out: Path, task: str, config: TrainConfig, command: str) -> None:
    """Notes in the run's folder, which is made where needed, that ``command`` starts it or goes on with it."""
    out.mkdir(parents=True, exist_ok=True)
    before = saved_run(out)
    commands = [*before["commands"], command] if before else [command]
    _write_json(out / RUN, {"task": task, "config": dataclasses.asdict(config), "commands": commands})


def add_to_record(out: Path, **values: Any) -> dict[str, Any]:
    """Adds to the training record that the trainer wrote, and returns the whole."""
    record: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8")) | values
    _write_json(out / RECORD, record)
    return record


def find_model(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A trained model's directory and its training record, from that directory or the run's.

    Raises:
        CheckpointMissing: no model there, or no record beside it.
        CheckpointDamaged: the record cannot be read.
    """
    model = folder if (folder / "config.json").is_file() or not (folder / MODEL).is_dir() else folder / MODEL
    if not (model / "config.json").is_file():
        raise CheckpointMissing(f"no model at {folder} (no config.json); give the model/ folder of a finished run")
    for path in (model / RECORD, model.absolute().parent / RECORD):
        if path.is_file():
            break
    else:
        raise CheckpointMissing(
            f"no {RECORD} in or beside {model}, so the task's settings are unknown; "
            "give a model/ that still lies in the folder that 'agentsleep train' wrote"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        _ = record["task"], record["config"]["task"], record["config"]["curriculum"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointDamaged(f"{path} is no training record ({error!r}); train again") from error
    return model, record


def load_model(directory: Path) -> NapForCausalLM:
    """A nap checkpoint directory, with or without a tokenizer, in evaluation mode.

    Raises:
        CheckpointMissing: no checkpoint there.
        CheckpointDamaged: it cannot be read, is no nap model, or lacks weights.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointMissing(f"no model at {directory} (no config.json); give a folder that save_pretrained wrote")
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("model_type")
        if kind != NapConfig.model_type:
            raise CheckpointDamaged(f"{directory} holds a model of type {kind!r}; give one of type 'nap'")
        loaded: tuple[NapForCausalLM, dict[str, Any]] = NapForCausalLM.from_pretrained(  # type: ignore[assignment]
            directory, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except CheckpointDamaged:
        raise
    except Exception as error:  # json, safetensors, transformers and torch each raise kinds of their own
        raise CheckpointDamaged(f"the model at {directory} cannot be read ({error}); copy or train it again") from error
    model, report = loaded
    if missing := sorted(report["missing_keys"]):
        raise CheckpointDamaged(f"the model at {directory} lacks {len(missing)} weights, such as {missing[0]}")
    model.train(False)
    return model


def load_subject(directory: Path) -> NapForCausalLM | StockSubject:
    """A trained model of any family as evaluations read it, in evaluation mode.

    Raises:
        CheckpointMissing, CheckpointDamaged: no checkpoint there, or one that cannot be read.
    """
    return load_model(directory) if family_of(directory) == NapConfig.model_type else load_retrofit(directory)


def settings_of(model: NapForCausalLM) -> dict[str, Any]:
    """A model's settings as a training config has them, without what the task decides."""
    names = [name for name in inspect.signature(NapConfig.__init__).parameters if name not in ("self", "kwargs")]
    return {name: getattr(model.config, name) for name in names if name != "vocab_size"}


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    os.replace(part, path)
