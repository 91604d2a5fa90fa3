"""A state is a function of (model, settings, event log): this file evaluates it."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from agentsleep.archive import Event
from agentsleep.backends import Backend
from agentsleep.memory.textless import check_text, textless
from agentsleep.state import FastWeights


@dataclass(frozen=True)
class SleptWindow:
    """A window as a sleep mark remembers it: what was pinned at its head, and its tokens of the log."""

    pinned: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def ids(self) -> list[int]:
        """All that was read in it."""
        return [*self.pinned, *self.tokens]


def slept_windows(events: Iterable[Event]) -> list[SleptWindow]:
    """The windows that light sleeps consolidated, oldest first, from a whole log."""
    stream: list[int] = []
    windows = []
    for event in events:
        stream += event.token_ids
        if event.kind == "sleep" and not textless(event):
            windows.append(_window(event.data, stream))
    return windows


def _window(mark: Any, stream: Sequence[int]) -> SleptWindow:
    return SleptWindow(tuple(mark["pinned"]), tuple(stream[mark["start"] : mark["stop"]]))


def deep(backend: Backend, windows: Sequence[SleptWindow], state: FastWeights, passes: int, rounds: int) -> FastWeights:
    """The canonical deep sleep on windows of the log."""
    return backend.consolidate_deep([window.ids for window in windows], state, passes, rounds)


def replay(
    backend: Backend,
    events: Iterable[Event],
    opened: FastWeights | None = None,
    start: int = 0,
    *,
    passes: int | None = None,
    rounds: int | None = None,
) -> FastWeights:
    """Computes the state that a log leads to. In an equal environment it is bit-equal to the stored one.

    Args:
        events: the log from its beginning.
        opened, start: the state that its events up to seq ``start``, exclusive, have led to already.
        passes, rounds: other ones than in the marks.
    """
    stream: list[int] = []
    windows: list[SleptWindow] = []
    state = opened if opened is not None else FastWeights()
    for event in events:
        stream += event.token_ids
        mark: Any = event.data
        if textless(event):
            if event.seq >= start:
                check_text(event)
        elif event.kind == "sleep":
            windows.append(_window(mark, stream))
            if event.seq >= start:
                state = backend.consolidate(windows[-1].ids, state, passes or mark["passes"])
        elif event.kind == "deep_sleep" and event.seq >= start:
            visits = windows[mark["first"] :]
            state = deep(backend, visits, state, passes or mark["passes"], rounds or mark["rounds"])
    return state


@dataclass(frozen=True)
class Tally:
    """deep: deep sleeps so far.  passes: passes over windows in all sleeps so far. Each mark carries it on."""

    deep: int = 0
    passes: int = 0

    @classmethod
    def of(cls, mark: Any, events: Callable[[], Iterable[Event]]) -> Tally:
        """As a mark has it; counted from the log, ``events``, where the mark is from before there were tallies."""
        if "tally" in mark:
            return cls(**mark["tally"])
        marks: list[Any] = [event.data for event in events() if event.kind != "tokens"]
        passes = sum(mark["passes"] * mark.get("rounds", 1) * mark.get("windows", 1) for mark in marks)
        return cls(sum("rounds" in mark for mark in marks), passes)

    def light(self, passes: int) -> Tally:
        """With one more light sleep."""
        return Tally(self.deep, self.passes + passes)

    def deeper(self, passes: int, rounds: int, windows: int) -> Tally:
        """With one more deep sleep."""
        return Tally(self.deep + 1, self.passes + passes * rounds * windows)


def environment(backend: Backend) -> dict[str, str | int]:
    """What a bit-equal replay depends on besides the log and the model."""
    return {
        "torch": torch.__version__,
        "dtype": str(backend.model.dtype).removeprefix("torch."),
        "device": backend.device.type,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "machine": platform.machine(),
    }
