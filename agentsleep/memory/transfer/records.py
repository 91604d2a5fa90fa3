"""Events and snapshots as JSON and back; what comes from outside is checked field by field."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from agentsleep.archive import JSON, Event, NewEvent, Snapshot
from agentsleep.archive.codec import normal_json
from agentsleep.archive.types import EventKind, Status, check_name
from agentsleep.errors import InputError

_MOST = 2**53  # positions and counts beyond it are no longer whole numbers in every reader of JSON


class Fields:
    """A JSON object whose fields are taken one by one.

    Args:
        what: it is, for messages.

    Raises:
        InputError: it is no object. Each method raises it for a field that is missing or of another kind.
    """

    def __init__(self, what: str, value: object) -> None:
        self.what = what
        if not isinstance(value, dict):
            raise InputError(f"{what} is no JSON object; the file is damaged: export the thread again")
        self._value: dict[str, Any] = value

    def whole(self, name: str, least: int = 0) -> int:
        """A whole number of at least `least`."""
        value: int = self._must(name, f"a whole number from {least} on", lambda found: _is_whole(found, least))
        return value

    def text(self, name: str) -> str:
        """A text."""
        value: str = self._must(name, "a text", lambda found: isinstance(found, str))
        return value

    def maybe_text(self, name: str) -> str | None:
        """A text, or null."""
        return None if name in self._value and self._value[name] is None else self.text(name)

    def name(self, name: str) -> str:
        """A text of 1 to 255 characters."""
        return check_name(f"{self.what}: {name}", self.text(name))

    def hexadecimal(self, name: str, digits: int) -> str:
        """An id (32 digits) or a SHA-256 (64)."""
        text = self.text(name)
        self._must(name, f"{digits} hexadecimal digits", lambda _: re.fullmatch(f"[0-9a-f]{{{digits}}}", text))
        return text

    def choice(self, name: str, among: Sequence[str]) -> Any:
        """One of these texts."""
        return self._must(name, f"one of {', '.join(among)}", lambda found: isinstance(found, str) and found in among)

    def items(self, name: str) -> list[Any]:
        """A list."""
        value: list[Any] = self._must(name, "a list", lambda found: isinstance(found, list))
        return value

    def mapping(self, name: str) -> dict[str, Any]:
        """An object that an archive can store."""
        value = self._must(name, "an object", lambda found: isinstance(found, dict))
        return normal_json(f"{self.what}: {name}", value)

    def time(self, name: str) -> datetime:
        """A time with its zone, as UTC."""
        text = self.text(name)
        try:
            time = datetime.fromisoformat(text)
            utc = time.astimezone(UTC)
        except (ValueError, OverflowError):
            utc = time = datetime.min
        self._must(name, "a time with its zone", lambda _: time.tzinfo is not None)
        return utc

    def _must(self, name: str, kind: str, right: Callable[[Any], object]) -> Any:
        value = self._value.get(name)
        if not right(value):
            found = repr(value)[:80] if name in self._value else "missing"
            raise InputError(
                f"{self.what}: {name} is {found}, not {kind}; the file is damaged: export the thread again"
            )
        return value


def _is_whole(value: object, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= _MOST


def event_json(event: Event) -> dict[str, JSON]:
    """An event as a line of a log."""
    return {
        "seq": event.seq,
        "kind": event.kind,
        "role": event.role,
        "token_ids": list(event.token_ids),
        "position": event.position,
        "text": event.text,
        "data": event.data,
        "created": event.created.isoformat(),
    }


def events_of(lines: Iterable[tuple[str, object]]) -> list[Event]:
    """A log from its lines, each with a name for messages.

    Raises:
        InputError: a line is no event, or does not go on where the one before it ended.
    """
    events: list[Event] = []
    position = 0
    for what, line in lines:
        fields = Fields(what, line)
        if (fields.whole("seq"), fields.whole("position")) != (len(events), position):
            raise InputError(f"{what} is not event {len(events)} at token {position}: the log has a gap; export again")
        try:
            new = NewEvent(
                kind=fields.choice("kind", get_args(EventKind)),
                role=fields.maybe_text("role"),
                token_ids=tuple(fields.items("token_ids")),
                text=fields.maybe_text("text"),
                data=fields.mapping("data"),
                created=fields.time("created"),
            )
        except InputError as error:
            raise error if what in str(error) else InputError(f"{what}: {error}") from None
        assert new.created is not None
        events.append(
            Event(
                seq=len(events),
                kind=new.kind,
                role=new.role,
                token_ids=new.token_ids,
                position=position,
                text=new.text,
                data=new.data,
                created=new.created,
            )
        )
        position += len(new.token_ids)
    return events


def snapshot_json(snapshot: Snapshot) -> dict[str, JSON]:
    """A snapshot as an entry of a manifest; whose it is, and of which model, is said there once."""
    return {
        "id": snapshot.id,
        "session": snapshot.session_id,
        "parent": snapshot.parent,
        "passes": snapshot.passes,
        "rounds": snapshot.rounds,
        "span": list(snapshot.span),
        "tokens": snapshot.tokens,
        "trigger": snapshot.trigger,
        "mode": snapshot.mode,
        "environment": snapshot.environment,
        "metrics": snapshot.metrics,
        "probe": snapshot.probe,
        "status": snapshot.status,
        "state_digest": snapshot.state_digest,
        "state_bytes": snapshot.state_bytes,
        "created": snapshot.created.isoformat(),
        "tag": snapshot.tag,
    }


def snapshots_of(
    entries: Iterable[tuple[str, object]], events: Sequence[Event], *, tenant: str, user: str, fingerprint: str
) -> list[Snapshot]:
    """A line of snapshots from its entries, oldest first, each with a name for messages.

    Raises:
        InputError: an entry is no snapshot, does not descend from the one before it, or its sleep is not in the log.
    """
    line: list[Snapshot] = []
    known: set[str] = set()
    for what, entry in entries:
        fields = Fields(what, entry)
        span = fields.items("span")
        start, parent = (line[-1].span[1], line[-1].id) if line else (0, None)
        if fields.maybe_text("parent") != parent:
            raise InputError(f"{what} descends from {fields.maybe_text('parent')}, not from {parent} before it")
        if len(span) != 2 or not all(map(_is_whole, span)) or not start == span[0] < span[1] <= len(events):
            raise InputError(f"{what}: its span is {span!r:.60}, but must go on from event {start} of {len(events)}")
        if fields.hexadecimal("id", 32) in known:
            raise InputError(f"{what} has the id of another one; the file is damaged: export the thread again")
        known.add(fields.hexadecimal("id", 32))
        mark = events[span[1] - 1]
        _check_mark(f"{what}: the mark in event {mark.seq}", mark, len(line) + 1)
        if fields.whole("tokens") != mark.position:
            raise InputError(f"{what}: its tokens are {fields.whole('tokens')}, its log has {mark.position}")
        tag = fields.maybe_text("tag")
        line.append(
            Snapshot(
                id=fields.hexadecimal("id", 32),
                tenant=tenant,
                user=user,
                session_id=fields.hexadecimal("session", 32),
                parent=parent,
                fingerprint=fingerprint,
                passes=fields.whole("passes", 1),
                rounds=fields.whole("rounds", 1),
                span=(span[0], span[1]),
                tokens=mark.position,
                trigger=fields.name("trigger"),
                mode=fields.name("mode"),
                environment=fields.mapping("environment"),
                metrics=fields.mapping("metrics"),
                probe=fields.mapping("probe"),
                status=fields.choice("status", get_args(Status)),
                state_digest=fields.hexadecimal("state_digest", 64),
                state_bytes=fields.whole("state_bytes", 1),
                created=fields.time("created"),
                tag=None if tag is None else check_name(f"{what}: tag", tag),
            )
        )
    return line


def _check_mark(what: str, mark: Event, number: int) -> None:
    """What a window is built from, see :class:`agentsleep.memory.window.OpenWindow`."""
    fields = Fields(what, dict(mark.data))
    if mark.kind == "tokens" or fields.whole("number", 1) != number:
        raise InputError(f"{what} is not that of sleep {number}; the file is damaged: export the thread again")
    if fields.whole("stop") > mark.position or fields.whole("next_seq") > mark.seq + 1:
        raise InputError(f"{what} has read what comes after it; the file is damaged: export the thread again")
    if mark.data.get("pins_seq") is not None and fields.whole("pins_seq") >= mark.seq:
        raise InputError(f"{what} has pins from after it; the file is damaged: export the thread again")
