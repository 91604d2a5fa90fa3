"""What would have been: a stretch of a session's log, read again under another policy or another model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

from agentsleep.archive import Snapshot
from agentsleep.compare import StateDiff, compare
from agentsleep.errors import InputError
from agentsleep.memory.past.scratch import Progress, reread, scratch
from agentsleep.memory.past.script import script
from agentsleep.memory.session import Session
from agentsleep.memory.shared import Shared
from agentsleep.policy import SleepPolicy


@contextmanager
def trial(
    shared: Shared,
    session: Session,
    policy: SleepPolicy,
    start: Snapshot | None = None,
    progress: Progress | None = None,
) -> Iterator[Session]:
    """The session as it would be, had it slept by this policy since ``start``. It lives in memory, until the context
    ends, and can be asked like any other.

    Raises:
        InputError: ``start`` is none of the session's, or a turn was being written when it was made.
    """
    log = session.archive.events(session.id)
    if start is not None:
        if start.id not in {one.id for one in session.history()}:
            raise InputError(f"snapshot {start.id} is none of {session.scope}; history() lists those that it rests on")
        if log[start.span[1] - 1].data.get("open_turn"):
            raise InputError(f"snapshot {start.id} was made in the middle of a turn; start from the one before it")
    place = start.span[1] if start else 0
    with scratch(shared, session.archive, log[:place], start, policy) as again:
        reread(again, script(log[place:]), progress)
        yield again


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of two policies. passes: over windows, since the start.  answers: to the questions, in their order."""

    sleeps: int
    passes: int
    answers: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two policies from one snapshot on. diff: from the state of ``a`` to that of ``b``."""

    questions: tuple[str, ...]
    a: Side
    b: Side
    diff: StateDiff


def compare_policies(
    shared: Shared,
    session: Session,
    a: SleepPolicy,
    b: SleepPolicy,
    start: Snapshot | None = None,
    questions: Sequence[str] = (),
    max_new_tokens: int = 64,
) -> Comparison:
    """Reads the same stretch under two policies, and asks both the same questions; nothing of it is kept."""
    with trial(shared, session, a, start) as first, trial(shared, session, b, start) as second:
        sides = [_side(one, start, questions, max_new_tokens) for one in (first, second)]
        return Comparison(questions=tuple(questions), a=sides[0], b=sides[1], diff=compare(first.state, second.state))


def _side(session: Session, start: Snapshot | None, questions: Sequence[str], most: int) -> Side:
    answers = [session.ask(question, remember=False, max_new_tokens=most).text for question in questions]
    made = [one for one in session.history() if start is None or one.id != start.id]
    passes = sum(_passes(session, one) for one in made)
    return Side(sleeps=len(made), passes=passes, answers=tuple(answers))


def _passes(session: Session, snapshot: Snapshot) -> int:
    """Over windows, in the sleep that made a snapshot."""
    mark = session.archive.events(session.id, snapshot.span[1] - 1, snapshot.span[1])[0].data
    return snapshot.passes * snapshot.rounds * cast("int", mark.get("windows", 1))
