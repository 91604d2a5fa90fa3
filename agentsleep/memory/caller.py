"""On whose behalf a thread works: its own, or that of a task which may be cancelled meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


class Withdrawn(BaseException):
    """The caller was cancelled while it waited for its turn; nothing was done. Like asyncio's own, no Exception: nobody
    is to mend it."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Caller:
    """One call of a task.

    Args:
        task: what two calls of one task have in common.
        cancelled: set when nobody waits for the result any more.
    """

    task: object
    cancelled: threading.Event = field(default_factory=threading.Event)


current: ContextVar[Caller | None] = ContextVar("agentsleep_caller", default=None)
"""The caller that this thread works for; None: the thread itself."""


def identity() -> object:
    """Equal for two calls of which the second cannot begin before the first has returned."""
    caller = current.get()
    return threading.get_ident() if caller is None else caller.task


def check() -> None:
    """Called before a call has begun, and while it waits to.

    Raises:
        Withdrawn: the caller was cancelled.
    """
    caller = current.get()
    if caller is not None and caller.cancelled.is_set():
        raise Withdrawn


@contextmanager
def regardless() -> Iterator[None]:
    """In here nothing is withdrawn: what was begun is being ended."""
    token = current.set(None)
    try:
        yield
    finally:
        current.reset(token)


def while_wanted(tokens: Iterator[int]) -> Iterator[int]:
    """The tokens of a turn, up to where the caller that began it was cancelled."""
    caller = current.get()
    return tokens if caller is None else _until(caller.cancelled, tokens)


def _until(cancelled: threading.Event, tokens: Iterator[int]) -> Iterator[int]:
    while not cancelled.is_set() and (token := next(tokens, None)) is not None:
        yield token
