"""Evaluation on a task's own tokens, without an agent around the model: fresh episodes, read as in training."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from agentsleep.errors import SettingsError
from agentsleep.evals.intervals import wilson
from agentsleep.sleep import check_depth
from agentsleep.tasks.base import Batch, Difficulty, Task
from agentsleep.training.episode import LanguageModel, read_batch

EPISODES = 32  # a batch: small enough for any machine
FRESH = 0x6672657368  # told apart by this, an evaluation never draws the episodes of a training run of the same seed
PATIENCE = 100  # batches without one question of some depth

Tally = dict[int, list[int]]  # depth to [right, asked]


class Evaluated(LanguageModel, Protocol):
    """A language model that lies somewhere and can be put into training mode, as a module of torch can."""

    @property
    def device(self) -> torch.device:
        """Where its weights lie."""

    @property
    def training(self) -> bool:
        """Whether it is in training mode."""

    def train(self, mode: bool = True) -> object:
        """Puts it into training mode, or out of it."""


def evaluate_task(
    model: Evaluated,
    task: Task,
    *,
    difficulty: Difficulty,
    passes: Sequence[int] = (1, 2, 4),
    rounds: Sequence[int] = (1,),
    questions: int = 2000,
    seed: int = 0,
    eviction: str = "window",
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Accuracy by depth for every (passes, rounds), all on the same episodes.

    Args:
        difficulty: how many windows, how deep, which form.
        questions: at least so many of every depth.
        seed: of the episodes, at least 0.
        eviction: as for :func:`agentsleep.training.episode.read_batch`.
        progress: called after every batch with the part that is done, 0 to 1.

    Returns:
        ``{"task", "difficulty", "seed", "episodes", "results", "baselines"}``. A result is ``{"passes", "rounds",
        "depth", "accuracy", "interval", "questions", "exact", "episodes"}`` with the 95 % Wilson interval; exact is the
        part of the episodes in which all answers of that depth are right. Baselines have a ``name`` in
        place of passes and rounds: ``chance`` (computed, without interval), ``best-constant`` (the most frequent answer
        to all questions of a depth), ``state-reset`` (the same model, the questions asked from an empty state).

    Raises:
        SettingsError: passes, rounds, questions or seed out of range, or a depth that the task never asks.
    """
    if not passes or not rounds:
        raise SettingsError("no passes or no rounds to evaluate; give at least one of each, such as 4 and 1")
    for n in passes:
        for r in rounds:
            check_depth(n, r)
    if questions < 1 or seed < 0:
        raise SettingsError(f"questions is {questions} and seed is {seed}; they must be at least 1 and 0")
    depths = [depth for depth in task.depths if depth <= difficulty.depth]
    if not depths:
        raise SettingsError(f"the depth is {difficulty.depth}; {task.name} asks from depth {min(task.depths)} on")
    grid = [(n, r) for n in passes for r in rounds]
    tallies: dict[tuple[int, int], Tally] = {visit: _tally() for visit in grid}
    whole: dict[tuple[int, int], Tally] = {visit: _tally() for visit in grid}
    reset = _tally()
    answers: dict[int, Counter[int]] = defaultdict(Counter)
    rng = np.random.default_rng([seed, FRESH])
    was_training = model.training
    model.train(False)
    batches, least = 0, 0
    try:
        with torch.inference_mode():
            while least < questions:
                batch = task.batch(rng, EPISODES, difficulty).to(str(model.device))
                for n, r in grid:
                    outcome = read_batch(model, batch, passes=n, rounds=r, eviction=eviction)
                    _count(tallies[n, r], outcome.hits())
                    _count(whole[n, r], outcome.exact())
                blank = Batch(context=[], questions=batch.questions)
                _count(reset, read_batch(model, blank, passes=max(passes)).hits())
                for window in batch.questions:
                    for depth, label in zip(
                        window.depth[window.depth > 0].tolist(), window.labels[window.depth > 0].tolist(), strict=True
                    ):
                        answers[depth][label] += 1
                batches += 1
                least = min(reset[depth][1] for depth in depths)
                if least == 0 and batches >= PATIENCE:
                    never = [depth for depth in depths if not reset[depth][1]]
                    raise SettingsError(f"{task.name} asks no question of depth {never} at {difficulty}; ask less deep")
                if progress is not None:
                    progress(min(1.0, least / questions))
    finally:
        model.train(was_training)
    results = [
        {"passes": n, "rounds": r, "depth": d, **_measured(*tallies[n, r][d]), **_exact(*whole[n, r][d])}
        for n, r in grid
        for d in depths
    ]
    chance = [{"name": "chance", "depth": d, "accuracy": task.chance()} for d in depths]
    constant = [
        {"name": "best-constant", "depth": d, **_measured(max(answers[d].values()), answers[d].total())} for d in depths
    ]
    blank_rows = [{"name": "state-reset", "depth": d, **_measured(*reset[d])} for d in depths]
    return {
        "task": task.name,
        "difficulty": {"windows": difficulty.windows, "depth": difficulty.depth, "form": difficulty.form},
        "seed": seed,
        "episodes": batches * EPISODES,
        "results": results,
        "baselines": [*chance, *constant, *blank_rows],
    }


def _tally() -> Tally:
    return defaultdict(lambda: [0, 0])


def _count(tally: Tally, hits: dict[int, tuple[int, int]]) -> None:
    for depth, (right, asked) in hits.items():
        tally[depth][0] += right
        tally[depth][1] += asked


def _measured(right: int, asked: int) -> dict[str, Any]:
    low, high = wilson(right, asked)
    return {"accuracy": right / asked, "interval": [low, high], "questions": asked}


def _exact(right: int, episodes: int) -> dict[str, Any]:
    return {"exact": right / episodes, "episodes": episodes}
