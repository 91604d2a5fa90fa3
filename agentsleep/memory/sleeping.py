"""The open window of a session: built from the archive, slept on, stored."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Literal, TypeAlias

from agentsleep.archive import JSON, Event, NewEvent, Scope, SessionRecord, Snapshot, UserArchive
from agentsleep.backends import LiveWindow
from agentsleep.errors import SleepFailed, SnapshotConflict
from agentsleep.gauge import saturation
from agentsleep.memory.decoding import feed
from agentsleep.memory.depth import Depth, Probing, consolidate
from agentsleep.memory.later import taken
from agentsleep.memory.lineage import Tally, deep, environment, slept_windows
from agentsleep.memory.pins import Pins
from agentsleep.memory.shared import Shared
from agentsleep.memory.states import from_bytes, to_bytes
from agentsleep.memory.values import SleepFinished, SleepListener, SleepStarted
from agentsleep.policy import Passes
from agentsleep.state import FastWeights

Stamp: TypeAlias = tuple[int, int, str | None, Event | None]


def stamp_of(archive: UserArchive, session_id: str) -> Stamp:
    """Of a session as the archive has it: equal if nobody has written in between, since what was forgotten and followed
    by as much else ends otherwise."""
    record, last = archive.since(session_id, None)
    return record.events, record.tokens, record.head, last[0] if last else None


class SleepingWindow:
    """Built from the archive: the head's state, then the log behind it. It sleeps; :class:`OpenWindow` also hears and
    speaks.

    The log is the truth, and this is what follows from it. Whoever sees a method break off throws the object away and
    builds another one; nothing is mended in place.

    Args:
        upto: tokens of the log behind which nothing is read, for somebody who does not hold the session's lock. Whoever
            holds it may write on meanwhile; that is left to the next window.

    Raises:
        ArchiveError: what it is built from cannot be read.
        SleepFailed, ArchiveFull: the log holds more than a window, and the sleep that this takes was not possible.
    """

    def __init__(self, shared: Shared, session_id: str, scope: Scope, *, upto: int | None = None) -> None:
        self._backend, self._format = shared.backend, shared.chat
        self._archive = shared.archive.user(scope.tenant, scope.user)
        self._policy, self._probes, self._prober = shared.policy, shared.probes, shared.prober
        self._id, self._upto = session_id, upto
        self._tell: SleepListener = shared.slept or (lambda told: None)
        self._pending: list[int] = []  # of a turn that is being written: read, but not yet in the log
        self._parting = False  # whether the sleep under way puts what is pending into the log
        self._turn_logged = False  # whether a sleep has put the beginning of that turn into the log
        self.dated: datetime | None = None  # when what is now read was first said, where that was not now
        self._mark = self._build()

    def _build(self) -> dict[str, Any]:
        """Reads the head and the log behind it, and what is pending behind that; returns the head's mark."""
        record = self._archive.session(self._id)
        self._events, self._logged = record.events, record.tokens
        self.head: Snapshot | None = None
        state, mark = FastWeights(), dict[str, Any](stop=0, next_seq=0, pins_seq=None, number=0, tally={})
        if record.head is not None:
            state, mark = self._read_head(record)
        self.tally = Tally.of(mark, lambda: self._archive.events(self._id))
        self.number: int = mark["number"]  # snapshots that the head descends from, itself included
        self._start: int = mark["stop"]  # tokens of the log before this window
        events = self._archive.events(self._id, mark["next_seq"])
        self._last = events[-1] if events else None
        self._pins_seq: int | None = max((e.seq for e in events if "pins" in e.data), default=mark["pins_seq"])
        pinned = None if self._pins_seq is None else self._event(self._pins_seq)
        self.pins = Pins.of(pinned) if pinned else Pins()
        self._chat = self._format.with_tools(self.pins.tools)
        settings = self._backend.settings
        stored = Pins.rendered(pinned, settings) if pinned else None
        self.pinned = self.pins.render(self._chat, settings) if stored is None else stored
        self._heard = [event for event in events if event.token_ids]  # whose last token is not yet slept on
        self._open_turn = bool(mark.get("open_turn")) and not self._heard
        end = self._logged if self._upto is None else self._upto
        parts = [e.token_ids[max(0, self._start - e.position) : max(0, end - e.position)] for e in self._heard]
        self._enter(state, [*parts, self._pending])
        return mark

    @property
    def moved(self) -> bool:
        """Whether a worker has slept for the session since this was built."""
        return self._archive.session(self._id).head != (self.head.id if self.head else None)

    def catch_up(self) -> bool:
        """Takes over a head that a worker has moved: what it has not slept on is read onto the new state, also of a
        turn that is being written. False if the head is where it was."""
        if not self.moved:
            return False
        self._parting = False
        self._build()
        return True

    @property
    def logged(self) -> int:
        """Tokens in the log."""
        return self._logged

    @property
    def events(self) -> int:
        """Events in the log."""
        return self._events

    @property
    def stamp(self) -> Stamp:
        """See :func:`stamp_of`."""
        if self._last is None and self._events:
            self._last = self._event(self._events - 1)
        return self._events, self._logged, self.head.id if self.head else None, self._last

    @property
    def slept_on(self) -> int:
        """Tokens of the log that lie before the window."""
        return self._start

    @property
    def place(self) -> tuple[LiveWindow, int, int]:
        """Where it stands: equal before and after what has changed nothing."""
        return self.window, len(self.window), self._events

    @property
    def tokens(self) -> int:
        """Tokens ever said in the session."""
        return self._logged + len(self._pending)

    def depth(self, passes: Passes | None = None) -> Depth:
        """How deep a sleep is: as the caller says, else the policy, else the model."""
        said = passes or self._policy.passes or self._backend.settings.passes
        if said != "auto":
            return said
        return Probing(tuple([*self.pinned, *probe] for probe in self._probes), self._policy.max_passes)

    @property
    def empty(self) -> int:
        """Tokens that a fresh window holds besides what is pinned."""
        return self._backend.settings.window - len(self.pinned)

    # Building it

    def _read_head(self, record: SessionRecord) -> tuple[FastWeights, dict[str, Any]]:
        """The state that the window opens with, and the mark of the sleep that left it."""
        assert record.head is not None
        self.head = self._archive.snapshot(record.head)
        state = from_bytes(self._archive.load_state(record.head))
        self._prober.check(self.head, state)  # a restore is never a silent nothing
        return state, dict(self._event(self.head.span[1] - 1).data)

    def _event(self, seq: int) -> Event:
        return self._archive.events(self._id, seq, seq + 1)[0]

    def _enter(self, state: FastWeights, parts: Sequence[Sequence[int]]) -> None:
        """Reads what is pinned and the parts that fit behind it in one forward, the others as if just heard."""
        together, later = list(self.pinned), list(parts)
        while later and len(together) + len(later[0]) <= self._backend.settings.window:
            together += later.pop(0)
        self.window = LiveWindow(self._backend, state)
        self.window.read(together)
        for part in later:
            feed(self, part, self.empty)

    def _append(self, event: NewEvent) -> Event:
        stored = self._last = self._archive.append(self._id, [event])[0]
        self._events, self._logged = stored.seq + 1, stored.position + len(stored.token_ids)
        if stored.token_ids:
            self._heard.append(stored)
        return stored

    # Sleep

    def due(self, more: int = 0) -> bool:
        """Whether the policy wants a sleep, now or before a message of ``more`` tokens."""
        if len(self.window) <= len(self.pinned):
            return False
        messages = len(self._heard) + (more > 0)
        return self._policy.due(tokens=len(self.window) + more, messages=messages, window=self._backend.settings.window)

    def sleep_if_due(self, more: int = 0) -> None:
        """Sleeps if the policy wants it, now or before a message of ``more`` tokens."""
        if self.due(more):
            self._sleep_by_itself("policy", more)

    def make_room(self, more: int = 0) -> None:
        """Sleeps because the window is full, or does not hold ``more`` tokens."""
        self._sleep_by_itself("overflow", more)

    def _sleep_by_itself(self, reason: str, more: int) -> None:
        """If a job is queued for the session, this is its sleep."""
        with taken(self._archive, self._id) as job:
            behind = self._start + len(self.window) - len(self.pinned) - job.stop
            job.snapshot = self.sleep(reason, self.depth(job.passes), min(self._kept(more), max(0, behind)))

    def _kept(self, more: int) -> int:
        """How many of the last tokens the policy keeps in the window, so that ``more`` still fit behind them."""
        said = self._start + len(self.window) - len(self.pinned) - len(self._pending)
        parts = [(max(e.position, self._start), min(e.position + len(e.token_ids), said)) for e in self._heard]
        lengths = [stop - start for start, stop in parts if stop > start]
        lengths += [len(self._pending)] if self._pending else []
        count = self._policy.kept(lengths, window=self._backend.settings.window, room=self.empty - more)
        return sum(lengths[len(lengths) - count :])

    def sleep(self, reason: str, depth: Depth, keep: int = 0) -> Snapshot | None:
        """Light sleep: compute, store, move the head, and only then open the next window. None if nothing was read.

        If a worker was faster, its state is taken over, and what it has left is slept on.

        Args:
            keep: how many of the last tokens are not slept on; the next window starts with them.
        """
        try:
            return self._sleep(reason, depth, keep)
        except SnapshotConflict:
            if not self.catch_up():
                raise
        return self.sleep(reason, depth, keep) or self.head

    def _sleep(self, reason: str, depth: Depth, keep: int) -> Snapshot | None:
        content = len(self.window) - len(self.pinned) - keep
        if content <= 0:
            return None
        planned = None if isinstance(depth, Probing) else depth
        self._tell(SleepStarted(session=self._id, mode="light", trigger=reason, tokens=content, passes=planned))
        began = time.perf_counter()
        covered = len(self.pinned) + content
        kept = self.window.ids[covered:]
        state, passes, probe_tokens = consolidate(self.window, depth, covered)
        ms = 1000 * (time.perf_counter() - began)
        events, tally = [], self.tally.light(passes)
        self._parting = bool(self._pending) and not keep
        if self._parting:  # a turn that is still being written; its end follows behind the mark
            part = {"generated": True, "open": True}
            ids = tuple(self._pending)
            events.append(NewEvent(kind="tokens", role="assistant", token_ids=ids, data=part, created=self.dated))
        stop = self._start + content
        unread = [event for event in self._heard if event.position + len(event.token_ids) > stop]
        mark: dict[str, JSON] = {
            "start": self._start,
            "stop": stop,
            "pinned": self.pinned,
            "pins_seq": self._pins_seq,
            "next_seq": self._next_seq(unread, len(events) + 1),
            "number": self.number + 1,
            "passes": passes,
            "tally": asdict(tally),
            "reason": reason,
            "open_turn": self._parting,
        }
        events.append(NewEvent(kind="sleep", data=mark, created=self.dated))
        metrics = {"ms": ms, "tokens": content} | ({"probe_tokens": probe_tokens} if probe_tokens else {})
        snapshot = self._commit(state, events, passes, 1, reason, "light", metrics)
        self.tally = tally
        if self._parting:
            self._turn_logged, self._pending, self._parting = True, [], False
        self._heard, self._start = unread, stop
        self._enter(state, [kept])
        return snapshot

    def _next_seq(self, unread: Sequence[Event], more: int) -> int:
        """The first event that is not wholly slept on, once ``more`` are in the log. Behind the place up to which this
        is read there may be others by then."""
        return unread[0].seq if unread else self._events + (more if self._upto is None else 0)

    def sleep_deep(self, passes: int, rounds: int, windows: int | None, reason: str = "asked") -> Snapshot | None:
        """Deep sleep on the newest ``windows`` archived windows (None: all); None if there are none yet. The open
        window is empty: a light sleep comes before it."""
        try:
            return self._sleep_deep(passes, rounds, windows, reason)
        except SnapshotConflict:
            if not self.catch_up():
                raise
        return self.sleep_deep(passes, rounds, windows, reason)

    def _sleep_deep(self, passes: int, rounds: int, windows: int | None, reason: str) -> Snapshot | None:
        archived = slept_windows(self._archive.events(self._id))
        if not archived:
            return None
        first = 0 if windows is None else max(0, len(archived) - windows)
        length = sum(len(window.ids) for window in archived[first:])
        self._tell(
            SleepStarted(session=self._id, mode="deep", trigger=reason, tokens=length, passes=passes, rounds=rounds)
        )
        began = time.perf_counter()
        state = deep(self._backend, archived[first:], self.window.opened, passes, rounds)
        ms = 1000 * (time.perf_counter() - began)
        tally = self.tally.deeper(passes, rounds, len(archived) - first)
        mark: dict[str, JSON] = {
            "first": first,
            "windows": len(archived) - first,
            "passes": passes,
            "rounds": rounds,
            "tally": asdict(tally),
            "stop": self._start,
            "pins_seq": self._pins_seq,
            "next_seq": self._next_seq(self._heard, 1),
            "number": self.number + 1,
            "open_turn": self._open_turn,
        }
        read = rounds * length
        event = NewEvent(kind="deep_sleep", data=mark, created=self.dated)
        snapshot = self._commit(state, [event], passes, rounds, reason, "deep", {"ms": ms, "tokens": read})
        self.tally = tally
        self._enter(state, ())
        return snapshot

    def _commit(
        self,
        state: FastWeights,
        events: Sequence[NewEvent],
        passes: int,
        rounds: int,
        trigger: str,
        mode: Literal["light", "deep"],
        metrics: Mapping[str, JSON],
    ) -> Snapshot:
        bad = "NaN or Inf" if not state.is_finite() else "an empty state" if state.norm() == 0 else None
        if bad is not None:
            raise SleepFailed(
                f"a {mode} sleep of {passes} passes gave {bad}; the state from before it stays, and so does what was "
                "said; sleep with fewer passes, or fork an earlier snapshot"
            )
        before = self.window.opened.only("recurrent")
        change = max(state.only("recurrent").diff(before).values())
        head = self._archive.commit_snapshot(
            self._id,
            expected_head=self.head.id if self.head else None,
            state=to_bytes(state),
            events=events,
            fingerprint=self._backend.fingerprint,
            passes=passes,
            rounds=rounds,
            trigger=trigger,
            mode=mode,
            environment=environment(self._backend),
            metrics={
                **metrics,
                "norm": state.norm(),
                "largest_change": change,
                "saturation": saturation(state).overall,
            },
            probe=self._prober.ask(state),
            expected_events=self._events if self._upto is None else None,
        )
        self.head, self.number = head, self.number + 1
        self._last = None  # the archive has written it
        if self._upto is None:
            self._events, self._logged = head.span[1], head.tokens
        ms, tokens = metrics["ms"], metrics["tokens"]
        assert isinstance(ms, float) and isinstance(tokens, int)
        self._tell(
            SleepFinished(
                session=self._id,
                mode=mode,
                trigger=trigger,
                tokens=tokens // rounds,
                passes=passes,
                rounds=rounds,
                ms=ms,
                snapshot=head.id,
            )
        )
        return head
