"""The training loop: one checkpoint for every number of passes and rounds."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from agentsleep.errors import CheckpointDamaged, SettingsError
from agentsleep.tasks.base import Task
from agentsleep.training.config import TrainConfig
from agentsleep.training.curriculum import Curriculum
from agentsleep.training.episode import Recomputed, read_batch
from agentsleep.training.hardware import hardware
from agentsleep.training.lora import merge_adapters
from agentsleep.training.optimisers import optimisers
from agentsleep.training.retrofit import make_subject
from agentsleep.training.subjects import Truncated

CHECKPOINT, HISTORY, RECORD = "checkpoint.pt", "history.jsonl", "record.json"
PARTS = ("config", "model", "optimisers", "curriculum", "rng", "step", "seconds", "tokens")  # of a checkpoint
LOG_EVERY = 25  # steps


@dataclasses.dataclass
class Progress:
    """What a run reports while it goes on."""

    step: int
    minutes: float
    stage: int
    depth: int
    loss: float
    accuracy: dict[str, dict[int, float]]


class Trainer:
    """A run in a folder: it can be cut off at any moment and goes on from its last checkpoint."""

    def __init__(self, task: Task, config: TrainConfig, out: Path, *, init: Path | None = None) -> None:
        self.task, self.config, self.out = task, config, out
        self.hardware = hardware(config)
        torch.manual_seed(config.seed)
        self.subject = make_subject(task, config, init)
        self.model = self.subject.model
        nn.Module.to(self.model, self.hardware.device)
        self.optimisers = optimisers(self.model, config)
        self._later = self._after_the_fast()
        self._early: bool | None = None  # whether these are held back; None: not settled yet
        self.curriculum = Curriculum(config)
        self.rng = np.random.default_rng(config.seed)
        self.step, self.seconds, self.tokens = 0, 0.0, 0
        self._sums: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
        self._losses: list[float] = []

    def progress(self) -> float:
        """How much of the run is done, 0 to 1."""
        return min(1.0, max(self.step / self.config.max_steps, self.seconds / 60 / self.config.max_minutes))

    def run(self, report: Callable[[Progress], None] | None = None) -> None:
        """Trains to the end, or until KeyboardInterrupt, and leaves a checkpoint either way."""
        torch.set_num_threads(self.config.threads)
        self.out.mkdir(parents=True, exist_ok=True)
        saved = time.monotonic()
        try:
            while self.progress() < 1:
                self._train_step()
                if self.step % LOG_EVERY == 0:
                    now = self._log()
                    if report is not None:
                        report(now)
                if time.monotonic() - saved > 60 * self.config.checkpoint_minutes:
                    self.save()
                    saved = time.monotonic()
        finally:
            self.save()
        self.export()

    def _after_the_fast(self) -> list[nn.Parameter]:
        """The parameters that wait until the fast-weight layers have been trained."""
        if not self.config.fast_first:
            return []
        fast = {id(parameter) for parameter in self.subject.fast_parameters()}
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not any(id(parameter) in fast for parameter in trained):
            raise SettingsError("fast_first: nothing in the layers with fast weights is trained; set it to 0")
        return [parameter for parameter in trained if id(parameter) not in fast]

    def _train_step(self) -> None:
        began = self._clock()
        self._choose_trained()
        choices = self.config.visits_of(self.curriculum.stage)
        weights = np.array([v.weight for v in choices])
        visits = choices[int(self.rng.choice(len(weights), p=weights / weights.sum()))]
        difficulty = self.curriculum.difficulty(self.rng)
        batch = self.task.batch(self.rng, self.curriculum.batch(difficulty.form), difficulty)
        reader, recompute = self.subject.reader, self.config.recompute
        if self.config.truncate:  # outside: what is computed again must be cut where it was cut before
            reader, recompute = Truncated(Recomputed(reader) if recompute else reader, self.config.truncate), False
        with self.hardware.autocast():
            outcome = read_batch(
                reader,
                batch.to(self.hardware.device),
                passes=visits.passes,
                rounds=visits.rounds,
                eviction=self.config.eviction,
                recompute=recompute,
                trace=self.config.trace,
            )
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        outcome.loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.step += 1
        scale = self._schedule()
        if bool(torch.isfinite(norm)):  # a step that blew up is skipped, not learned from
            for optimiser in self.optimisers:
                muon = isinstance(optimiser, torch.optim.Muon)
                rate = self.config.muon_lr if muon else self.config.adamw_lr
                for group in optimiser.param_groups:
                    group["lr"] = rate * scale
                optimiser.step()
        hits = outcome.hits()
        name = f"{visits.passes}x{visits.rounds}"
        if difficulty.form == self.curriculum.stage.form:
            for depth, (right, asked) in hits.items():
                self._sums[name][depth][0] += right
                self._sums[name][depth][1] += asked
        self._losses.append(float(outcome.loss.detach()))
        self.seconds += self._clock() - began
        self.tokens += batch.tokens(visits.passes, visits.rounds)
        self.curriculum.heard(difficulty.form, (visits.passes, visits.rounds), hits)

    def _choose_trained(self) -> None:
        """Holds back what is trained later, and lets go of it when its time has come."""
        early = self.step < self.config.fast_first
        if early != self._early:
            self._early = early
            for parameter in self._later:
                parameter.requires_grad_(not early)
            self.subject.evict_hard(early)

    def _clock(self) -> float:
        """Seconds of CPU time; on an accelerator those of the wall, since its work is no CPU time."""
        return time.process_time() if self.hardware.device == "cpu" else time.monotonic()

    def _schedule(self) -> float:
        warm = min(1.0, self.step / max(1, self.config.warmup))
        left = 1 - self.progress()
        return warm * min(1.0, left / self.config.decay) if self.config.decay else warm

    def _log(self) -> Progress:
        accuracy = {
            name: {depth: right / asked for depth, (right, asked) in sorted(by_depth.items())}
            for name, by_depth in sorted(self._sums.items())
        }
        now = Progress(
            step=self.step,
            minutes=self.seconds / 60,
            stage=self.curriculum.stage_index,
            depth=self.curriculum.depth,
            loss=float(np.mean(self._losses)),
            accuracy=accuracy,
        )
        with open(self.out / HISTORY, "a") as log:
            log.write(json.dumps(dataclasses.asdict(now)) + "\n")
        self._sums.clear()
        self._losses.clear()
        return now

    def _config(self) -> str:
        return json.dumps(dataclasses.asdict(self.config))

    def save(self) -> None:
        """Writes the checkpoint; an earlier one is replaced only when the new one is whole."""
        whole = {
            "config": self._config(),
            "model": self.model.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "curriculum": self.curriculum.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "step": self.step,
            "seconds": self.seconds,
            "tokens": self.tokens,
        }
        part = self.out / f"{CHECKPOINT}.part"
        torch.save(whole, part)
        os.replace(part, self.out / CHECKPOINT)

    def resume(self) -> None:
        """Goes on from the folder's checkpoint. Budgets and rates may differ from those it was made with.

        Raises:
            SettingsError: no checkpoint there, or one of another model or task.
            CheckpointDamaged: it cannot be read, or lacks a part. The trainer may then hold some of the others.
        """
        path = self.out / CHECKPOINT
        if not path.exists():
            raise SettingsError(f"nothing to resume: no {path}; start without --resume")
        try:
            saved: dict[str, Any] = torch.load(path, weights_only=True, map_location=self.hardware.device)
            if missing := [part for part in PARTS if part not in saved]:
                raise ValueError(f"it lacks {', '.join(missing)}")
            before = json.loads(saved["config"])
            now = json.loads(self._config())  # as JSON too: there a tuple is a list
            before = {"graft": None, "lora": 0} | before  # older checkpoints do not say so
            other = any(before[part] != now[part] for part in ("model", "task", "graft", "lora"))
        except Exception as error:  # torch raises many kinds for a damaged file
            raise _damaged(path, error) from error
        if other:
            raise SettingsError(f"{path} was made with another model or task; give the same, or another --out")
        try:
            self.model.load_state_dict(saved["model"])
            for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
                optimiser.load_state_dict(state)
            self.curriculum.load_state_dict(saved["curriculum"])
            self.rng.bit_generator.state = json.loads(saved["rng"])
        except SettingsError:  # of the curriculum; a ValueError too
            raise
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # a part that is not whole itself
            raise _damaged(path, error) from error
        self.step, self.seconds, self.tokens = saved["step"], saved["seconds"], saved["tokens"]

    def export(self) -> None:
        """Writes the model as a checkpoint directory of transformers, with its training record."""
        merge_adapters(self.model)
        self.model.save_pretrained(self.out / "model")
        record = {
            "task": self.task.name,
            "config": dataclasses.asdict(self.config),
            "seed": self.config.seed,
            "steps": self.step,
            "minutes": round(self.seconds / 60, 1),
            "tokens": self.tokens,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "torch": torch.__version__,
        }
        (self.out / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def _damaged(path: Path, error: Exception) -> CheckpointDamaged:
    why = f"it lacks {error}" if isinstance(error, KeyError) else error
    return CheckpointDamaged(f"{path} cannot be read ({why}); start again without --resume, in another --out")
