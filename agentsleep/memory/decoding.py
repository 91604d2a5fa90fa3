"""Feeding tokens to a window that sleeps when it is full, and writing a turn token by token."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from agentsleep.backends import LiveWindow
from agentsleep.memory.depth import Depth, consolidate
from agentsleep.memory.sampling import Sampling
from agentsleep.tokens import decode_text

__all__ = ["Noted", "Reader", "Sampling", "Scratch", "feed", "write"]


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
    by the window when it is yielded.

    A stop string, or another token that the caller named as an end, ends the turn as well; ``end`` is then read and
    yielded behind it, over and above ``max_new_tokens``, so that the conversation stays in its format.

    Raises:
        SettingsError: the options leave no token to choose from.
    """
    feed(reader, prompt, empty, noted)
    generator, scoring = sampling.generator(), Scoring(sampling, reader.window, end)
    stop = Stop(sampling.stop_strings, reader.window.backend.tokenizer)
    for _ in range(sampling.max_new_tokens):
        assert reader.window.logits is not None
        token = sampling.pick(scoring(reader.window.logits), generator)
        feed(reader, [token], empty, noted)
        scoring.push(token)
        yield token
        if token == end:
            return
        if stop.push(token) or token in sampling.ends:
            feed(reader, [end], empty, noted)
            yield end
            return


class Scoring:
    """What the options of a turn do to its logits, given the tokens before them.

    These are the tokens of the window as the turn began, and all that was written since. They stay when a sleep falls
    into the turn, so that it does not begin to repeat itself behind it, and what counts tokens counts on.
    """

    def __init__(self, sampling: Sampling, window: LiveWindow, end: int) -> None:
        assert window.logits is not None, "a turn begins with its prompt"
        self._ids, self._device = [*window.ids], window.logits.device
        self._processors = sampling.processors(end, len(self._ids), self._device)

    def __call__(self, logits: Tensor) -> Tensor:
        """Scores ``[vocab]`` from logits ``[vocab]``, which stay as they are."""
        if not self._processors:
            return logits
        ids: Any = torch.tensor([self._ids], device=self._device)
        scores: Tensor = self._processors(ids, logits.to(copy=True, dtype=torch.float32)[None])
        return scores[0]

    def push(self, token: int) -> None:
        """A token was written."""
        self._ids.append(token)


class Stop:
    """Finds stop strings in the text of a turn, over the borders of its tokens."""

    def __init__(self, stop_strings: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> None:
        self._strings, self._tokenizer = stop_strings, tokenizer
        # A token is a byte at least, so this many hold the longest string, and before it the rest of a character.
        self._most = 4 + max((len(text.encode(errors="surrogatepass")) for text in stop_strings), default=0)
        self._tail: list[int] = []
        self._whole = True

    def push(self, token: int) -> bool:
        """Whether the text holds a stop string, now that this token is written."""
        if not self._strings:
            return False
        self._tail.append(token)
        if len(self._tail) > self._most:
            del self._tail[0]
            self._whole = False
        text = decode_text(self._tokenizer, self._tail)
        if self._whole:
            text = text.removeprefix(" ")  # which belongs to the format
        return any(stop in text for stop in self._strings)
