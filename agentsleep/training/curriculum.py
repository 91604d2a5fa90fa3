"""When to ask deeper: a depth more whenever the deepest one is mastered."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from agentsleep.errors import SettingsError
from agentsleep.tasks.base import Difficulty
from agentsleep.training.config import Stage, TrainConfig


@dataclass
class _Recent:
    """The latest answers to one kind of question: (right, asked) of each batch."""

    batches: deque[tuple[int, int]] = field(default_factory=deque)

    @property
    def asked(self) -> int:
        return sum(asked for _, asked in self.batches)

    @property
    def accuracy(self) -> float:
        asked = self.asked
        return sum(right for right, _ in self.batches) / asked if asked else 0.0

    def add(self, hits: tuple[int, int], memory: int) -> None:
        """Takes in a batch and lets go of those that are not needed for the last ``memory`` answers."""
        self.batches.append(hits)
        while self.asked - self.batches[0][1] >= memory:
            self.batches.popleft()


@dataclass
class _Pace:
    """How deep a visit that is not the judge is asked, and its answers to questions of that depth."""

    depth: int
    recent: _Recent = field(default_factory=_Recent)


class Curriculum:
    """Walks the stages of a run. It is told every batch's hits and answers how hard the next batch is to be."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.stage_index = 0
        self.depth = config.curriculum[0].start_depth
        self.stage_steps = 0
        self._recent: dict[int, _Recent] = defaultdict(_Recent)  # of the judge, by depth
        self._paces: dict[tuple[int, int], _Pace] = {}  # where the others have their own

    @property
    def stage(self) -> Stage:
        """The stage that the run is in."""
        return self.config.curriculum[self.stage_index]

    def asked_depth(self, visits: tuple[int, int]) -> int:
        """The deepest that a batch of these (passes, rounds) is asked."""
        if not self.config.own_pace or visits == self.config.judge_of(self.stage):
            return self.depth
        return min(self.depth, self._pace(visits).depth)

    def difficulty(self, rng: np.random.Generator, visits: tuple[int, int]) -> Difficulty:
        """Of the next batch, which is slept on in ``visits`` (passes, rounds)."""
        windows = self.stage.windows[int(rng.integers(len(self.stage.windows)))]
        forms = (self.stage.form, *self.stage.mix)
        form = forms[int(rng.integers(len(forms)))] if self.stage.mix else self.stage.form
        return Difficulty(windows=windows, depth=self.asked_depth(visits), form=form, focus=self.stage.focus)

    def batch(self, form: str) -> int:
        """Episodes of a batch of this form."""
        own = self.stage.batch if form == self.stage.form else None
        return own or self.config.batch

    def accuracy(self, depth: int) -> tuple[float, int]:
        """Of the judge on the latest questions of a depth, and how many these are."""
        return self._recent[depth].accuracy, self._recent[depth].asked

    def heard(self, form: str, visits: tuple[int, int], hits: dict[int, tuple[int, int]]) -> bool:
        """Takes in a batch; True when the difficulty grew."""
        self.stage_steps += 1
        if form == self.stage.form and visits == self.config.judge_of(self.stage):
            for depth, answers in hits.items():
                self._recent[depth].add(answers, self.config.memory)
        elif form == self.stage.form and self.config.own_pace:
            self._keep_pace(visits, hits)
        if self._mastered(self._recent[self.depth]):
            if self.depth < self.stage.end_depth:
                self.depth = min(self.depth + self.stage.stride, self.stage.end_depth)
                return True
            return self._next_stage()
        if self.stage.max_steps and self.stage_steps >= self.stage.max_steps:
            return self._next_stage()
        return False

    def _mastered(self, recent: _Recent) -> bool:
        return recent.asked >= self.config.memory and recent.accuracy >= self.config.mastered

    def _pace(self, visits: tuple[int, int]) -> _Pace:
        return self._paces.setdefault(visits, _Pace(self.stage.start_depth))

    def _keep_pace(self, visits: tuple[int, int], hits: dict[int, tuple[int, int]]) -> None:
        """A visit that is not the judge is asked a stride more when it has mastered its own depth."""
        pace = self._pace(visits)
        if pace.depth in hits:
            pace.recent.add(hits[pace.depth], self.config.memory)
        if pace.depth < self.depth and self._mastered(pace.recent):
            self._paces[visits] = _Pace(min(pace.depth + self.stage.stride, self.depth))

    def _next_stage(self) -> bool:
        if self.stage_index + 1 == len(self.config.curriculum):
            return False
        self.stage_index += 1
        self.depth = max(self.stage.start_depth, min(self.depth, self.stage.end_depth))
        self.stage_steps = 0
        self._recent.clear()
        self._paces = {v: _Pace(max(self.stage.start_depth, pace.depth)) for v, pace in self._paces.items()}
        return True

    def state_dict(self) -> dict[str, Any]:
        """Plain values from which :meth:`load_state_dict` goes on."""
        return {
            "stage_index": self.stage_index,
            "depth": self.depth,
            "stage_steps": self.stage_steps,
            "recent": {depth: list(recent.batches) for depth, recent in self._recent.items()},
            "paces": [[*visits, pace.depth, list(pace.recent.batches)] for visits, pace in self._paces.items()],
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
        for depth, batches in saved["recent"].items():
            self._recent[int(depth)] = _restored(batches)
        self._paces = {
            (passes, rounds): _Pace(depth, _restored(batches))
            for passes, rounds, depth, batches in saved.get("paces", [])  # older checkpoints have none
        }


def _restored(batches: Iterable[Sequence[int]]) -> _Recent:
    return _Recent(deque((right, asked) for right, asked in batches))
