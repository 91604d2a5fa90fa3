"""Feeding tokens to a window that sleeps when it is full, and writing a turn token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from agentsleep.backends import LiveWindow
from agentsleep.errors import SettingsError


class Reader(Protocol):
    """Whoever holds an open window."""

    window: LiveWindow

    def make_room(self) -> None:
        """Sleeps on the window and opens the next one."""


class Scratch:
    """A reader whose sleeps stay in memory: for questions that leave no trace."""

    def __init__(self, window: LiveWindow, pinned: Sequence[int], passes: int) -> None:
        self.window, self._pinned, self._passes = window, pinned, passes

    def make_room(self) -> None:
        """Sleeps without storing anything."""
        self.window = LiveWindow(self.window.backend, self.window.sleep(self._passes))
        self.window.read(self._pinned)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen: greedily at temperature 0, else from the ``top_p`` mass, with its own seed.

    Raises:
        SettingsError: a value out of its range.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise SettingsError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1")
        if self.temperature < 0:
            raise SettingsError(f"temperature is {self.temperature}; it must be 0 (greedy) or above")
        if not 0 < self.top_p <= 1:
            raise SettingsError(f"top_p is {self.top_p}; it must lie in (0, 1]")

    def pick(self, logits: Tensor, generator: torch.Generator | None) -> int:
        """A token id from logits ``[vocab]``."""
        if self.temperature == 0:
            return int(logits.argmax())
        ranked, order = (logits.float() / self.temperature).softmax(-1).sort(descending=True)
        ranked[(ranked.cumsum(-1) - ranked) >= self.top_p] = 0.0
        return int(order[torch.multinomial(ranked, 1, generator=generator)])

    def generator(self) -> torch.Generator | None:
        """The source of randomness; None for the global one."""
        return None if self.seed is None else torch.Generator().manual_seed(self.seed)


Noted = Callable[[Sequence[int]], None]


def feed(reader: Reader, ids: Sequence[int], empty: int, noted: Noted | None = None) -> None:
    """Reads tokens, sleeping where they would overflow the window.

    Args:
        empty: tokens that a fresh window holds besides what is pinned. What fits into it whole is not cut.
        noted: called with the tokens of each read, once they are read.
    """
    rest = list(ids)
    if reader.window.free < len(rest) <= empty:
        reader.make_room()
    while rest:
        if reader.window.free == 0:
            reader.make_room()
        now, rest = rest[: reader.window.free], rest[reader.window.free :]
        reader.window.read(now)
        if noted is not None:
            noted(now)


def write(
    reader: Reader,
    prompt: Sequence[int],
    end: int,
    sampling: Sampling,
    empty: int,
    noted: Noted | None = None,
) -> Iterator[int]:
    """Reads the prompt, then yields token after token up to ``end`` or ``max_new_tokens``. Each token has been read
    by the window when it is yielded."""
    feed(reader, prompt, empty, noted)
    generator = sampling.generator()
    for _ in range(sampling.max_new_tokens):
        assert reader.window.logits is not None
        token = sampling.pick(reader.window.logits, generator)
        feed(reader, [token], empty, noted)
        yield token
        if token == end:
            return
