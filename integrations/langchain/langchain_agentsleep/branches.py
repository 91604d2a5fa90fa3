"""One session of a LangChain thread, and what this process knows of its log."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from agentsleep.archive import Event, SessionRecord, UserArchive
from agentsleep.memory import Position, Session
from agentsleep.policy import SleepPolicy
from langchain_agentsleep.alignment import Line
from langchain_agentsleep.messages import Listed, Logged, logged


class Handle(TypedDict):
    """Where an agent's memory stands: small, and kept in its state, where tensors have no place.

    session: its id.  snapshot: the newest archived state; None before the first sleep.
    position: events in the session's log.
    """

    session: str
    snapshot: str | None
    position: int


@dataclass
class Branch:
    """A session of a thread, and what is known of its log."""

    record: SessionRecord
    session: Session | None = None
    policy: SleepPolicy | None = None
    said: list[Logged] = field(default_factory=list)
    slept: int = 0
    using: threading.Lock = field(default_factory=threading.Lock)
    _tail: list[Event] = field(default_factory=list)  # the last event that was looked at, and the turn it may belong to
    _seen: int = 0

    @property
    def next(self) -> int:
        """The seq from which on :meth:`take` wants the log: the last event that was seen."""
        return max(0, self._seen - 1)

    @property
    def seen(self) -> int:
        """How many events of the log were looked at."""
        return self._seen

    def refresh(self, archive: UserArchive) -> None:
        """Reads what the log holds besides what was seen of it; all of it where that has changed."""
        self.take(archive, *archive.since(self.record.id, self.next))

    def take(self, archive: UserArchive, record: SessionRecord, events: Sequence[Event]) -> None:
        """The same, with the events from :attr:`next` on at hand."""
        self.record = record
        if self._seen and (not events or events[0] != self._tail[-1]):
            self.said, self.slept, self._tail, self._seen = [], 0, [], 0
            events = archive.events(self.record.id)
        elif self._seen:
            events = events[1:]
        if events:
            whole = [*self._tail, *events]
            fresh = logged(whole)
            first = whole[0].seq
            self.said = [one for one in self.said if one.start < first] + fresh
            self._seen = events[-1].seq + 1
            self._tail = _unfinished(whole)
        self.slept = _slept(events, self.slept)

    @property
    def line(self) -> Line:
        """For alignment."""
        return Line(self.record.scope.thread, tuple(self.said), self.slept)

    def position(self, stands: int, handle: Handle | None = None) -> int:
        """The seq at which the log goes on behind its first ``stands`` messages; with a handle that was taken there,
        behind the sleeps that it has seen as well."""
        stop = self.said[stands - 1].stop if stands else 0
        if handle is None or handle["session"] != self.record.id or self.stood(handle) != stands:
            return stop
        return max(stop, handle["position"])

    def stood(self, handle: Handle) -> int:
        """How many of its messages had been said when a handle was taken."""
        return sum(one.stop <= handle["position"] for one in self.said)


def _unfinished(events: Sequence[Event]) -> list[Event]:
    """The last event, and what stands before it of the same message."""
    start = len(events) - 1
    while start > 0:
        about: Any = events[start].data.get("metadata") or {}
        part = (about.get("langchain") or {}).get("part", 0)
        before = events[start - 1]
        if not (part or events[start].kind != "tokens" or before.data.get("open") or events[start].data.get("open")):
            break
        start -= 1
    return list(events[start:])


def _slept(events: Sequence[Event], before: int) -> int:
    """Tokens of the log that are consolidated."""
    stops = [event.data["stop"] for event in events if event.kind != "tokens"]
    return int(stops[-1]) if stops and isinstance(stops[-1], int) else before


def handle_at(session: Session, place: Position) -> Handle:
    """The handle of a session that stands there."""
    return Handle(session=session.id, snapshot=place.head, position=place.events)


def handle_of(session: Session) -> Handle:
    """Where a session stands now."""
    return handle_at(session, session.position())


def close(branch: Branch) -> None:
    """Closes the session of a branch; it is opened again when it is used next."""
    session, branch.session = branch.session, None
    if session is not None:
        session.close()


def park(branch: Branch) -> None:
    """Other processes may write now. A session that cannot be parked is closed."""
    try:
        if branch.session is not None:
            branch.session.park()
    except BaseException:
        close(branch)
        raise


def read(session: Session, messages: Sequence[Listed], answered: bool) -> None:
    """Has a session read messages.

    Raises:
        As Session.add.
    """
    for place, one in enumerate(messages):
        follows = messages[place + 1].role == "assistant" if place + 1 < len(messages) else answered
        asked = follows and one.asks  # so that it sleeps where it slept when it gave that answer
        if not one.calls:
            session.add(one.role, one.text, asked=asked, metadata=one.metadata())
            continue
        for part, call in enumerate(one.calls):
            metadata = one.metadata(part, len(one.calls))
            session.add("assistant", one.text, calls=[call], metadata=metadata)
