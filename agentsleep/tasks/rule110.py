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

    The vocabulary: 0 and 1, a token for every t (``2 + t - 1``), a token for every position and one for every string.
    Where bits are ``tagged``, a bit's token also tells its position (``2 * position + bit`` behind all others), so that
    neighbours can be found across the seam of the ring.

    Where strings are ``centred``, the ring is read from its other side on: the first bit stands in the middle, at place
    ``bits // 2``, with its neighbours on both sides, and positions are places in that order. The form ``dense`` and the
    trace then leave out what follows from neighbours across the seam.

    A window reads ``string, t, bit 0, bit 1, ...``; a question reads ``string, t, position`` and its answer is a bit.
    So t is known before the sleep and after it, as in the paper, where a run has one t. Only multiples of ``stride``
    are asked.
    Two forms: ``plain`` asks the first bit of every string, as the paper does; ``dense`` all bits of one string a row.
    """

    bits: int = 24
    max_depth: int = 8
    strings: int = 1
    stride: int = 1
    tagged: bool = False
    centred: bool = False
    name: str = "rule110"

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.max_depth:
            raise SettingsError(
                f"the stride of rule110 is {self.stride}; it must lie in 1..{self.max_depth}, max_depth"
            )

    @property
    def vocab_size(self) -> int:
        return self._tags + (2 * self.bits if self.tagged else 0)

    @property
    def _tags(self) -> int:
        """The token of 0 at position 0, where bits are tagged."""
        return 2 + self.max_depth + self.bits + self.strings

    @property
    def window(self) -> int:
        return max(self.bits + 2, 3 * max(self.bits, self.strings))

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
        if difficulty.form not in FORMS:
            raise SettingsError(f"rule110 has no form {difficulty.form!r}; it has {', '.join(FORMS)}")
        if not 1 <= difficulty.windows <= self.strings:
            raise SettingsError(f"{difficulty.windows} windows, but the task has {self.strings} strings")
        if difficulty.depth not in self.depths:
            raise SettingsError(f"depth {difficulty.depth} is none of the steps that are asked, {list(self.depths)}")
        count = difficulty.windows
        start = rng.integers(0, 2, (size, count, self.bits))
        states = [start]
        for _ in range(difficulty.depth):
            states.append(step110(states[-1]))
        after = np.stack(states)  # [t, B, strings, bits]
        first = self.bits // 2 if self.centred else 0
        after = np.roll(after, first, -1)
        start = after[0]
        string_token = 2 + self.max_depth + self.bits + np.arange(count)
        t = difficulty.draw(rng, size, self.stride)
        rows = np.arange(size)
        read = self._tags + 2 * np.arange(self.bits) + start if self.tagged else start
        context = []
        for s in range(count):
            ids = np.concatenate((np.full((size, 1), string_token[s]), 2 + t[:, None] - 1, read[:, s]), 1)
            window = _window(ids, np.full_like(ids, IGNORE), np.zeros_like(ids))
            context.append(replace(window, trace=partial(_trace, after[:, :, s], t, not self.centred)))
        if difficulty.form == "dense":
            which = rng.integers(0, count, size)
            asked = [(which, np.full(size, p)) for p in rng.permutation(self.bits)]
        else:
            asked = [(np.full(size, s), np.full(size, first)) for s in range(count)]
        parts, labels, depth = [], [], []
        for string, position in asked:
            told = np.full(size, IGNORE)
            parts.append(np.stack((string_token[string], 2 + t - 1, 2 + self.max_depth + position), 1))
            answer = after[t, rows, string, position]
            if self.centred and difficulty.form == "dense":
                answer = np.where((position >= t) & (position + t < self.bits), answer, IGNORE)
            labels.append(np.stack((told, told, answer), 1))
            depth.append(np.stack((0 * t, 0 * t, t), 1))
        return Batch(
            context=context,
            questions=[_window(np.concatenate(parts, 1), np.concatenate(labels, 1), np.concatenate(depth, 1))],
        )


def _trace(after: np.ndarray, t: np.ndarray, ring: bool, number: int, passes: int) -> Tensor:
    """What the tokens of a window, ``[B, 2 + bits]``, should tell behind a pass: the automaton on its way.

    The first pass stores the string, the others share the t steps; a single pass leaves all to the question. Behind s
    steps the token of bit j is asked for bit j - s, which follows from bits j - 2s to j; where these go round the ring,
    from the fast weights that the pass before has left; without ``ring`` they are not asked for.
    """
    _, rows, bits = after.shape
    done = t * (number - 1) // max(1, passes - 1)
    place = np.arange(bits)
    told = after[done[:, None], np.arange(rows)[:, None], (place - done[:, None]) % bits]
    told = told if ring else np.where(place >= 2 * done[:, None], told, IGNORE)
    return torch.from_numpy(np.concatenate((np.full((rows, 2), IGNORE), told), 1))


def _window(ids: np.ndarray, labels: np.ndarray, depth: np.ndarray) -> Window:
    return Window(ids=torch.from_numpy(ids), labels=torch.from_numpy(labels), depth=torch.from_numpy(depth))
