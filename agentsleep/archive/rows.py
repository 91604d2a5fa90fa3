"""Single steps on the rows of scopes, sessions and snapshots; `store.py` puts them into transactions."""

from __future__ import annotations

import secrets
import uuid
from datetime import UTC, datetime
from typing import Any, cast

from sqlalchemy import CursorResult, Select, literal, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive.schema import ScopeRow, SessionRow, SnapshotRow
from agentsleep.archive.types import Scope, SessionRecord, Snapshot, Status
from agentsleep.errors import SnapshotConflict


def now() -> datetime:
    """The time, UTC."""
    return datetime.now(UTC)


def make_scope(tx: Transaction, tenant: str, user: str) -> None:
    """A user at the beginning; does nothing where another writer was faster."""
    insert = sqlite_insert if tx.get_bind().dialect.name == "sqlite" else postgres_insert
    row = {"id": uuid.uuid4().hex, "tenant": tenant, "user_id": user, "key": secrets.token_bytes(32), "created": now()}
    tx.execute(insert(ScopeRow).values(row).on_conflict_do_nothing(index_elements=["tenant", "user_id"]))


def new_session(
    scope_id: str, thread: str, fingerprint: str, settings: dict[str, Any], *, origin: SnapshotRow | None
) -> SessionRow:
    """A session at its beginning: empty, or just after the snapshot `origin` that it is forked from."""
    return SessionRow(
        id=uuid.uuid4().hex,
        scope_id=scope_id,
        thread=thread,
        fingerprint=fingerprint,
        settings=settings,
        head_id=origin.id if origin else None,
        forked_from=origin.id if origin else None,
        next_seq=origin.span_stop if origin else 0,
        next_position=origin.tokens if origin else 0,
        created=now(),
    )


def ancestors(head_id: str, scope_id: str) -> Select[SnapshotRow]:
    """The query for a snapshot and all its ancestors, oldest first."""
    chain = (
        select(SnapshotRow.id, SnapshotRow.parent_id, literal(0).label("age"))
        .where(SnapshotRow.id == head_id, SnapshotRow.scope_id == scope_id)
        .cte("chain", recursive=True)
    )
    chain = chain.union_all(
        select(SnapshotRow.id, SnapshotRow.parent_id, chain.c.age + 1)
        .join(chain, SnapshotRow.id == chain.c.parent_id)
        .where(SnapshotRow.scope_id == scope_id)
    )
    return select(SnapshotRow).join(chain, SnapshotRow.id == chain.c.id).order_by(chain.c.age.desc())


def move_head(tx: Transaction, session: SessionRow, expected: str | None, head: str) -> None:
    """Compare-and-swap of the head. Raises `SnapshotConflict` if it is not the expected one."""
    moved = cast(
        "CursorResult[Any]",
        tx.execute(
            update(SessionRow)
            .where(
                SessionRow.id == session.id,
                SessionRow.scope_id == session.scope_id,
                SessionRow.head_id.is_not_distinct_from(expected),
            )
            .values(head_id=head)
            .execution_options(synchronize_session=False)
        ),
    )
    if moved.rowcount != 1:
        mine = (SessionRow.id == session.id, SessionRow.scope_id == session.scope_id)
        raise conflict(session.id, expected, tx.scalar(select(SessionRow.head_id).where(*mine)))


def conflict(session_id: str, expected: str | None, found: str | None) -> SnapshotConflict:
    """The error for a lost race."""
    return SnapshotConflict(
        f"the head of session {session_id} is {found or 'none'}, the sleep started from {expected or 'none'}; "
        "nothing was stored; open the session again and sleep from its new head"
    )


def session_record(row: SessionRow, tenant: str, user: str) -> SessionRecord:
    """The row of a user's session as a value."""
    return SessionRecord(
        id=row.id,
        scope=Scope(tenant=tenant, user=user, thread=row.thread),
        fingerprint=row.fingerprint,
        settings=row.settings,
        head=row.head_id,
        forked_from=row.forked_from,
        events=row.next_seq,
        tokens=row.next_position,
        created=row.created,
    )


def snapshot_record(row: SnapshotRow, tenant: str, user: str) -> Snapshot:
    """The row of a user's snapshot as a value."""
    return Snapshot(
        id=row.id,
        tenant=tenant,
        user=user,
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
        probe=row.probe,
        status=cast("Status", row.status),
        state_digest=row.state_digest,
        state_bytes=row.state_bytes,
        created=row.created,
        tag=row.tag,
    )
