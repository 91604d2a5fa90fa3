"""The tables, for SQLite and PostgreSQL alike.

scopes      tenant, user, key               whose memory it is; every other row belongs to one
sessions    thread, head, counters          one row an agent thread; the head is a pointer into snapshots
events      session, seq                    the log: the truth that every state can be computed from again
snapshots   parent, span, status            immutable; a session's history is the line of parents from its head
tensors     snapshot, ordinal               the tensors of a state: name, dtype, shape
pieces      tensor, part                    the chunks that a tensor is made of, in order
chunks      scope, digest                   content-addressed bytes and how many pieces refer to them
jobs        session, status, lease          sleeps that are to be made later
audit       action                          what was forgotten, pruned, imported: ids and counts, never text

How they came to be, one step after the other, is in `migrations/versions`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from agentsleep.archive.types import MAX_NAME

REVISION = "0002"
"""The migration that leads to these tables."""

Id = String(32)
"""UUIDv4 in hex: cannot be guessed."""

Digest = String(64)
"""SHA-256 in hex."""

# SQLite numbers rows by itself only where the key is declared INTEGER.
RowNumber = BigInteger().with_variant(Integer, "sqlite")


class UTCDateTime(TypeDecorator[datetime]):
    """Aware datetimes in and out; SQLite would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """What the tables share."""

    # Named constraints: a migration can only alter what has a name.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        int: BigInteger,
        bytes: LargeBinary,
        datetime: UTCDateTime,
        dict[str, Any]: JSON,
        list[Any]: JSON,
    }


class ScopeRow(Base):
    """A user of a tenant. `key` is the secret of the hashes of the user's texts; it goes when the user is forgotten."""

    __tablename__ = "scopes"
    __table_args__ = (UniqueConstraint("tenant", "user_id"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant: Mapped[str] = mapped_column(String(MAX_NAME))
    user_id: Mapped[str] = mapped_column(String(MAX_NAME))
    key: Mapped[bytes]
    created: Mapped[datetime]


class SessionRow(Base):
    """A thread of a user, its head, and its counters: an append never counts the log."""

    __tablename__ = "sessions"
    __table_args__ = (UniqueConstraint("scope_id", "thread"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    scope_id: Mapped[str] = mapped_column(Id, ForeignKey("scopes.id"))
    thread: Mapped[str] = mapped_column(String(MAX_NAME))
    fingerprint: Mapped[str] = mapped_column(String(MAX_NAME))
    settings: Mapped[dict[str, Any]]
    # use_alter: sessions and snapshots point at each other, so one key is added after both tables exist.
    head_id: Mapped[str | None] = mapped_column(Id, ForeignKey("snapshots.id", use_alter=True), index=True)
    forked_from: Mapped[str | None] = mapped_column(Id, ForeignKey("snapshots.id", use_alter=True), index=True)
    next_seq: Mapped[int]
    next_position: Mapped[int]
    created: Mapped[datetime]


class EventRow(Base):
    """An event of a session's own log; what it inherited lies with the session that it was forked from."""

    __tablename__ = "events"
    __table_args__ = (UniqueConstraint("session_id", "seq"),)

    # A number of its own, since the full-text index of SQLite points at rows by number.
    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    scope_id: Mapped[str] = mapped_column(Id, ForeignKey("scopes.id"))
    session_id: Mapped[str] = mapped_column(Id, ForeignKey("sessions.id"))
    seq: Mapped[int]
    kind: Mapped[str] = mapped_column(String(16))
    role: Mapped[str | None] = mapped_column(String(MAX_NAME))
    token_count: Mapped[int]
    token_ids: Mapped[bytes]
    position: Mapped[int]
    text: Mapped[str | None] = mapped_column(Text)
    text_hash: Mapped[bytes | None] = mapped_column(LargeBinary(16))
    data: Mapped[dict[str, Any]]
    checksum: Mapped[int]
    created: Mapped[datetime]


class SnapshotRow(Base):
    """A state with its lineage. Only its tag ever changes, and its status when retention takes the state away."""

    __tablename__ = "snapshots"
    __table_args__ = (Index(None, "scope_id", "tag"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    scope_id: Mapped[str] = mapped_column(Id, ForeignKey("scopes.id"))
    session_id: Mapped[str] = mapped_column(Id, ForeignKey("sessions.id"), index=True)
    parent_id: Mapped[str | None] = mapped_column(Id, ForeignKey("snapshots.id"), index=True)
    fingerprint: Mapped[str] = mapped_column(String(MAX_NAME))
    passes: Mapped[int]
    rounds: Mapped[int]
    span_start: Mapped[int]
    span_stop: Mapped[int]
    tokens: Mapped[int]
    trigger: Mapped[str] = mapped_column("trigger_name", String(MAX_NAME))  # TRIGGER is a reserved word of SQL
    mode: Mapped[str] = mapped_column(String(MAX_NAME))
    environment: Mapped[dict[str, Any]]
    metrics: Mapped[dict[str, Any]]
    probe: Mapped[dict[str, Any]]
    status: Mapped[str] = mapped_column(String(16))
    state_digest: Mapped[str] = mapped_column(Digest)
    state_bytes: Mapped[int]
    created: Mapped[datetime]
    tag: Mapped[str | None] = mapped_column(String(MAX_NAME))


class TensorRow(Base):
    """A tensor of a stored state."""

    __tablename__ = "tensors"

    snapshot_id: Mapped[str] = mapped_column(Id, ForeignKey("snapshots.id"), primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    scope_id: Mapped[str] = mapped_column(Id, ForeignKey("scopes.id"))
    name: Mapped[str] = mapped_column(String(MAX_NAME))
    dtype: Mapped[str] = mapped_column(String(16))
    shape: Mapped[list[Any]]


class PieceRow(Base):
    """A tensor's place for a chunk."""

    __tablename__ = "pieces"
    __table_args__ = (
        ForeignKeyConstraint(["snapshot_id", "ordinal"], ["tensors.snapshot_id", "tensors.ordinal"]),
        ForeignKeyConstraint(["scope_id", "digest"], ["chunks.scope_id", "chunks.digest"]),
        Index(None, "scope_id", "digest"),
    )

    snapshot_id: Mapped[str] = mapped_column(Id, primary_key=True)
    ordinal: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    part: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    scope_id: Mapped[str] = mapped_column(Id)
    digest: Mapped[str] = mapped_column(Digest)


class ChunkRow(Base):
    """Bytes under their SHA-256, as many as a piece holds; shared within a scope, never across scopes.

    `codec` names the transformation that `data` went through before it was stored; None: none.
    """

    __tablename__ = "chunks"

    scope_id: Mapped[str] = mapped_column(Id, ForeignKey("scopes.id"), primary_key=True)
    digest: Mapped[str] = mapped_column(Digest, primary_key=True)
    refs: Mapped[int]
    size: Mapped[int]
    codec: Mapped[str | None] = mapped_column(String(MAX_NAME))
    data: Mapped[bytes]


_RUNNING = text("status = 'running'")


class JobRow(Base):
    """A sleep that is to be made later, on what the session had said up to `stop`."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index(None, "status", "run_after"),
        # Of one session, one job runs at a time, whoever claims it.
        Index("uq_jobs_running", "session_id", unique=True, sqlite_where=_RUNNING, postgresql_where=_RUNNING),
    )

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    scope_id: Mapped[str] = mapped_column(Id, ForeignKey("scopes.id"))
    session_id: Mapped[str] = mapped_column(Id, ForeignKey("sessions.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    trigger: Mapped[str] = mapped_column("trigger_name", String(MAX_NAME))
    args: Mapped[dict[str, Any]]
    stop: Mapped[int]
    head_id: Mapped[str | None] = mapped_column(Id)  # of the session when it was asked for
    status: Mapped[str] = mapped_column(String(16))
    priority: Mapped[int]
    run_after: Mapped[datetime]
    not_later: Mapped[datetime | None]
    attempts: Mapped[int]
    max_attempts: Mapped[int]
    owner: Mapped[str | None] = mapped_column(String(MAX_NAME))
    lease_until: Mapped[datetime | None]
    error: Mapped[str | None] = mapped_column(Text)
    snapshot_id: Mapped[str | None] = mapped_column(Id)
    created: Mapped[datetime]
    finished: Mapped[datetime | None]


class AuditRow(Base):
    """What was done to the archive besides writing to it. Holds ids and counts, so it may outlive what it tells of."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(RowNumber, primary_key=True, autoincrement=True)
    scope_id: Mapped[str] = mapped_column(Id, index=True)
    action: Mapped[str] = mapped_column(String(MAX_NAME))
    detail: Mapped[dict[str, Any]]
    created: Mapped[datetime]
