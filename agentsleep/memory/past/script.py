"""What was done in a session, freed of what its policy did: the steps by which a log can be read again, otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from agentsleep.archive import Event
from agentsleep.memory.textless import check_text

_BY_ITSELF = ("policy", "overflow")


@dataclass(frozen=True, kw_only=True)
class Pinned:
    """Other pins."""

    event: Event


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A message. asked: an answer to it was asked for in the same breath, so that no sleep came in between."""

    event: Event

    @property
    def asked(self) -> bool:
        """See above."""
        return bool(self.event.data.get("asked"))


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """An assistant's turn. A sleep may have fallen into it: then it lies in the log in parts, of which the last tells
    its text."""

    parts: tuple[Event, ...]

    @property
    def event(self) -> Event:
        """The last part."""
        return self.parts[-1]

    @property
    def ids(self) -> list[int]:
        """All its tokens, the prompt included."""
        return [token for part in self.parts for token in part.token_ids]


@dataclass(frozen=True, kw_only=True)
class Slept:
    """A sleep that somebody asked for. windows: how many a deep one reads again; None: all.  rounds: 0 for a light one.
    trigger: why."""

    passes: int
    rounds: int = 0
    windows: int | None = None
    trigger: str
    created: datetime


Step: TypeAlias = Pinned | Heard | Spoken | Slept


def script(events: Sequence[Event], forget: Iterable[int] = ()) -> list[Step]:
    """The steps of a stretch of a log that begins where no turn is open.

    Args:
        forget: seqs of messages that are left out; a turn is left out whole.
    """
    gone = {*forget}
    steps: list[Step] = []
    positions: list[int] = []  # at which each step's tokens begin
    parts: list[Event] = []
    for event in events:
        check_text(event)
        if event.kind == "tokens":
            if "pins" in event.data:
                if event.seq in gone:
                    continue
                steps.append(Pinned(event=event))
            elif event.data.get("generated"):
                parts.append(event)
                if event.data.get("open"):
                    continue
                if gone.isdisjoint(part.seq for part in parts):
                    steps.append(Spoken(parts=tuple(parts)))
                    positions.append(parts[0].position)
                parts = []
                continue
            elif event.seq not in gone:
                steps.append(Heard(event=event))
            else:
                continue
            positions.append(event.position)
            continue
        mark: Any = event.data
        if event.kind == "sleep" and mark["reason"] in _BY_ITSELF:
            continue
        slept = _slept(event, mark)
        if parts:  # asked for in the middle of a turn that was cut off, or by another process
            steps.append(slept)
            positions.append(event.position)
            continue
        # A sleep that came late covers what lay before its end; what was said after that was read again behind it.
        place = len(steps)
        if event.kind == "sleep":
            while place and positions[place - 1] >= mark["stop"]:
                place -= 1
        steps.insert(place, slept)
        positions.insert(place, event.position if place == len(steps) - 1 else positions[place])
    if parts and gone.isdisjoint(part.seq for part in parts):
        steps.append(Spoken(parts=tuple(parts)))
    return steps


def _slept(event: Event, mark: Any) -> Slept:
    if event.kind == "sleep":
        return Slept(passes=mark["passes"], trigger=mark["reason"], created=event.created)
    windows = None if mark["first"] == 0 else mark["windows"]
    trigger = mark.get("reason", "asked")
    return Slept(passes=mark["passes"], rounds=mark["rounds"], windows=windows, trigger=trigger, created=event.created)
