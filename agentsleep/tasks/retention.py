"""Retention: how long a fact stays in the fast weights while sleep after sleep writes other things over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from agentsleep.errors import SettingsError
from agentsleep.tasks.base import IGNORE, Batch, Difficulty, Window

FORMS = ("filler", "facts")
ASK = ("first", "any")
_FACT = 3  # tokens: two of the key, one of the value


@dataclass(frozen=True, kw_only=True)
class Retention:
    """The first window states ``facts`` facts; each later window is one more sleep that they must outlive.

    The vocabulary: symbols ``0..symbols-1`` for keys, then ``values`` values, ``noise`` tokens that mean nothing, and
    ``?``. A fact reads ``k1 k2 v``, without separator: values have tokens of their own, so a fact shows where it ends.
    A question reads ``k1 k2 ?``: there, what precedes ``?`` is what preceded ``v``. Keys of an episode are distinct.

    Forms, the later windows being as long as the first in both:
        ``filler``: they hold noise, so that forgetting comes from time alone.
        ``facts``: they state as many other facts, so that facts compete for room.

    ``ask`` says what is asked, in random order, all of it at depth 1:
        ``first``: every fact of the first window. With m + 1 windows this measures recall after m later sleeps.
        ``any``: ``questions`` facts, or all if there are fewer, out of all that were stated; for training.
    """

    facts: int = 4
    symbols: int = 32
    values: int = 32
    noise: int = 16
    ask: str = "first"
    questions: int = 8
    name: str = "retention"

    def __post_init__(self) -> None:
        for setting, least in (("facts", 1), ("symbols", 1), ("values", 2), ("noise", 1), ("questions", 1)):
            if getattr(self, setting) < least:
                raise SettingsError(f"{setting} is {getattr(self, setting)}; it must be at least {least}")
        if self.ask not in ASK:
            raise SettingsError(f"ask {self.ask!r} is not one of 'first', 'any'")
        if self.facts > self.symbols**2:
            raise SettingsError(
                f"facts is {self.facts}, but {self.symbols} symbols make {self.symbols**2} keys; use more symbols"
            )

    @property
    def vocab_size(self) -> int:
        return self.symbols + self.values + self.noise + 1

    @property
    def window(self) -> int:
        return _FACT * (self.facts if self.ask == "first" else max(self.facts, self.questions))

    @property
    def depths(self) -> Sequence[int]:
        return range(1, 2)

    def chance(self) -> float:
        return 1 / self.values

    def batch(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        """``size`` episodes of ``difficulty.windows`` context windows, so of one later sleep less.

        Raises:
            SettingsError: an unknown form, a depth other than 1, no window, or more facts than there are keys.
        """
        if difficulty.form not in FORMS:
            raise SettingsError(f"form {difficulty.form!r} is not one of 'filler', 'facts'")
        if difficulty.depth != 1:
            raise SettingsError(f"depth {difficulty.depth} cannot be asked; recall of a fact has depth 1")
        if difficulty.windows < 1:
            raise SettingsError(f"{difficulty.windows} windows have no room for the facts; ask for at least 1")
        telling = difficulty.windows if difficulty.form == "facts" else 1
        count, keys = telling * self.facts, self.symbols**2
        if count > keys:
            raise SettingsError(
                f"{telling} windows of {self.facts} facts need {count} keys, but {self.symbols} symbols make {keys}; "
                "use more symbols, fewer windows or the form 'filler'"
            )
        key = np.stack([rng.choice(keys, count, replace=False) for _ in range(size)])
        value = self.symbols + rng.integers(0, self.values, (size, count))
        facts = np.stack((key // self.symbols, key % self.symbols, value), -1)  # [B, count, 3]
        context = list(facts.reshape(size, telling, -1).swapaxes(0, 1))  # a window each, [B, T]
        first_noise, question_mark = self.symbols + self.values, self.vocab_size - 1
        for _ in range(difficulty.windows - telling):
            context.append(rng.integers(first_noise, question_mark, (size, _FACT * self.facts)))
        known, asked = (self.facts, self.facts) if self.ask == "first" else (count, min(self.questions, count))
        order = rng.random((size, known)).argsort(1)[:, :asked]
        ids = np.take_along_axis(facts, order[..., None], 1)
        labels = np.full_like(ids, IGNORE)
        labels[..., -1], ids[..., -1] = ids[..., -1], question_mark
        return Batch(
            context=[_window(told, np.full_like(told, IGNORE)) for told in context],
            questions=[_window(ids.reshape(size, -1), labels.reshape(size, -1))],
        )


def _window(ids: np.ndarray, labels: np.ndarray) -> Window:
    """Arrays ``[B, T]`` as a window; every label is a question of depth 1."""
    depth = (labels != IGNORE).astype(np.int64)
    return Window(ids=torch.tensor(ids), labels=torch.tensor(labels), depth=torch.tensor(depth))
