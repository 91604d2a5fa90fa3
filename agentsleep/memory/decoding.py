"""Feeding tokens to a window that sleeps when it is full, and writing a turn token by token."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from agentsleep.backends import LiveWindow
from agentsleep.errors import SettingsError
from agentsleep.memory.depth import Depth, consolidate
from agentsleep.tokens import decode_text

_SEEDS = range(-(2**63), 2**64)  # what torch takes


class Reader(Protocol):
    """Whoever holds an open window."""

    window: LiveWindow

    def make_room(self, more: int = 0) -> None:
        """Sleeps on the window and opens the next one, which is to hold ``more`` tokens besides what stays."""


class Scratch:
    """A reader whose sleeps stay in memory: for questions that leave no trace."""

    def __init__(self, window: LiveWindow, pinned: Sequence[int], depth: Depth) -> None:
        self.window, self._pinned, self._depth = window, pinned, depth

    def make_room(self, more: int = 0) -> None:
        """Sleeps on all of the window without storing anything; nothing stays."""
        self.window = LiveWindow(self.window.backend, consolidate(self.window, self._depth).state)
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
        most = self.max_new_tokens
        if isinstance(most, bool) or not isinstance(most, int) or most < 1:
            raise SettingsError(f"max_new_tokens is {most!r}; it must be a whole number of at least 1")
        if not (_is_number(self.temperature) and self.temperature >= 0):
            raise SettingsError(f"temperature is {self.temperature!r}; it must be 0 (greedy) or a number above")
        if not (_is_number(self.top_p) and 0 < self.top_p <= 1):
            raise SettingsError(f"top_p is {self.top_p!r}; it must lie in (0, 1]")
        if self.seed is not None and not (isinstance(self.seed, int) and _SEEDS.start <= self.seed < _SEEDS.stop):
            raise SettingsError(f"seed is {self.seed!r}; it must be a whole number of 64 bits, or None")

    def pick(self, logits: Tensor, generator: torch.Generator | None) -> int:
        """A token id from logits ``[vocab]``."""
        if self.temperature == 0:
            return int(logits.argmax())
        below = logits.float() - logits.max()  # so that no temperature, however small, makes an Inf of the largest
        ranked, order = (below / self.temperature).softmax(-1).sort(descending=True)
        ranked[(ranked.cumsum(-1) - ranked) >= self.top_p] = 0.0
        return int(order[torch.multinomial(ranked, 1, generator=generator)])

    def generator(self) -> torch.Generator | None:
        """The source of randomness; None for the global one."""
        return None if self.seed is None else torch.Generator().manual_seed(self.seed)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


Noted = Callable[[Sequence[int]], None]


def feed(reader: Reader, ids: Sequence[int], empty: int, noted: Noted | None = None) -> None:
    """Reads tokens, sleeping where they would overflow the window.

    Args:
        empty: tokens that a fresh window holds besides what is pinned. What fits into it whole is not cut.
        noted: called with the tokens of each read, once they are read.
    """
    rest = list(ids)
    if reader.window.free < len(rest) <= empty:
        reader.make_room(len(rest))
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


class Spelling:
    """Turns the tokens of a turn into pieces of text that are never taken back; together they are the turn's text.

    Half of a character waits for its other bytes. The space behind the turn's marker belongs to the format.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._tokenizer = tokenizer
        self._waiting: list[int] = []
        self._begun = False

    def push(self, token: int) -> str:
        """The text that a further token makes certain."""
        self._waiting.append(token)
        return "" if decode_text(self._tokenizer, self._waiting).endswith("\ufffd") else self.rest()

    def rest(self) -> str:
        """What still waits, half characters as U+FFFD."""
        text = decode_text(self._tokenizer, self._waiting)
        self._waiting = []
        if not self._begun and text:
            self._begun, text = True, text.removeprefix(" ")
        return text
