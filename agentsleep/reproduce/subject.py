"""A finished run, as the measures take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from agentsleep.evals.raw import FRESH
from agentsleep.models.nap import NapForCausalLM
from agentsleep.reproduce.plan import Arm
from agentsleep.tasks import Task
from agentsleep.training.config import TrainConfig
from agentsleep.training.runs import make_task

Row = dict[str, Any]
Settings = Mapping[str, Any]
EPISODES = 32  # a batch of a measure
EVALUATION_SEED = 1_000  # plus the run's: the episodes of a measure are fresh for every run


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A finished run, to be measured. folder: of the run, where ``model/`` lies."""

    model: NapForCausalLM
    arm: Arm
    config: TrainConfig
    task: Task
    folder: Path

    @property
    def seed(self) -> int:
        """Of the episodes."""
        return EVALUATION_SEED + self.config.seed

    def other_task(self, changes: Mapping[str, Any]) -> Task:
        """The run's task with other settings."""
        return make_task(self.arm.task, {**self.config.task, **changes}) if changes else self.task


def fresh(subject: Subject) -> np.random.Generator:
    """Episodes that neither training nor another measure of the same seed draws."""
    return np.random.default_rng([subject.seed, FRESH])
