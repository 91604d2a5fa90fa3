"""Rule 110: bit strings are evicted, then their state after t steps of the cellular automaton is asked.

Source of the task: arXiv 2605.26099; periodic boundary (with a zero boundary the task is degenerate).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from agentsleep.errors import SettingsError
from agentsleep.tasks.base import IGNORE, Batch, Difficulty, Window

FORMS = ("plain", "dense")


def step110(bits: np.ndarray) -> np.ndarray:
    """One step of Rule 110 with periodic boundary on ``[..., n]`` of 0 and 1."""
    left, right = np.roll(bits, 1, -1), np.roll(bits, -1, -1)
    after: np.ndarray = (bits | right) & ~(left & bits & right) & 1
    return after


@dataclass(frozen=True, kw_only=True)
class Rule110:
    """One string of ``bits`` bits a window; ``depth`` is the number of steps t, asked for every bit.

    The vocabulary: 0 and 1, a token for every t (``2 + t - 1``), a token for every position, one for every string, and
    where there is a ``cone`` one that ends a window.

    A window reads ``string, t, bit 0, bit 1, ...``; a question reads ``string, t, position`` and its answer is a bit.
    So t is known before the sleep and after it, as in the paper, where a run has one t. Only multiples of ``stride``
    are asked. With fewer windows than ``strings`` these are drawn for every row, in the order of their names.
    Two forms: ``plain`` asks the first bit of every string, as the paper does; ``dense`` all bits of one string a row.

    The first bit of a ring follows, t steps on, from the t bits on both sides of it, its light cone. With ``cone`` = c
    a window reads 2c + 1 bits, so that up to c steps the cone needs no seam: the ring is gone round, from bit t - 2c
    on, as often as it takes, until bit t, and then the token that ends a window. There is no form ``dense`` then.
    """

    bits: int = 24
    max_depth: int = 8
    strings: int = 1
    stride: int = 1
    cone: int = 0
    name: str = "rule110"

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.max_depth:
            raise SettingsError(
                f"the stride of rule110 is {self.stride}; it must lie in 1..{self.max_depth}, max_depth"
            )
        if self.cone < 0:
            raise SettingsError(f"the cone of rule110 is {self.cone}; it is a number of steps, or 0 for none")

    @property
    def vocab_size(self) -> int:
        return 2 + self.max_depth + self.bits + self.strings + (self.cone > 0)

    @property
    def window(self) -> int:
        read = 2 * self.cone + 2 if self.cone else self.bits
        return max(2 + read, 3 * max(self.bits, self.strings))

    @property
    def depths(self) -> Sequence[int]:
        return range(self.stride, self.max_depth + 1, self.stride)

    def chance(self) -> float:
        return 0.5

    def batch(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        """``size`` rows of ``difficulty.windows`` strings each, one a window.

        Raises:
            SettingsError: more windows than ``strings``, a depth that cannot be asked, or another form.
        """
        self._check(difficulty)
        count = difficulty.windows
        start = rng.integers(0, 2, (size, count, self.bits))
        states = [start]
        for _ in range(difficulty.depth):
            states.append(step110(states[-1]))
        after = np.stack(states)  # [t, B, strings, bits]
        string = np.sort(rng.permuted(np.tile(np.arange(self.strings), (size, 1)), axis=1)[:, :count], 1)
        named = 2 + self.max_depth + self.bits + string
        t = difficulty.draw(rng, size, self.stride)
        rows = np.arange(size)
        read = after  # [t, B, strings, bits that are read]
        if self.cone:
            at = (t[:, None] + np.arange(-2 * self.cone, 1)) % self.bits
            read = np.take_along_axis(after, at[None, :, None], -1)
        context = []
        for s in range(count):
            parts = [named[:, s, None], 2 + t[:, None] - 1, read[0, :, s]]
            if self.cone:
                parts.append(np.full((size, 1), self.vocab_size - 1))
            ids = np.concatenate(parts, 1)
            window = _window(ids, np.full_like(ids, IGNORE), np.zeros_like(ids))
            context.append(replace(window, trace=partial(_trace, read[:, :, s], t, self.cone > 0)))
        if difficulty.form == "dense":
            which = rng.integers(0, count, size)
            asked = [(which, np.full(size, p)) for p in rng.permutation(self.bits)]
        else:
            asked = [(np.full(size, s), np.zeros(size, dtype=int)) for s in range(count)]
        parts, labels, depth = [], [], []
        for which, position in asked:
            told = np.full(size, IGNORE)
            parts.append(np.stack((named[rows, which], 2 + t - 1, 2 + self.max_depth + position), 1))
            labels.append(np.stack((told, told, after[t, rows, which, position]), 1))
            depth.append(np.stack((0 * t, 0 * t, t), 1))
        return Batch(
            context=context,
            questions=[_window(np.concatenate(parts, 1), np.concatenate(labels, 1), np.concatenate(depth, 1))],
        )

    def _check(self, difficulty: Difficulty) -> None:
        if difficulty.form not in FORMS:
            raise SettingsError(f"rule110 has no form {difficulty.form!r}; it has {', '.join(FORMS)}")
        if difficulty.form == "dense" and self.cone:
            raise SettingsError("rule110 with a cone reads what its first bit follows from; it has no form 'dense'")
        if not 1 <= difficulty.windows <= self.strings:
            raise SettingsError(f"{difficulty.windows} windows, but the task has {self.strings} strings")
        if difficulty.depth not in self.depths:
            raise SettingsError(f"depth {difficulty.depth} is none of the steps that are asked, {list(self.depths)}")


def _trace(after: np.ndarray, t: np.ndarray, cone: bool, number: int, passes: int) -> Tensor:
    """What the tokens of a window should tell behind a pass: the automaton on its way.

    ``after`` are the bits that were read behind 0, 1, ... steps, ``[t, B, bits]``. The passes but the last share the t
    steps, and the last one stores what they found: what its blocks put out is dropped with the window. A single pass
    has to make all steps. Behind s steps the token of bit j is asked for bit j - s, which follows from bits j - 2s to
    j; where these go round the ring, from the fast weights that the pass before has left. With a ``cone`` these are not
    asked for, and the token that ends the window is asked for what the one before it is.
    """
    _, rows, bits = after.shape
    shares = max(1, passes - 1)
    done = t * min(number, shares) // shares
    place = np.arange(bits)
    told = after[done[:, None], np.arange(rows)[:, None], (place - done[:, None]) % bits]
    told = np.where(place >= 2 * done[:, None], told, IGNORE) if cone else told
    ends = [told[:, -1:]] if cone else []
    return torch.from_numpy(np.concatenate((np.full((rows, 2), IGNORE), told, *ends), 1))


def _window(ids: np.ndarray, labels: np.ndarray, depth: np.ndarray) -> Window:
    return Window(ids=torch.from_numpy(ids), labels=torch.from_numpy(labels), depth=torch.from_numpy(depth))
