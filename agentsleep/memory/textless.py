"""A thread without what was said in it: states and how they descend from each other, and nothing that tells text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from agentsleep.archive import JSON, Event, Snapshot
from agentsleep.errors import ArchiveError

TEXTLESS = "textless"
"""In a mark: what was slept on is not in the log."""

# Of a sleep's mark: numbers, and why it slept. Not `pinned`, which is the system message in tokens.
_KEPT = ("passes", "rounds", "first", "windows", "tally", "reason", "number")


def without_text(events: Sequence[Event], snapshots: Sequence[Snapshot]) -> tuple[list[Event], list[Snapshot]]:
    """The marks of the sleeps alone, one for each snapshot, counted from 0 and at position 0; and the snapshots with
    spans of these.

    A session with this log goes on from its newest state with an empty window: no token lies before it.

    Args:
        events: the whole log.  snapshots: of the log, oldest first.
    """
    marks, line = [], []
    for place, snapshot in enumerate(snapshots):
        mark = events[snapshot.span[1] - 1]
        data: dict[str, JSON] = {key: mark.data[key] for key in _KEPT if key in mark.data}
        data |= {"number": place + 1, "start": 0, "stop": 0, "pinned": [], "pins_seq": None, "next_seq": place + 1}
        data |= {"open_turn": False, TEXTLESS: True}
        marks.append(replace(mark, seq=place, position=0, role=None, text=None, token_ids=(), data=data))
        line.append(replace(snapshot, span=(place, place + 1), tokens=0))
    return marks, line


def textless(event: Event) -> bool:
    """Whether it is the mark of a sleep on what the log does not hold."""
    return bool(event.data.get(TEXTLESS))


def check_text(event: Event) -> None:
    """Refuses to do without what a sleep has read.

    Raises:
        ArchiveError: it is not in the log.
    """
    if textless(event):
        mark: Any = event.data
        raise ArchiveError(
            f"what the thread's first {mark['number']} sleeps have read is not in its log: it was imported without its "
            "texts, so these states cannot be computed again; begin with the last of them (start=), or import an "
            "export that has the texts"
        )
