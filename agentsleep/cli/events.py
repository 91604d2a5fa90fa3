"""The log for readers: what a snapshot took in, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from agentsleep.archive import Event, Snapshot, UserArchive


def taken_in(archive: UserArchive, snapshot: Snapshot) -> list[dict[str, Any]]:
    """What a snapshot covers: the events of its span, and before them a message of which its parent took in a part.

    ``consolidated`` counts the tokens of an event that lay in the window that was slept on.
    """
    first, last = snapshot.span
    begin = first
    if snapshot.parent is not None:
        begin = cast(int, archive.events(snapshot.session_id, first - 1, first)[0].data.get("next_seq", first))
    events = archive.events(snapshot.session_id, min(begin, first), last)
    window = range(0)
    if snapshot.mode == "light":
        mark: Any = events[-1].data
        window = range(mark["start"], mark["stop"])
    return [_event(event, window) for event in events if event.seq >= first or event.kind == "tokens"]


def _event(event: Event, window: range) -> dict[str, Any]:
    tokens = range(event.position, event.position + len(event.token_ids))
    return {
        "seq": event.seq,
        "kind": event.kind,
        "role": event.role,
        "position": event.position,
        "tokens": len(tokens),
        "consolidated": len(range(max(tokens.start, window.start), min(tokens.stop, window.stop))),
        "text": event.text,
        "data": dict(event.data),
    }


def event_line(event: Mapping[str, Any]) -> str:
    """An event of the log for a reader."""
    data, seq = event["data"], f"{event['seq']:>5}  "
    if event["kind"] == "sleep":
        return f"{seq}— sleep on tokens {data['start']} to {data['stop']}, passes {data['passes']}: {data['reason']} —"
    if event["kind"] == "deep_sleep":
        windows = f"{data['windows']} windows from the {data['first'] + 1}. on"
        return f"{seq}— deep sleep: {windows} read again, passes {data['passes']}, rounds {data['rounds']} —"
    if "pins" in data:
        names = ", ".join(tool["function"]["name"] for tool in data["pins"]["tools"]) or "none"
        return f"{seq}pinned: system {event['text'] or 'none'!r}, tools: {names}"
    text = event["text"] if event["text"] is not None else "(the beginning of a turn that goes on)"
    whole = event["consolidated"] == event["tokens"]
    part = "" if whole else f"  [{event['consolidated']} of {event['tokens']} tokens lay in this window]"
    return f"{seq}{event['role']}: {text}{part}"
