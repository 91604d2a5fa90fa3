"""Single steps on the rows of sessions, snapshots and states; `store.py` puts them into transactions."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import CursorResult, Select, insert, literal, select, update
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive.schema import SessionRow, SnapshotRow, StateRow
from agentsleep.archive.types import Scope, SessionRecord, Snapshot
from agentsleep.errors import SnapshotConflict


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


def new_session(scope: Scope, fingerprint: str, settings: dict[str, Any], *, origin: SnapshotRow | None) -> SessionRow:
    """A session at its beginning: empty, or just after the snapshot `origin` that it is forked from."""
    return SessionRow(
        id=uuid.uuid4().hex,
        tenant=scope.tenant,
        user_id=scope.user,
        thread=scope.thread,
        fingerprint=fingerprint,
        settings=settings,
        head_id=origin.id if origin else None,
        forked_from=origin.id if origin else None,
        next_seq=origin.span_stop if origin else 0,
        next_position=origin.tokens if origin else 0,
        created=now(),
    )


def by_scope(scope: Scope) -> Select[SessionRow]:
    """The query for the one session of a scope."""
    return select(SessionRow).where(
        SessionRow.tenant == scope.tenant, SessionRow.user_id == scope.user, SessionRow.thread == scope.thread
    )


def ancestors(session_id: str) -> Select[SnapshotRow]:
    """The query for a session's head and all its ancestors, oldest first."""
    chain = (
        select(SnapshotRow.id, SnapshotRow.parent_id, literal(0).label("age"))
        .join(SessionRow, SessionRow.head_id == SnapshotRow.id)
        .where(SessionRow.id == session_id)
        .cte("chain", recursive=True)
    )
    chain = chain.union_all(
        select(SnapshotRow.id, SnapshotRow.parent_id, chain.c.age + 1).join(chain, SnapshotRow.id == chain.c.parent_id)
    )
    return select(SnapshotRow).join(chain, SnapshotRow.id == chain.c.id).order_by(chain.c.age.desc())


def keep_state(tx: Transaction, digest: str, state: bytes) -> None:
    """Stores a state's bytes under their digest, once."""
    stored = tx.scalar(select(StateRow.data).where(StateRow.digest == digest))
    if stored is None:
        tx.execute(insert(StateRow).values(digest=digest, data=state))
    elif stored != state:
        # Damaged since it was stored: the new snapshot must not rest on it, and the old ones are mended with it.
        tx.execute(update(StateRow).where(StateRow.digest == digest).values(data=state))


def move_head(tx: Transaction, session_id: str, expected: str | None, head: str) -> None:
    """Compare-and-swap of the head. Raises `SnapshotConflict` if it is not the expected one."""
    moved = cast(
        "CursorResult[Any]",
        tx.execute(
            update(SessionRow)
            .where(SessionRow.id == session_id, SessionRow.head_id.is_not_distinct_from(expected))
            .values(head_id=head)
            .execution_options(synchronize_session=False)
        ),
    )
    if moved.rowcount != 1:
        found = tx.scalar(select(SessionRow.head_id).where(SessionRow.id == session_id))
        raise conflict(session_id, expected, found)


def conflict(session_id: str, expected: str | None, found: str | None) -> SnapshotConflict:
    """The error for a lost race."""
    return SnapshotConflict(
        f"the head of session {session_id} is {found or 'none'}, the sleep started from {expected or 'none'}; "
        "nothing was stored; open the session again and sleep from its new head"
    )


def session_record(row: SessionRow) -> SessionRecord:
    """The row as a value."""
    return SessionRecord(
        id=row.id,
        scope=Scope(tenant=row.tenant, user=row.user_id, thread=row.thread),
        fingerprint=row.fingerprint,
        settings=row.settings,
        head=row.head_id,
        forked_from=row.forked_from,
        events=row.next_seq,
        tokens=row.next_position,
        created=row.created,
    )


def snapshot_record(row: SnapshotRow) -> Snapshot:
    """The row as a value."""
    return Snapshot(
        id=row.id,
        session_id=row.session_id,
        parent=row.parent_id,
        fingerprint=row.fingerprint,
        passes=row.passes,
        rounds=row.rounds,
        span=(row.span_start, row.span_stop),
        tokens=row.tokens,
        trigger=row.trigger,
        mode=row.mode,
        environment=row.environment,
        metrics=row.metrics,
        state_digest=row.state_digest,
        state_bytes=row.state_bytes,
        created=row.created,
        tag=row.tag,
    )
