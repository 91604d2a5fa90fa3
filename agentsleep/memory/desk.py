"""Where the open window of a session lies: one writer at a time, over threads, streams and processes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from agentsleep.archive import JSON, SessionLock, SessionRecord
from agentsleep.errors import ArchiveError, InputError, SessionBusy, SessionClosed
from agentsleep.memory import caller
from agentsleep.memory.decoding import Sampling
from agentsleep.memory.queue import FairLock
from agentsleep.memory.shared import Shared
from agentsleep.memory.sleeping import Stamp, stamp_of
from agentsleep.memory.turn import Turn
from agentsleep.memory.window import OpenWindow

_POLL_S = 0.05
_SURE_S = 0.5  # for so long after a session was taken up again it is not asked anew whether a worker has slept for it


class Desk:
    """Holds the session's lock from its making to :meth:`close`, but while it is parked.

    Locks are taken in this order: the session's (across processes), the desk's door, the model's queue, and for moments
    the residency's. Who has the model never waits for a door, since its holder may be waiting for the model; the
    residency never waits for one either, since the doors that it wants are those of other sessions. A parked desk takes
    the session's lock again from behind its door, and waits for it no longer than ``timeout``.

    Args:
        timeout: seconds to wait for another writer, be it another process or a stream of this one; also after parking.

    Raises:
        SettingsError: a timeout that is no number of seconds.  SessionBusy: another writer holds the session.
    """

    def __init__(self, shared: Shared, record: SessionRecord, timeout: float) -> None:
        self._shared, self._id, self._scope = shared, record.id, record.scope
        self._timeout = timeout
        self._archive = shared.archive.user(record.scope.tenant, record.scope.user)
        self._lock = SessionLock(self._archive, record.id, timeout)
        self._door, self._model, self._residency = FairLock(), shared.queue, shared.residency
        self._uses = 0  # callers inside, more than one where a callback of a turn uses its own session
        self._reading: OpenWindow | None = None
        self._turn: Turn | None = None  # that a stream is writing
        self._parked: Stamp | None = None  # as the session was left
        self._sure_until = 0.0
        self._lock.acquire()

    @contextmanager
    def using(self, turn: Turn | None = None) -> Iterator[OpenWindow]:
        """The open window, for one caller at a time. Whatever breaks off inside leaves the log as the truth, from which
        the window is then built again.

        Args:
            turn: the one that goes on; everybody else has to wait for its end.

        Raises:
            SessionClosed: after :meth:`close`.  SessionBusy: a stream is being written.
            SleepFailed, ArchiveError: the window cannot be built.
        """
        with self._inside():
            self._check_held()
            if self._turn is not turn:
                self._await_turn()
            with self._model:
                self._refresh()
                before = None
                self._uses += 1
                try:
                    reading = self._built()
                    before, logged = reading.place, reading.logged
                    yield reading
                except BaseException as error:
                    # A value that was refused before anything was done about it is no reason to read the window again.
                    if not isinstance(error, InputError) or self._reading is None or self._reading.place != before:
                        self.renew()
                    raise
                finally:
                    self._uses -= 1
                    if self._turn is not None and self._turn.over:
                        self._turn = None
            if reading.logged != logged and self._turn is None and not self._uses:
                self._said()

    def look(self) -> OpenWindow:
        """The open window, for reading: also while a stream is being written, and as it was left after a close, if it
        was at hand then."""
        with self._inside():
            self._unpark()
            self.end_abandoned()
            with suppress(ArchiveError):  # what is at hand can be looked at without it
                self._refresh()
            if self._reading is None:
                self._check_held()
                with self._model:
                    return self._built()
            return self._built() if self._lock.held else self._reading

    def park(self) -> None:
        """Lets other writers have the session until it is used next. The window stays at hand; it is read again if
        somebody has written in the meantime.

        Raises:
            SessionBusy: a turn is being written.  SessionClosed: after :meth:`close`.
        """
        with self._inside():
            if self._parked is not None:
                return
            self.end_abandoned()
            self._check_held()
            if self._turn is not None or self._uses:
                raise SessionBusy(f"the session of {self._scope} is writing a turn; park it when that has ended")
            self._parked = self._reading.stamp if self._reading else (0, 0, None, None)
            self._sure_until = 0.0
            self._lock.release()

    def _unpark(self) -> None:
        if self._parked is None:
            return
        self._lock.acquire()
        left, self._parked = self._parked, None
        found = None
        try:
            found = stamp_of(self._archive, self._id)
        finally:
            if found != left:  # also where it could not be read
                self.renew()
        self._sure_until = time.monotonic() + _SURE_S

    def renew(self) -> None:
        """The next use builds the window again."""
        self._reading = None
        self._residency.leave(self)

    def let_go(self) -> bool:
        """Drops the window if nobody is using it, see :class:`agentsleep.memory.residency.Resident`."""
        if not self._door.acquire(wait=False):
            return False
        try:
            if self._uses or self._turn is not None:
                return False
            self._reading = None
            return True
        finally:
            self._door.release()

    def close(self) -> None:
        """Ends a turn that is being written and lets another writer have the session; again, it does nothing."""
        with caller.regardless(), self._inside():
            try:
                if self._lock.held:
                    self._end_turn()
            finally:
                self._parked = None
                self._residency.leave(self)
                self._lock.release()

    def end_abandoned(self) -> None:
        """Ends the turn of a stream that nobody holds any more."""
        turn = self._turn
        if turn is None or not turn.abandoned:
            return  # without waiting for whoever is inside
        with self._inside():
            if turn is self._turn and self._lock.held:
                self._end_turn()

    # Streams

    def begin(self, sampling: Sampling, data: Mapping[str, JSON] | None = None) -> Turn:
        """A turn that is written step by step; the desk belongs to it until it is over. ``data`` is for the log."""
        with self.using() as reading:
            self._turn = Turn(reading, sampling, data)
            return self._turn

    def step(self, turn: Turn) -> int | None:
        """The turn's next token; None when it is on disk, also where another thread has ended it meanwhile."""
        with self.using(turn):
            return None if turn.over else turn.step()

    def end(self, turn: Turn) -> None:
        """Ends a turn early; does nothing if it is over."""
        with caller.regardless(), self._inside():
            if turn is self._turn:
                self._end_turn()

    @contextmanager
    def _inside(self) -> Iterator[None]:
        if not self._door.acquire(wait=not self._model.mine):
            raise SessionBusy(
                f"the session of {self._scope} is in use by another thread, and this one is in the middle of a turn of "
                "another session; use it before or after that turn"
            )
        try:
            yield
        finally:
            if self._door.mine:  # not so after an interrupt of a wait that had let go of it
                self._door.release()

    def _refresh(self) -> None:
        # A turn that is being written goes on from the state that it began with, unless its window overflows.
        if self._turn is not None or self._uses or not self._lock.held or time.monotonic() < self._sure_until:
            return
        if self._reading is not None and self._reading.moved:
            self._reading = None

    def _said(self) -> None:
        if self._shared.said is not None:
            self._shared.said(self._archive, self._id)

    def _built(self) -> OpenWindow:
        """Called with the model in hand where there is something to build."""
        self._residency.admit(self)
        if self._reading is None:
            try:
                self._reading = OpenWindow(self._shared, self._id, self._scope)
            except BaseException:
                self._residency.leave(self)
                raise
        return self._reading

    def _check_held(self) -> None:
        self._unpark()
        if not self._lock.held:
            raise SessionClosed(f"the session of {self._scope} is closed; open it again with memory.session(...)")

    def _await_turn(self) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            self.end_abandoned()
            turn = self._turn
            if turn is None:
                return self._check_held()  # it may have been closed meanwhile
            left = deadline - time.monotonic()
            if left <= 0 or turn.caller == caller.identity() or self._model.mine:
                raise SessionBusy(
                    f"the session of {self._scope} is writing a turn to a stream; read that stream to its end or "
                    "close() it, or close the session"
                )
            self._door.release()
            turn.ended.wait(min(left, _POLL_S))  # nobody tells when a stream is abandoned
            self._door.acquire()

    def _end_turn(self) -> None:
        if self._turn is None:
            return
        with self._model:
            turn, self._turn = self._turn, None
            try:
                turn.end()
            except BaseException:
                self.renew()
                raise
        self._said()
