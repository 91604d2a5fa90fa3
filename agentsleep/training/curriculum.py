"""When to ask deeper: a depth more whenever the deepest one is mastered."""

from __future__ import annotations

from collections import defaultdict, deque
from typing import Any

import numpy as np

from agentsleep.errors import SettingsError
from agentsleep.tasks.base import Difficulty
from agentsleep.training.config import Stage, TrainConfig


class Curriculum:
    """Walks the stages of a run. It is told every batch's hits and answers how hard the next batch is to be."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.stage_index = 0
        self.depth = config.curriculum[0].start_depth
        self.stage_steps = 0
        self._recent: dict[int, deque[tuple[int, int]]] = defaultdict(deque)

    @property
    def stage(self) -> Stage:
        """The stage that the run is in."""
        return self.config.curriculum[self.stage_index]

    def difficulty(self, rng: np.random.Generator) -> Difficulty:
        """Of the next batch."""
        windows = self.stage.windows[int(rng.integers(len(self.stage.windows)))]
        forms = (self.stage.form, *self.stage.mix)
        form = forms[int(rng.integers(len(forms)))] if self.stage.mix else self.stage.form
        return Difficulty(windows=windows, depth=self.depth, form=form, focus=self.stage.focus)

    def batch(self, form: str) -> int:
        """Episodes of a batch of this form."""
        own = self.stage.batch if form == self.stage.form else None
        return own or self.config.batch

    def accuracy(self, depth: int) -> tuple[float, int]:
        """Of the judge on the latest questions of a depth, and how many these are."""
        recent = self._recent[depth]
        asked = sum(n for _, n in recent)
        return (sum(r for r, _ in recent) / asked if asked else 0.0), asked

    def heard(self, form: str, visits: tuple[int, int], hits: dict[int, tuple[int, int]]) -> bool:
        """Takes in a batch; True when the difficulty grew."""
        self.stage_steps += 1
        if form == self.stage.form and visits == self.config.judge_of(self.stage):
            for depth, (right, asked) in hits.items():
                recent = self._recent[depth]
                recent.append((right, asked))
                while sum(n for _, n in recent) - recent[0][1] >= self.config.memory:
                    recent.popleft()
        accuracy, asked = self.accuracy(self.depth)
        if asked >= self.config.memory and accuracy >= self.config.mastered:
            if self.depth < self.stage.end_depth:
                self.depth = min(self.depth + self.stage.stride, self.stage.end_depth)
                return True
            return self._next_stage()
        if self.stage.max_steps and self.stage_steps >= self.stage.max_steps:
            return self._next_stage()
        return False

    def _next_stage(self) -> bool:
        if self.stage_index + 1 == len(self.config.curriculum):
            return False
        self.stage_index += 1
        self.depth = max(self.stage.start_depth, min(self.depth, self.stage.end_depth))
        self.stage_steps = 0
        self._recent.clear()
        return True

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which :meth:`load_state_dict` goes on."""
        return {
            "stage_index": self.stage_index,
            "depth": self.depth,
            "stage_steps": self.stage_steps,
            "recent": {depth: list(recent) for depth, recent in self._recent.items()},
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """The inverse of :meth:`state_dict`.

        Raises:
            SettingsError: it was in a stage that this curriculum does not have.
        """
        if saved["stage_index"] >= len(self.config.curriculum):
            raise SettingsError(
                f"the run is in stage {saved['stage_index']}, counted from 0, of a curriculum that now has "
                f"{len(self.config.curriculum)}; give the stages it was started with"
            )
        self.stage_index, self.depth = saved["stage_index"], saved["depth"]
        self.stage_steps = saved["stage_steps"]
        self._recent.clear()
        for depth, recent in saved["recent"].items():
            self._recent[int(depth)] = deque((right, asked) for right, asked in recent)
