"""A session in memory that continues a stored one from one of its snapshots: for trials, and for what is to be kept
only once it is whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from agentsleep.archive import Archive, Event, Line, Snapshot, UserArchive, plant
from agentsleep.memory.past.script import Heard, Pinned, Slept, Spoken, Step
from agentsleep.memory.restoring import state_at
from agentsleep.memory.session import Session
from agentsleep.memory.shared import Shared
from agentsleep.memory.states import to_bytes
from agentsleep.policy import SleepPolicy

Progress = Callable[[int, int], None]
"""Called with how much is done, and of how much."""


@contextmanager
def scratch(
    shared: Shared,
    archive: UserArchive,
    prefix: Sequence[Event],
    base: Snapshot | None,
    policy: SleepPolicy | None = None,
) -> Iterator[Session]:
    """A session whose log begins with ``prefix`` and whose head is ``base``; nothing of it outlives the context.

    Args:
        archive: where ``base`` lies.  prefix: all events that ``base`` has seen; none without a base.
        policy: another one than the memory's.
    """
    with Archive(":memory:") as store:
        theirs = store.user(archive.tenant, archive.name)
        states = {}
        if base is not None:
            states[base.id] = to_bytes(state_at(shared, archive, base, prefix))
        line = Line(events=prefix, snapshots=[base] if base else [], states=states)
        record = plant(theirs, "scratch", shared.backend.fingerprint, line)
        lent = replace(shared, archive=store, policy=policy or shared.policy)
        with Session(lent, record, system=None, tools=None, timeout=0.0) as session:
            yield session


def reread(
    session: Session, steps: Sequence[Step], progress: Progress | None = None, *, behind: int | None = None
) -> None:
    """Does in a session, one after the other, what was done in another one of the same model. Texts, tokens and times
    are taken over; when to sleep, but for the sleeps that were asked for, is up to the session's policy.

    Args:
        behind: the session's head is a snapshot of that other one, whose span ends at this seq. Whether to sleep before
            a question that follows directly was decided then: where what that sleep has kept and the question are again
            as much as the policy wants slept on, once more would be too often.

    Raises:
        SleepFailed: a sleep was not usable.
    """
    for done, step in enumerate(steps):
        if progress is not None:
            progress(done, len(steps))
        repeat(session, step, decided=behind is not None and _begins(step) == behind)
    if progress is not None:
        progress(len(steps), len(steps))


def _begins(step: Step) -> int | None:
    return step.event.seq if isinstance(step, Heard) else None


def repeat(session: Session, step: Step, *, decided: bool = False) -> None:
    """Does one step, see :func:`reread`; with ``decided``, without a sleep before it."""
    with session.desk.using() as reading:
        reading.dated = step.created if isinstance(step, Slept) else step.event.created
        try:
            match step:
                case Pinned():
                    reading.take_over(step.event)
                    session.desk.renew()
                case Heard():
                    event = step.event
                    if step.asked and not decided:
                        reading.sleep_if_due(len(event.token_ids))
                    reading.take_over(event)
                    reading.hear(event.token_ids)
                    if not step.asked:
                        reading.sleep_if_due()
                case Spoken():
                    reading.repeat_turn(step.ids, step.event.text, step.event.data)
                    reading.sleep_if_due()
                case Slept():
                    reading.sleep(step.trigger, step.passes)
                    if step.rounds:
                        reading.sleep_deep(step.passes, step.rounds, step.windows)
        finally:
            reading.dated = None
