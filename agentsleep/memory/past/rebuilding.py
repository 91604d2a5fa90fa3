"""Another model, the same memory: a session's log read again under a model that did not write it."""

from __future__ import annotations

from typing import Any

from agentsleep.archive import Event, SessionRecord
from agentsleep.chat import ToolCall
from agentsleep.errors import InputError
from agentsleep.memory.past.scratch import Progress
from agentsleep.memory.past.script import Heard, Pinned, Slept, Spoken, Step, script
from agentsleep.memory.pins import Pins
from agentsleep.memory.session import Session

SOURCE = "source"
"""Where an event says which event of the other session it repeats: session id and seq."""


def rebuild(session: Session, source: SessionRecord, progress: Progress | None = None) -> None:
    """Reads in ``session`` what was said in ``source``: each message rendered in this model's own format, sleeps that
    were asked for where they were, all others by the session's policy.

    What was read already by a call that broke off is not read again. Thoughts, and what the log of older versions does
    not tell of tool calls, are not carried over.

    Raises:
        InputError: the session was made for something else.
        MessageTooLong: a message fills more windows of this model than the policy allows.
        SleepFailed: a sleep was not usable.
    """
    steps = script(session.archive.events(source.id))
    done, deep = _done(session, source)
    for place, step in enumerate(steps):
        if progress is not None:
            progress(place, len(steps))
        if place < done:
            continue
        if deep and isinstance(step, Slept) and step.rounds:
            deep -= 1  # made by the call that broke off
            continue
        _say_again(session, step, {SOURCE: [source.id, place]})
    if progress is not None:
        progress(len(steps), len(steps))


def _done(session: Session, source: SessionRecord) -> tuple[int, int]:
    """How many steps are in the session already, and how many deep sleeps were made behind the last of them.

    A light sleep that is made again finds an empty window, and makes nothing.
    """
    log = session.archive.events(session.id)
    places = [_place(event) for event in log if event.kind == "tokens" and not event.data.get("open")]
    if any(place is None or place[0] != source.id for place in places):
        raise InputError(
            f"the session of {session.scope} holds something else than a part of session {source.id}; rebuild into a "
            "thread that does not exist yet"
        )
    said = max((place[1] for place in places if place is not None), default=-1) + 1
    last = max((event.seq for event in log if event.kind == "tokens"), default=-1)
    return said, sum(event.kind == "deep_sleep" for event in log[last + 1 :])


def _place(event: Event) -> tuple[str, int] | None:
    found: Any = event.data.get(SOURCE)
    return (found[0], found[1]) if found else None


def _say_again(session: Session, step: Step, source: dict[str, Any]) -> None:
    if not isinstance(step, Slept) and "metadata" in step.event.data:
        source = {**source, "metadata": step.event.data["metadata"]}
    with session.desk.using() as reading:
        reading.dated = step.created if isinstance(step, Slept) else step.event.created
        try:
            match step:
                case Pinned():
                    reading.pin(Pins.of(step.event), **source)
                    session.desk.renew()
                case Heard():
                    role: Any = step.event.role
                    ids = reading.render(role, step.event.text or "")
                    if step.asked:
                        reading.sleep_if_due(len(ids))
                    reading.log(role, step.event.text or "", ids, **source, asked=step.asked)
                    reading.hear(ids)
                    if not step.asked:
                        reading.sleep_if_due()
                case Spoken():
                    calls: Any = step.event.data.get("calls", ())
                    said: Any = step.event.data.get("said", step.event.text)
                    reading.speak(said or "", [ToolCall(**call) for call in calls], **source)
                    reading.sleep_if_due()
                case Slept():
                    reading.sleep(step.trigger, step.passes)
                    if step.rounds:
                        reading.sleep_deep(step.passes, step.rounds, step.windows)
        finally:
            reading.dated = None
