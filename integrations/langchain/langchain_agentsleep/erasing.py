"""Messages that leave a thread's log, and the agent's list with it, so that neither tells the other again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from agentsleep.archive import Event
from agentsleep.errors import InputError
from agentsleep.memory import Session, SleepMemory
from langchain_agentsleep.messages import METADATA

QUOTE = 400
"""Characters of a message that a tool quotes. A longer one may lie in the log cut to these, in a tool's result."""
_TELLING = 8  # characters of a text by which it may be looked for: shorter ones are part of many others


def plain(text: str) -> str:
    """A text by which repeats are found: without case, blanks as one."""
    return " ".join(text.casefold().split())


def quote(text: str | None) -> str:
    """A message in one line, cut to a sensible length."""
    line = " ".join((text or "").split())
    return line if len(line) <= QUOTE else f"{line[:QUOTE]}…"


def units(log: Sequence[Event]) -> list[tuple[Event, ...]]:
    """The messages of a log that stand or fall together: a turn that lies in it in parts; a message of several calls;
    calls and the results that follow them."""
    found: list[list[Event]] = []
    for event in log:
        if found and _goes_on(found[-1], event):
            found[-1].append(event)
        else:
            found.append([event])
    return [tuple(unit) for unit in found]


def _goes_on(unit: Sequence[Event], event: Event) -> bool:
    before = unit[-1]
    if before.data.get("open"):
        return True
    if event.role == "tool":
        return any(one.data.get("calls") for one in unit)
    several = bool(before.data.get("calls")) and (_about(event).get("part", 0) > 0 or bool(event.data.get("calls")))
    return before.role == event.role == "assistant" and several


def _about(event: Event) -> Any:
    metadata: Any = event.data.get("metadata") or {}
    return metadata.get(METADATA) or {}


def _ids(log: Sequence[Event]) -> set[str]:
    return {str(found) for event in log if (found := _about(event).get("id")) is not None}


@dataclass(frozen=True, kw_only=True)
class Erased:
    """What is gone.

    seqs: of the messages that were chosen, as they were.  count, states: of all messages and snapshots that went.
    threads: that were read again.
    ids: by which LangChain knows the messages that went.  left: the same of those that are still there.  told: the same
    of ``repeats``.
    texts: what is not to be found again, see :func:`plain`.
    repeats: messages of this thread that still say it, by their seqs now.  elsewhere: how many do in each other thread.
    out_of_reach: see :class:`agentsleep.memory.past.forgetting.Forgotten`.
    """

    seqs: tuple[int, ...]
    count: int
    states: int
    threads: tuple[str, ...]
    ids: frozenset[str]
    left: frozenset[str]
    told: frozenset[str]
    texts: tuple[str, ...]
    repeats: tuple[Event, ...]
    elsewhere: dict[str, int]
    out_of_reach: tuple[str, ...]


def erase(
    memory: SleepMemory, session: Session, seqs: Collection[int], *, cascade: bool, calling: str | None = None
) -> Erased:
    """Forgets messages of a session, see :meth:`agentsleep.memory.SleepMemory.forget`, calls and results together.

    Args:
        cascade: whether later messages that repeat them go too.
        calling: the id of the message whose call this is; it waits for its result, and stays.

    Raises:
        InputError: no such messages; one of them makes this very call; ``cascade`` with a text that many others hold.
        As SleepMemory.forget.
    """
    log = session.messages()
    unknown = sorted({*seqs} - {event.seq for event in log})
    if unknown or not seqs:
        raise InputError(
            f"this thread has no message {', '.join(map(str, unknown)) or '(the list is empty)'}; search the "
            "transcript for the numbers of messages"
        )
    groups = units(log)
    gone = [event for unit in groups if any(one.seq in seqs for one in unit) for event in unit]
    if calling is not None and calling in _ids(gone):
        pending = next(event.seq for event in gone if _about(event).get("id") == calling)
        raise InputError(f"message {pending} makes this very call; leave it out, or forget it by a later call")
    texts = [event.text for event in gone if event.text and event.text.strip()]
    short = next((text for text in texts if len(plain(text)) < _TELLING), None)
    if cascade and short is not None:
        raise InputError(
            f"{short!r} is so short that unrelated messages hold it too; forget without cascade, then the repeats by "
            "their numbers"
        )
    cuts = [cut for text in texts if len(cut := " ".join(text.split())) > QUOTE]
    done = memory.forget(session, [event.seq for event in gone], phrases=[cut[:QUOTE] for cut in cuts], cascade=cascade)
    count, states, threads = done.messages, done.snapshots, done.rebuilt
    left = session.messages()
    halves = _halves(groups, left) if cascade else []
    if halves:  # a repeat was half of a call and its result
        more = memory.forget(session, halves)
        count, states, threads = count + more.messages, states + more.snapshots, threads + more.rebuilt
        left = session.messages()
    now = {_mark(event): event for event in left}
    then = {event.seq: event for event in log}
    there = _ids([event for event in log if _mark(event) in now])
    repeats, told, elsewhere = [], [], dict[str, int]()
    for repeat in () if cascade else done.repeats:
        was = then.get(repeat.seq)
        still = now.get(_mark(was)) if was and (was.role, was.text) == (repeat.role, repeat.text) else None
        if was is not None and still is not None:
            repeats.append(still)
            told.append(was)
        else:
            elsewhere[repeat.thread] = elsewhere.get(repeat.thread, 0) + 1
    return Erased(
        seqs=tuple(event.seq for event in gone),
        count=count,
        states=states,
        threads=tuple(dict.fromkeys(threads)),
        ids=frozenset(_ids(log) - there),
        left=frozenset(there),
        told=frozenset(_ids(told)),
        texts=tuple(plain(text) for text in [*texts, *(cut[:QUOTE] for cut in cuts)]),
        repeats=tuple(repeats),
        elsewhere=elsewhere,
        out_of_reach=done.out_of_reach,
    )


def _mark(event: Event) -> tuple[Any, ...]:
    """By which a message, or the end of a turn in parts, is known again after the log was read again: that keeps its
    moment and text, but neither its seq nor where sleeps fall into it."""
    return event.created, event.role, event.text


def _halves(groups: Sequence[Sequence[Event]], left: Sequence[Event]) -> list[int]:
    """Seqs of what is left of calls and results that lost the other half."""
    now = {_mark(event): event.seq for event in left}
    found = []
    for unit in groups:
        marks = [_mark(event) for event in unit if not event.data.get("open")]
        there = [now[mark] for mark in marks if mark in now]
        found += there if len(there) < len(marks) else []
    return found


def leaving(
    messages: Sequence[BaseMessage], erased: Erased, *, cascade: bool, calling: BaseMessage | None
) -> tuple[list[str], int]:
    """The ids of the messages that leave an agent's list, a call always with its results; and how many of those that
    stay repeat what is gone, besides ``erased.repeats``.

    A message that the memory has not heard under its id goes if it says the same, or, with ``cascade``, repeats it.
    """
    gone: set[str | None] = {one.id for one in messages if one.id in erased.ids and one is not calling}
    for one in messages:
        if one.id not in gone and one.id not in erased.left and one is not calling:
            said = plain(one.text)
            if said and (said in erased.texts or (cascade and any(text in said for text in erased.texts))):
                gone.add(one.id)
    for one in messages:
        if isinstance(one, AIMessage) and one.tool_calls and one is not calling:
            calls = {call["id"] for call in one.tool_calls}
            pair = {one.id} | {m.id for m in messages if isinstance(m, ToolMessage) and m.tool_call_id in calls}
            if pair & gone:
                gone |= pair
    others = [one for one in messages if one.id not in gone and one.id not in erased.told]
    held = sum(any(text in plain(one.text) for text in erased.texts) for one in others)
    return [one.id for one in messages if one.id in gone and one.id is not None], held


def report(erased: Erased, removed: int, held: int) -> str:
    """What a model reads of it. It quotes nothing, or the memory would hear again what it has forgotten.

    Args:
        removed: how many messages have left the agent's list.  held: as :func:`leaving` counts them.
    """
    lines = [
        f"Forgotten: {erased.count} messages, numbers {', '.join(map(str, erased.seqs))} among them, and "
        f"{erased.states} states that had seen them.",
        f"Threads that were read again without them: {', '.join(erased.threads) or 'none'}.",
        f"Removed from view: {removed} messages. Later messages have new numbers.",
    ]
    if erased.repeats:
        told = ", ".join(f"[{one.seq}] {one.role}" for one in erased.repeats)
        lines.append(f"Still repeated, under their new numbers: {told}. They remain unless you forget them too.")
    for thread, count in erased.elsewhere.items():
        lines.append(f"Still repeated in thread {thread!r}: {count} messages.")
    if held:
        lines.append(f"Still repeated in view besides: {held} messages.")
    if erased.out_of_reach:
        lines.append(f"Out of reach: {'; '.join(erased.out_of_reach)}.")
    return "\n".join(lines)
