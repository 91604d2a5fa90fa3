"""First come, first served: Python's own locks let a thread that asks again at once pass those that wait."""

from __future__ import annotations

import os
import threading
from collections import deque
from types import TracebackType
from weakref import WeakSet

from agentsleep.memory import caller

# A waiter is woken when its turn comes. It also looks by itself: whether its caller was cancelled, and because the one
# that should wake it may have been interrupted just before.
_LOOK_S = 0.25


class _Ticket:
    """A thread's place in the line."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()
        self.depth = 1
        self.gate = threading.Lock()
        self.gate.acquire()


class FairLock:
    """A reentrant lock that serves its waiters in the order in which they came: ``with lock: ...``

    It is the first ticket of a line, so that an interrupt (Ctrl-C) of a waiter takes one ticket out and leaves the rest
    as it was.

    Raises, while it waits:
        Withdrawn: the caller was cancelled, see :mod:`agentsleep.memory.caller`.
    """

    def __init__(self) -> None:
        self._line: deque[_Ticket] = deque()
        self._mutex = threading.Lock()  # held for moments
        _locks.add(self)

    @property
    def mine(self) -> bool:
        """Whether this thread holds it."""
        head = self._head()
        return head is not None and head.thread == threading.get_ident()

    @property
    def waiting(self) -> int:
        """Threads that wait."""
        return max(0, len(self._line) - 1)

    def acquire(self, *, wait: bool = True) -> bool:
        """Takes the lock; without ``wait`` only if it is free, or held by this thread already.

        Returns:
            Whether it is now held.
        """
        head = self._head()
        if head is not None and head.thread == threading.get_ident():
            head.depth += 1
            return True
        if wait:
            caller.check()
        ticket = _Ticket()
        try:
            with self._mutex:
                if self._line and not wait:
                    return False
                self._line.append(ticket)
            while self._line[0] is not ticket:
                ticket.gate.acquire(timeout=_LOOK_S)
                caller.check()
        except BaseException:
            self._leave(ticket)
            raise
        return True

    def release(self) -> None:
        """Lets the next one have it, once it was released as often as it was acquired.

        Raises:
            RuntimeError: another thread holds it, or none.
        """
        head = self._head()
        if head is None or head.thread != threading.get_ident():
            raise RuntimeError("a lock is released by the thread that holds it")
        head.depth -= 1
        if head.depth == 0:
            self._leave(head)

    def __enter__(self) -> FairLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _head(self) -> _Ticket | None:
        try:
            return self._line[0]
        except IndexError:
            return None

    def _leave(self, ticket: _Ticket) -> None:
        with self._mutex:
            first = self._head() is ticket
            if ticket in self._line:
                self._line.remove(ticket)
            if first and self._line:
                self._line[0].gate.release()

    def _after_fork(self) -> None:
        """Of the threads in line only this one has come along into the child."""
        self._mutex = threading.Lock()
        self._line = deque(ticket for ticket in self._line if ticket.thread == threading.get_ident())


_locks: WeakSet[FairLock] = WeakSet()


def _after_fork() -> None:
    for lock in list(_locks):
        lock._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
