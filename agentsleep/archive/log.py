"""The event log of a session, the part inherited from the snapshot that it was forked from included."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import CTE, BigInteger, Select, insert, literal, select
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive.codec import checksum, normal_json, pack_tokens, text_hash, unpack_tokens
from agentsleep.archive.schema import EventRow, SessionRow, SnapshotRow
from agentsleep.archive.types import Event, NewEvent
from agentsleep.errors import ArchiveDamaged

_NO_END = 2**62
"""A seq that no log reaches: keeps the range test simple enough for the index."""


def number(
    events: Sequence[NewEvent], data: Sequence[dict[str, Any]], *, seq: int, position: int, now: datetime
) -> list[Event]:
    """`events` as entries of the log from `seq` and `position` on; `data` is theirs, made plain by `plain_data`."""
    numbered = []
    for new, normal in zip(events, data, strict=True):
        numbered.append(
            Event(
                seq=seq,
                kind=new.kind,
                role=new.role,
                token_ids=new.token_ids,
                position=position,
                text=new.text,
                data=normal,
                created=new.created or now,
            )
        )
        seq += 1
        position += len(new.token_ids)
    return numbered


def plain_data(events: Sequence[NewEvent]) -> list[dict[str, Any]]:
    """The `data` of each event as it will be read back; raises before any transaction is begun."""
    return [normal_json(f"data of event {i} of {len(events)}", event.data) for i, event in enumerate(events)]


def extend(
    tx: Transaction,
    session: SessionRow,
    events: Sequence[NewEvent],
    data: Sequence[dict[str, Any]],
    now: datetime,
    key: bytes,
) -> list[Event]:
    """Writes `events` at the end of the session's log and moves its counters. The cost does not depend on the log.

    Args:
        key: of the scope, for the hashes of the texts.
    """
    numbered = number(events, data, seq=session.next_seq, position=session.next_position, now=now)
    if numbered:
        tx.execute(insert(EventRow), [row_of(session, event, key) for event in numbered])
        session.next_seq = numbered[-1].seq + 1
        session.next_position = numbered[-1].position + len(numbered[-1].token_ids)
        tx.flush()
    return numbered


def read(tx: Transaction, session: SessionRow, start: int, stop: int | None) -> list[Event]:
    """Events with start ≤ seq < stop, in order.

    Raises:
        ArchiveDamaged: an event fails its checksum, or is missing.
    """
    stop = session.next_seq if stop is None else min(stop, session.next_seq)
    events = [event_of(row) for row in tx.scalars(_own(session, start, stop))]
    if len(events) < stop - start and session.forked_from is not None:
        events = [event_of(row) for row in tx.scalars(_inherited(session, start, stop))]
    if [event.seq for event in events] != list(range(start, stop)):
        raise ArchiveDamaged(
            f"session {session.id} should have the events {start} to {stop - 1}, but {len(events)} were found; "
            "restore the archive from a backup"
        )
    return events


def _own(session: SessionRow, start: int, stop: int) -> Select[EventRow]:
    """Those of the events that the session did not inherit: mostly all that are asked for, and several times faster."""
    mine = (EventRow.scope_id == session.scope_id, EventRow.session_id == session.id)
    return select(EventRow).where(*mine, EventRow.seq >= start, EventRow.seq < stop).order_by(EventRow.seq)


def _inherited(session: SessionRow, start: int, stop: int) -> Select[EventRow]:
    """All of them."""
    line = lineage(session)
    return (
        select(EventRow)
        .join(line, EventRow.session_id == line.c.id)
        .where(
            EventRow.scope_id == session.scope_id,
            EventRow.seq < line.c.stop,
            EventRow.seq >= start,
            EventRow.seq < stop,
        )
        .order_by(EventRow.seq)
    )


def lineage(session: SessionRow) -> CTE:
    """The line of sessions whose events make up a log: `id`, and `stop`, the seq at which the next one left it.

    A session's own events begin where it was forked, so an upper bound each is all it takes.
    """
    line = (
        select(SessionRow.id, literal(_NO_END, BigInteger).label("stop"), SessionRow.forked_from)
        .where(SessionRow.id == session.id, SessionRow.scope_id == session.scope_id)
        .cte("line", recursive=True)
    )
    return line.union_all(
        select(SessionRow.id, SnapshotRow.span_stop, SessionRow.forked_from)
        .join(SnapshotRow, SnapshotRow.session_id == SessionRow.id)
        .join(line, SnapshotRow.id == line.c.forked_from)
        .where(SessionRow.scope_id == session.scope_id)
    )


def row_of(session: SessionRow, event: Event, key: bytes) -> dict[str, object]:
    """The event as a row of the session's own log."""
    packed = pack_tokens(event.token_ids)
    return {
        "scope_id": session.scope_id,
        "session_id": session.id,
        "seq": event.seq,
        "kind": event.kind,
        "role": event.role,
        "token_count": len(event.token_ids),
        "token_ids": packed,
        "position": event.position,
        "text": event.text,
        "text_hash": None if event.text is None else text_hash(key, event.role, event.text),
        "data": event.data,
        "checksum": _checksum(event, packed),
        "created": event.created,
    }


def event_of(row: EventRow) -> Event:
    """The row as a value. Raises `ArchiveDamaged` if it fails its checksum."""
    event = Event(
        seq=row.seq,
        kind=row.kind,  # type: ignore[arg-type]  # the checksum vouches for it
        role=row.role,
        token_ids=unpack_tokens(row.token_ids),
        position=row.position,
        text=row.text,
        data=row.data,
        created=row.created,
    )
    if _checksum(event, row.token_ids) != row.checksum:
        raise ArchiveDamaged(
            f"event {row.seq} of session {row.session_id} fails its checksum; restore the archive from a backup, or "
            f"fork the session from a snapshot whose span ends at or before {row.seq}"
        )
    return event


def _checksum(event: Event, packed: bytes) -> int:
    return checksum(
        seq=event.seq,
        kind=event.kind,
        role=event.role,
        position=event.position,
        packed=packed,
        text=event.text,
        data=event.data,
    )
