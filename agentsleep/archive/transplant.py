"""Whole lineages in and out of a user's part: what imports, forgetting and scratch copies are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive import audit, chunks, log, rows
from agentsleep.archive.chunks import SplitState
from agentsleep.archive.codec import normal_json
from agentsleep.archive.schema import (
    ChunkRow,
    EventRow,
    JobRow,
    PieceRow,
    ScopeRow,
    SessionRow,
    SnapshotRow,
    TensorRow,
)
from agentsleep.archive.scoped import Scoped
from agentsleep.archive.types import JSON, Event, SessionRecord, Snapshot, TensorBytes, check_name
from agentsleep.errors import InputError, SnapshotConflict

_MANY = 500


@dataclass(frozen=True, kw_only=True)
class Line:
    """A stretch of a session's history: its events, in order and without a gap, and the snapshots in it.

    states: by snapshot id; a snapshot without one counts as pruned.
    """

    events: Sequence[Event]
    snapshots: Sequence[Snapshot]
    states: Mapping[str, Sequence[TensorBytes]]


def plant(
    scoped: Scoped,
    thread: str,
    fingerprint: str,
    line: Line,
    *,
    settings: Mapping[str, JSON] | None = None,
    imported: audit.Detail | None = None,
) -> SessionRecord:
    """A new session that has this history; its events begin at seq 0. Snapshots keep their ids.

    Args:
        settings: of the session.
        imported: what the audit is to say of an import, besides the session's id; None: it was none.

    Raises:
        InputError: the user has such a thread, or the archive such a snapshot, already.
    """
    check_name("thread", thread)
    plain = normal_json("settings", settings or {})
    with scoped.writing(create=True) as (tx, scope_id, key):
        scoped.lock_threads(tx, scope_id)
        if tx.scalar(scoped.by_thread(thread, scope_id)) is not None:
            raise InputError(f"there is a session for {scoped.named(thread)} already; choose another thread")
        ids = [snapshot.id for snapshot in line.snapshots]
        for start in range(0, len(ids), _MANY):
            some = SnapshotRow.id.in_(ids[start : start + _MANY])
            if (taken := tx.scalar(select(SnapshotRow.id).where(some).limit(1))) is not None:
                raise InputError(f"the archive has snapshot {taken} already; plant it under another id, see renamed()")
        row = rows.new_session(scope_id, thread, fingerprint, plain, origin=None)
        tx.add(row)
        tx.flush()
        _graft(scoped, tx, row, line, key)
        if imported is not None:
            audit.record(tx, scope_id, "import", {"session": row.id, **imported})
    return scoped.record(row)


@dataclass(frozen=True, kw_only=True)
class Regrowth:
    """What becomes of a session of which something was forgotten.

    base: the snapshot that stays its newest one that has not seen it; None: it begins again from nothing.
    expected_head, expected_events: as the session was when `line` was computed.
    line: what follows `base`; None: the whole session goes, thread and all.
    """

    session_id: str
    base: Snapshot | None
    expected_head: str | None
    expected_events: int
    line: Line | None


def regrow(scoped: Scoped, regrowths: Sequence[Regrowth], condemned: Iterable[str], messages: int) -> int:
    """Replaces the ends of sessions and deletes snapshots, all or nothing; returns the bytes of states that went.

    Args:
        condemned: snapshots to delete: all that have seen what is forgotten.
        messages: how many are forgotten, for the audit.

    Raises:
        SnapshotConflict: a session has moved on since its new end was computed. Nothing was changed.
    """
    ids = list(condemned)
    with scoped.writing() as (tx, scope_id, key), scoped.database.erasing(tx):
        sessions = [scoped.session_row(tx, each.session_id, scope_id, lock=True) for each in regrowths]
        for row, each in zip(sessions, regrowths, strict=True):
            if (row.head_id, row.next_seq) != (each.expected_head, each.expected_events):
                raise SnapshotConflict(
                    f"session {row.id} has gone on while what it is to forget was worked out; nothing was changed; "
                    "do it again"
                )
        # First away with what points at the snapshots, then the snapshots, children before their parents.
        for row, each in zip(sessions, regrowths, strict=True):
            base = each.base.id if each.base else None
            own = each.base is not None and each.base.session_id == row.id
            row.head_id = base
            row.forked_from = row.forked_from if own else base
            row.next_seq = each.base.span[1] if each.base else 0
            row.next_position = each.base.tokens if each.base else 0
            first = row.next_seq if own else 0
            mine = (EventRow.scope_id == scope_id, EventRow.session_id == row.id, EventRow.seq >= first)
            tx.execute(delete(EventRow).where(*mine))
            tx.execute(delete(JobRow).where(JobRow.scope_id == scope_id, JobRow.session_id == row.id))
        tx.flush()
        freed = _delete_snapshots(tx, scope_id, ids)
        for row, each in zip(sessions, regrowths, strict=True):
            if each.line is None:
                tx.delete(row)
            else:
                _graft(scoped, tx, row, each.line, key)
        tx.flush()
        audit.record(
            tx,
            scope_id,
            "forget",
            {"messages": messages, "snapshots": len(ids), "sessions": [row.id for row in sessions]},
        )
    return freed


def _delete_snapshots(tx: Transaction, scope_id: str, ids: Sequence[str]) -> int:
    freed = chunks.drop(tx, scope_id, ids)
    for start in range(0, len(ids), _MANY):
        mine = (SnapshotRow.scope_id == scope_id, SnapshotRow.id.in_(ids[start : start + _MANY]))
        tx.execute(update(SnapshotRow).where(*mine).values(parent_id=None))
    for start in range(0, len(ids), _MANY):
        mine = (SnapshotRow.scope_id == scope_id, SnapshotRow.id.in_(ids[start : start + _MANY]))
        tx.execute(delete(SnapshotRow).where(*mine))
    return freed


def _graft(scoped: Scoped, tx: Transaction, session: SessionRow, line: Line, key: bytes) -> None:
    """Writes a line behind what the session has."""
    if line.events:
        first = line.events[0]
        assert (first.seq, first.position) == (session.next_seq, session.next_position), "the line adjoins the log"
        tx.execute(insert(EventRow), [log.row_of(session, event, key) for event in line.events])
        last = line.events[-1]
        session.next_seq, session.next_position = last.seq + 1, last.position + len(last.token_ids)
    head = session.head_id
    for snapshot in line.snapshots:
        tensors = line.states.get(snapshot.id)
        split = SplitState(tensors) if tensors else None
        row = SnapshotRow(
            id=snapshot.id,
            scope_id=session.scope_id,
            session_id=session.id,
            parent_id=head,
            fingerprint=snapshot.fingerprint,
            passes=snapshot.passes,
            rounds=snapshot.rounds,
            span_start=snapshot.span[0],
            span_stop=snapshot.span[1],
            tokens=snapshot.tokens,
            trigger=snapshot.trigger,
            mode=snapshot.mode,
            environment=dict(snapshot.environment),
            metrics=dict(snapshot.metrics),
            probe=dict(snapshot.probe),
            status="stored" if split else "pruned",
            state_digest=split.digest if split else snapshot.state_digest,
            state_bytes=snapshot.state_bytes,
            created=snapshot.created,
            tag=snapshot.tag,
        )
        tx.add(row)
        tx.flush()
        if split:
            chunks.store(tx, session.scope_id, row.id, split, scoped.transform)
        head = row.id
    session.head_id = head
    tx.flush()


def renamed(line: Line, ids: dict[str, str]) -> Line:
    """The line with other ids for its snapshots."""
    return Line(
        events=line.events,
        snapshots=[replace(s, id=ids[s.id], parent=ids.get(s.parent or "")) for s in line.snapshots],
        states={ids[key]: state for key, state in line.states.items()},
    )


def mend(
    scoped: Scoped,
    snapshot_id: str,
    tensors: Sequence[TensorBytes],
    environment: Mapping[str, JSON],
    probe: Mapping[str, JSON] | None = None,
) -> Snapshot:
    """Stores the state of a snapshot anew, because it was damaged or pruned.

    Args:
        probe: what it answers to the fixed text; None: it keeps the one that it has.

    Raises:
        SnapshotNotFound: no such snapshot.
    """
    split = SplitState(tensors)
    with scoped.writing() as (tx, scope_id, _key):
        row = scoped.snapshot_row(tx, snapshot_id, scope_id)
        chunks.drop(tx, scope_id, [row.id])
        chunks.store(tx, scope_id, row.id, split, scoped.transform)
        row.status, row.environment = "stored", dict(environment)
        row.state_digest, row.state_bytes = split.digest, split.bytes
        row.probe = row.probe if probe is None else dict(probe)
        tx.flush()
        return scoped.snapshot_record(row)


def forget_user(scoped: Scoped) -> tuple[int, int, int]:
    """Deletes all that the archive holds of a user, and the key of the hashes of the user's texts.

    Returns:
        How many sessions, events and snapshots that were.
    """
    with scoped.writing() as (tx, scope_id, _key), scoped.database.erasing(tx):
        counts = [
            tx.scalar(select(func.count()).select_from(table).where(table.scope_id == scope_id)) or 0
            for table in (SessionRow, EventRow, SnapshotRow)
        ]
        mine = SessionRow.scope_id == scope_id
        tx.execute(update(SessionRow).where(mine).values(head_id=None, forked_from=None))
        tx.execute(update(SnapshotRow).where(SnapshotRow.scope_id == scope_id).values(parent_id=None))
        for table in (PieceRow, TensorRow, ChunkRow, JobRow, EventRow, SnapshotRow, SessionRow):
            tx.execute(delete(table).where(table.scope_id == scope_id))
        audit.record(tx, scope_id, "forget", dict(zip(("sessions", "events", "snapshots"), counts, strict=True)))
        tx.execute(delete(ScopeRow).where(ScopeRow.id == scope_id))
    scoped.forgotten()
    return counts[0], counts[1], counts[2]
