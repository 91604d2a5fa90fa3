"""One run of a table: trained in its folder, or gone on with, then measured."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from agentsleep.errors import SettingsError
from agentsleep.reproduce import document
from agentsleep.reproduce.flops import sleep_flops, training_flops
from agentsleep.reproduce.measures import MEASURES
from agentsleep.reproduce.plan import Arm, Table
from agentsleep.reproduce.subject import Subject
from agentsleep.training.loop import CHECKPOINT, HISTORY, RECORD, Progress, Trainer
from agentsleep.training.plots import read_history
from agentsleep.training.runs import check, make_task

SETTINGS = "settings"  # in a run's folder: the digest of the settings that it was started with
POINTS = 40  # rows of a history that a record keeps
Report = Callable[[str, float], None]  # what is going on, and the part that is done


def folder_of(runs: Path, arm: Arm, scale: str, seed: int) -> Path:
    """Where a run is trained."""
    return runs / scale / arm.name / str(seed)


def perform(table: Table, arm: Arm, scale: str, seed: int, runs: Path, report: Report) -> dict[str, Any]:
    """Trains a run to its end and takes every measure of it; returns its record.

    A run that was cut off goes on from its last checkpoint, and a finished one is only measured. A run of other
    settings in its folder is moved aside.

    Raises:
        SettingsError: the plan's settings do not work, or another process works on this run.
        CheckpointDamaged: the folder's checkpoint cannot be read.
    """
    folder = folder_of(runs, arm, scale, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.with_name(f"{folder.name}.lock"), timeout=0):
            return _perform(table, arm, scale, seed, folder, report)
    except Timeout:
        raise SettingsError(f"another process works on {folder}; wait for it, or give another --runs") from None


def _perform(table: Table, arm: Arm, scale: str, seed: int, folder: Path, report: Report) -> dict[str, Any]:
    trainer = train(arm, folder, seed, report)
    trainer.model.cpu().train(False)
    rows: list[dict[str, Any]] = []
    parts = table.parts_of(arm.name)
    for done, part in enumerate(parts):
        report(part.measure, done / len(parts))
        with _one_thread():
            subject = Subject(model=trainer.model, arm=arm, config=trainer.config, task=trainer.task, folder=folder)
            rows += [{"part": part.name, **row} for row in MEASURES[part.measure](subject, part.settings)]
    report("done", 1.0)
    return {
        "arm": arm.name,
        "label": arm.label,
        "kind": arm.kind,
        "scale": scale,
        "seed": seed,
        "digest": arm.digest(seed),
        "measures": table.digest(arm),
        "machine": document.machine(),
        **_costs(trainer),
        "reached": {"stage": trainer.curriculum.stage_index, "depth": trainer.curriculum.depth},
        "config": asdict(trainer.config),
        "history": thinned(read_history(folder / HISTORY), trainer.config.judge),
        "rows": rows,
    }


def train(arm: Arm, folder: Path, seed: int, report: Report) -> Trainer:
    """The trainer of a finished run."""
    config = arm.config(seed)
    task = make_task(arm.task, config.task)
    check(task, config)
    trainer = Trainer(task, config, folder)
    _make_room(folder, arm.digest(seed))
    if (folder / CHECKPOINT).exists():
        trainer.resume()

    def training(now: Progress) -> None:
        report(f"training, depth {now.depth}, loss {now.loss:.2f}", trainer.progress())

    if trainer.progress() < 1 or not (folder / RECORD).exists():  # killed before it was exported
        trainer.run(training)
    return trainer


def _make_room(folder: Path, digest: str) -> None:
    """Notes whose folder it is; a run of other settings in it is moved aside, since hours may lie in it."""
    note = folder / SETTINGS
    before = note.read_text(encoding="utf-8").strip() if note.exists() else ""
    if before == digest:
        return
    if folder.exists() and any(folder.iterdir()):
        os.replace(folder, _aside(folder, before or "unknown"))
    folder.mkdir(parents=True, exist_ok=True)
    note.write_text(f"{digest}\n", encoding="utf-8")


def _aside(folder: Path, digest: str) -> Path:
    """A name beside the folder's that is free."""
    names = (folder.with_name(f"{folder.name}.{digest}{more}") for more in ("", *(f".{i}" for i in range(2, 1000))))
    return next(name for name in names if not name.exists())


def _costs(trainer: Trainer) -> dict[str, Any]:
    model = trainer.model
    window = trainer.task.window
    per_token = {str(n): sleep_flops(model, window, n) // window for n in (1, 2, 4, 8)}
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 2),
        "tokens": trainer.tokens,
        "training_flops": training_flops(model, trainer.tokens, window),
        "flops_per_token": per_token,
    }


def thinned(history: list[dict[str, Any]], judge: tuple[int, int]) -> list[dict[str, Any]]:
    """At most ``POINTS`` rows of a history, evenly spread, the last one among them; numbers to four digits.

    ``accuracy`` is by depth, of the judge (passes, rounds) alone; a row without batches of it has none.
    NaN and Inf, which JSON does not have, become None.
    """
    stride = max(1, -(-len(history) // POINTS))
    heard = f"{judge[0]}x{judge[1]}"
    kept = history[::-1][::stride][::-1]
    return [_rounded({**row, "accuracy": row["accuracy"].get(heard, {})}) for row in kept]


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4) if isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    return value


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads would change the last bits of what is measured
    try:
        yield
    finally:
        torch.set_num_threads(before)
