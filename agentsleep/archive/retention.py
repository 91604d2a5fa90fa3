"""Which states are kept, and taking the others away. Logs, lineage and measurements always stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, NamedTuple, TypeAlias

from sqlalchemy import ColumnElement, exists, func, select, update
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive import audit, chunks, lines, rows
from agentsleep.archive.log import lineage
from agentsleep.archive.rules import Retention
from agentsleep.archive.schema import ChunkRow, PieceRow, SessionRow, SnapshotRow
from agentsleep.archive.scoped import Scoped
from agentsleep.errors import InputError

Reason: TypeAlias = Literal["keep_last", "ttl", "quota"]
"""Why a state goes: it is not among the newest of any line, it is too old, or the user's states are too large."""


@dataclass(frozen=True, kw_only=True)
class Prunable:
    """A snapshot whose state goes."""

    snapshot_id: str
    session_id: str
    created: datetime
    reason: Reason
    bytes: int
    """What it frees after those before it are gone: chunks that nothing else refers to."""


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """What a prune would take away."""

    snapshots: tuple[Prunable, ...]
    """Oldest first; those that go for the quota come last."""
    over_quota: int
    """Bytes by which the user stays over the quota, since heads and tagged states stay."""

    @property
    def bytes(self) -> int:
        """What becomes free."""
        return sum(one.bytes for one in self.snapshots)


@dataclass(frozen=True, kw_only=True)
class Pruned(PrunePlan):
    """What a prune took away."""


class _State(NamedTuple):
    id: str
    session_id: str
    created: datetime


def plan(scoped: Scoped, retention: Retention, session_id: str | None = None, now: datetime | None = None) -> PrunePlan:
    """What `prune` would take away now. Writes nothing.

    Args:
        session_id: looks only at states of this session's log; a quota counts all of the user's all the same.
        now: the time that ages are counted to, with a zone; None: the present.

    Raises:
        SessionNotFound: no such session.  InputError: `now` has no zone.
    """
    with scoped.reading() as (tx, scope_id):
        session = scoped.session_row(tx, session_id, scope_id) if session_id is not None else None
        return _plan(tx, scope_id, retention, session, _time(now))


def prune(scoped: Scoped, retention: Retention, session_id: str | None = None, now: datetime | None = None) -> Pruned:
    """Takes away the states that the retention does not keep, in one transaction, and records it in the audit.

    Their snapshots stay, with status "pruned": history, lineage and logs are whole, and a state can be computed again.
    Arguments and errors are those of `plan`.
    """
    with scoped.writing() as (tx, scope_id, _key):
        session = scoped.session_row(tx, session_id, scope_id) if session_id is not None else None
        pruned = sweep(tx, scope_id, retention, session, now)
        if pruned.snapshots:
            ids = [one.snapshot_id for one in pruned.snapshots]
            audit.record(tx, scope_id, "prune", {"snapshots": ids, "states": len(ids), "bytes": pruned.bytes})
    return pruned


def sweep(
    tx: Transaction,
    scope_id: str,
    retention: Retention,
    session: SessionRow | None = None,
    now: datetime | None = None,
) -> Pruned:
    """`prune` within a transaction, such as that of a sleep, and without an entry in the audit."""
    planned = _plan(tx, scope_id, retention, session, _time(now))
    # A row is locked before it is looked at again: a fork or a tag of a moment ago (in PostgreSQL) saves it.
    ids = sorted(one.snapshot_id for one in planned.snapshots)
    for some in lines.batches(ids):
        tx.execute(select(SnapshotRow.id).where(SnapshotRow.id.in_(some)).order_by(SnapshotRow.id).with_for_update())
    free = {one.id for some in lines.batches(ids) for one in _unprotected(tx, scope_id, SnapshotRow.id.in_(some))}
    going = [one for one in planned.snapshots if one.snapshot_id in free]
    gone = [one.snapshot_id for one in going]
    if len(going) < len(ids):
        freed = _Ledger(tx, scope_id).release(gone)
        going = [replace(one, bytes=freed[one.snapshot_id]) for one in going]
    for some in lines.batches(gone):
        chunks.drop(tx, scope_id, some)
        mine = (SnapshotRow.scope_id == scope_id, SnapshotRow.id.in_(some))
        tx.execute(update(SnapshotRow).where(*mine).values(status="pruned", probe={}))
    return Pruned(snapshots=tuple(going), over_quota=planned.over_quota)


def _plan(tx: Transaction, scope_id: str, retention: Retention, session: SessionRow | None, now: datetime) -> PrunePlan:
    line = [] if session is None else [SnapshotRow.session_id.in_(select(lineage(session).c.id))]
    states = _unprotected(tx, scope_id, *line)
    going: dict[str, Reason] = {}
    if retention.max_age is not None:
        going.update((one.id, "ttl") for one in states if one.created < now - retention.max_age)
    if retention.keep_last is not None:
        left = [one for one in states if one.id not in going]
        going.update((one, "keep_last") for one in _superfluous(tx, scope_id, left, retention, session))
    known = {one.id: one for one in states}
    order = sorted(going, key=lambda i: (known[i].created, i))
    ledger = _Ledger(tx, scope_id)
    freed = ledger.release(order)
    over = 0
    if retention.quota_bytes is not None:
        total = int(tx.scalar(select(func.sum(ChunkRow.size)).where(ChunkRow.scope_id == scope_id)) or 0)
        over = total - sum(freed.values()) - retention.quota_bytes
        others = [one for one in _unprotected(tx, scope_id) if one.id not in going] if over > 0 else []
        for one in others:
            if over <= 0:
                break
            known[one.id], going[one.id] = one, "quota"
            freed.update(ledger.release([one.id]))
            over -= freed[one.id]
    prunable = tuple(
        Prunable(
            snapshot_id=i,
            session_id=known[i].session_id,
            created=known[i].created,
            reason=reason,
            bytes=freed[i],
        )
        for i, reason in ((i, going[i]) for i in freed)
    )
    return PrunePlan(snapshots=prunable, over_quota=max(0, over))


def _unprotected(tx: Transaction, scope_id: str, *which: ColumnElement[bool]) -> list[_State]:
    """Stored states that are neither tagged nor the head of a session (so of no session that waits for a job)."""
    is_head = exists().where(SessionRow.head_id == SnapshotRow.id, SessionRow.scope_id == scope_id)
    query = select(SnapshotRow.id, SnapshotRow.session_id, SnapshotRow.created).where(
        SnapshotRow.scope_id == scope_id,
        SnapshotRow.status == "stored",
        SnapshotRow.tag.is_(None),
        ~is_head,
        *which,
    )
    return [_State(*row) for row in tx.execute(query.order_by(SnapshotRow.created, SnapshotRow.id))]


def _superfluous(
    tx: Transaction, scope_id: str, states: Sequence[_State], retention: Retention, session: SessionRow | None
) -> list[str]:
    """Ids of those that no line keeps."""
    last, ids = retention.keep_last or 1, [one.id for one in states]
    if ids:
        heads = select(SessionRow.head_id).where(SessionRow.scope_id == scope_id)
        near = lines.newest(tx, scope_id, heads if session is None else heads.where(SessionRow.id == session.id), last)
        ids = [one for one in ids if one not in near]
    if session is not None and ids:
        # Other lines are looked for from what would go: the cost does not grow with the user's threads.
        held = lines.held(tx, scope_id, ids, last)
        ids = [one for one in ids if one not in held]
    if retention.every is not None and ids:
        depth = lines.depths(tx, scope_id, ids)
        ids = [one for one in ids if depth[one] % retention.every]
    return ids


class _Ledger:
    """What taking states away frees: a chunk counts when nothing refers to it any more."""

    def __init__(self, tx: Transaction, scope_id: str) -> None:
        self._tx, self._scope_id = tx, scope_id
        self._left: dict[str, int] = {}  # by digest: the references that remain

    def release(self, snapshot_ids: Sequence[str]) -> dict[str, int]:
        """Bytes by snapshot, if they go in this order."""
        freed = dict.fromkeys(snapshot_ids, 0)
        for some in lines.batches(snapshot_ids):
            query = (
                select(PieceRow.snapshot_id, ChunkRow.digest, ChunkRow.refs, ChunkRow.size)
                .join(ChunkRow, (ChunkRow.scope_id == PieceRow.scope_id) & (ChunkRow.digest == PieceRow.digest))
                .where(PieceRow.scope_id == self._scope_id, PieceRow.snapshot_id.in_(some))
            )
            held: dict[str, list[tuple[str, int, int]]] = {one: [] for one in some}
            for snapshot_id, digest, refs, size in self._tx.execute(query):
                held[snapshot_id].append((digest, refs, size))
            for snapshot_id, its in held.items():
                for digest, refs, size in its:
                    self._left[digest] = self._left.get(digest, refs) - 1
                    freed[snapshot_id] += size if self._left[digest] == 0 else 0
        return freed


def _time(now: datetime | None) -> datetime:
    if now is not None and now.tzinfo is None:
        raise InputError(f"now is {now.isoformat()}, without a zone; give an aware datetime, such as in UTC")
    return now or rows.now()
