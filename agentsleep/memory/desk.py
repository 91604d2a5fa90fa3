"""Where the open window of a session lies: one writer at a time, over threads, streams and processes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agentsleep.archive import SessionLock, SessionRecord
from agentsleep.errors import InputError, SessionBusy, SessionClosed
from agentsleep.memory.decoding import Sampling
from agentsleep.memory.shared import Shared
from agentsleep.memory.turn import Turn
from agentsleep.memory.window import OpenWindow

_POLL_S = 0.05


class Desk:
    """Holds the session's lock from its making to :meth:`close`.

    Args:
        timeout: seconds to wait for another writer, be it another process or a stream of this one.

    Raises:
        SettingsError: a timeout that is no number of seconds.  SessionBusy: another writer holds the session.
    """

    def __init__(self, shared: Shared, record: SessionRecord, timeout: float) -> None:
        self._shared, self._id, self._scope = shared, record.id, record.scope
        self._timeout = timeout
        self._lock = SessionLock(shared.archive, record.id, timeout)
        # Reentrant, since what ends an abandoned turn may be called with it held.
        self._door = threading.Condition(threading.RLock())
        self._reading: OpenWindow | None = None
        self._turn: Turn | None = None  # that a stream is writing
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
        with self._door:
            self._check_held()
            if self._turn is not turn:
                self._await_turn()
            before = None
            try:
                reading = self._built()
                before = reading.place
                yield reading
            except BaseException as error:
                # A value that was refused before anything was done about it is no reason to read the window again.
                if not isinstance(error, InputError) or self._reading is None or self._reading.place != before:
                    self._reading = None
                raise
            finally:
                if self._turn is not None and self._turn.over:
                    self._turn = None
                    self._door.notify_all()

    def look(self) -> OpenWindow:
        """The open window, for reading: also while a stream is being written, and as it was left after a close."""
        with self._door:
            self.end_abandoned()
            if self._reading is None:
                self._check_held()
            return self._built()

    def renew(self) -> None:
        """The next use builds the window again."""
        self._reading = None

    def close(self) -> None:
        """Ends a turn that is being written and lets another writer have the session; again, it does nothing."""
        with self._door:
            try:
                if self._lock.held:
                    self._end_turn()
            finally:
                self._lock.release()

    def end_abandoned(self) -> None:
        """Ends the turn of a stream that nobody holds any more."""
        with self._door:
            if self._turn is not None and self._turn.abandoned and self._lock.held:
                self._end_turn()

    # Streams

    def begin(self, sampling: Sampling) -> Turn:
        """A turn that is written step by step; the desk belongs to it until it is over."""
        with self.using() as reading:
            self._turn = Turn(reading, sampling)
            return self._turn

    def step(self, turn: Turn) -> int | None:
        """The turn's next token; None when it is on disk."""
        with self.using(turn):
            return turn.step()

    def end(self, turn: Turn) -> None:
        """Ends a turn early; does nothing if it is over."""
        with self._door:
            if turn is self._turn:
                self._end_turn()

    def _built(self) -> OpenWindow:
        if self._reading is None:
            self._reading = OpenWindow(self._shared, self._id, self._scope)
        return self._reading

    def _check_held(self) -> None:
        if not self._lock.held:
            raise SessionClosed(f"the session of {self._scope} is closed; open it again with memory.session(...)")

    def _await_turn(self) -> None:
        deadline = time.monotonic() + self._timeout
        while True:
            self.end_abandoned()
            if self._turn is None:
                return self._check_held()  # it may have been closed meanwhile
            left = deadline - time.monotonic()
            if left <= 0 or self._turn.thread == threading.get_ident():
                raise SessionBusy(
                    f"the session of {self._scope} is writing a turn to a stream; read that stream to its end or "
                    "close() it, or close the session"
                )
            self._door.wait(min(left, _POLL_S))  # nobody tells when a stream is abandoned

    def _end_turn(self) -> None:
        if self._turn is None:
            return
        turn, self._turn = self._turn, None
        self._door.notify_all()
        try:
            turn.end()
        except BaseException:
            self._reading = None
            raise
