"""The tables. Standard SQL throughout, so that the same schema serves SQLite and PostgreSQL.

meta        key, value                      the schema's version
sessions    scope, head, counters           one row an agent thread; the head is a pointer into snapshots
events      session, seq                    the log: the truth that every state can be computed from again
snapshots   parent, span, state             immutable; a session's history is the line of parents from its head
states      digest, bytes                   content-addressed: equal states are stored once
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
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    inspect,
    select,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive.engine import Database
from agentsleep.archive.types import MAX_NAME
from agentsleep.errors import ArchiveDamaged, ArchiveError

SCHEMA_VERSION = 1

Id = String(32)
"""UUIDv4 in hex: cannot be guessed."""


class UTCDateTime(TypeDecorator[datetime]):
    """Aware datetimes in and out; SQLite would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or value.tzinfo is not None:
            return value
        return value.replace(tzinfo=UTC)


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
    }


class MetaRow(Base):
    """A fact about the database itself; today only "schema_version"."""

    __tablename__ = "meta"

    key: Mapped[str] = mapped_column(String(MAX_NAME), primary_key=True)
    value: Mapped[str] = mapped_column(Text)


class SessionRow(Base):
    """A session of a scope, its head, and its counters: an append never counts the log."""

    __tablename__ = "sessions"
    __table_args__ = (UniqueConstraint("tenant", "user_id", "thread"),)

    id: Mapped[str] = mapped_column(Id, primary_key=True)
    tenant: Mapped[str] = mapped_column(String(MAX_NAME))
    user_id: Mapped[str] = mapped_column(String(MAX_NAME))
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

    session_id: Mapped[str] = mapped_column(Id, ForeignKey("sessions.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    kind: Mapped[str] = mapped_column(String(16))
    role: Mapped[str | None] = mapped_column(String(MAX_NAME))
    token_count: Mapped[int]
    token_ids: Mapped[bytes]
    position: Mapped[int]
    text: Mapped[str | None] = mapped_column(Text)
    data: Mapped[dict[str, Any]]
    checksum: Mapped[int]
    created: Mapped[datetime]


class StateRow(Base):
    """The bytes of a state under their SHA-256."""

    __tablename__ = "states"

    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    data: Mapped[bytes]


class SnapshotRow(Base):
    """A state with its lineage. Only its tag ever changes."""

    __tablename__ = "snapshots"

    id: Mapped[str] = mapped_column(Id, primary_key=True)
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
    state_digest: Mapped[str] = mapped_column(String(64), ForeignKey("states.digest"), index=True)
    state_bytes: Mapped[int]
    created: Mapped[datetime]
    tag: Mapped[str | None] = mapped_column(String(MAX_NAME))


def prepare(database: Database) -> None:
    """Creates the tables in an empty database; checks the version of a database that has them.

    Raises:
        ArchiveError: another program's database, or a schema newer than this library knows.
        ArchiveDamaged: the version cannot be read.
    """
    with database.reading() as tx:
        if _is_current(tx, database.name):
            return
    with database.writing() as tx:
        if not _is_current(tx, database.name):  # another process may have been faster
            Base.metadata.create_all(tx.connection())
            tx.add(MetaRow(key="schema_version", value=str(SCHEMA_VERSION)))


def _is_current(tx: Transaction, name: str) -> bool:
    """True: our schema; False: an empty database; anything else raises."""
    tables = inspect(tx.connection()).get_table_names()
    if not tables:
        return False
    value = None
    if MetaRow.__tablename__ in tables:
        value = tx.scalar(select(MetaRow.value).where(MetaRow.key == "schema_version"))
    if value is None:
        raise ArchiveError(
            f"{name} holds another program's tables ({', '.join(sorted(tables))[:80]}) and no agentsleep archive; "
            "choose another path"
        )
    if not value.isdecimal():
        raise ArchiveDamaged(f"the archive {name} has schema version {value!r:.40}; restore it from a backup")
    if int(value) > SCHEMA_VERSION:
        raise ArchiveError(
            f"the archive {name} has schema version {value}, this agentsleep knows {SCHEMA_VERSION}; upgrade agentsleep"
        )
    return True
