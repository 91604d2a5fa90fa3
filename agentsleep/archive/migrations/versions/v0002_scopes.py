"""Scopes, chunks, jobs, an audit and full-text search; what the first tables hold is taken over."""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import struct
import uuid
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_OLD = ("events", "snapshots", "states", "sessions")
_CHUNK_BYTES = 2 * 2**20

_SEARCH = (
    "CREATE VIRTUAL TABLE events_search USING fts5(text, content = 'events', content_rowid = 'id', "
    'tokenize = "unicode61 remove_diacritics 2")',
    "CREATE TRIGGER events_search_insert AFTER INSERT ON events BEGIN "
    "INSERT INTO events_search (rowid, text) VALUES (new.id, new.text); END",
    "CREATE TRIGGER events_search_delete AFTER DELETE ON events BEGIN "
    "INSERT INTO events_search (events_search, rowid, text) VALUES ('delete', old.id, old.text); END",
)


def upgrade() -> None:
    """Makes the new tables beside the old ones, copies, and drops the old ones. Only SQLite ever had those."""
    for index in ("ix_sessions_forked_from", "ix_sessions_head_id", "ix_snapshots_parent_id"):
        op.drop_index(index)
    op.drop_index("ix_snapshots_session_id")
    op.drop_index("ix_snapshots_state_digest")
    for table in _OLD:
        op.rename_table(table, f"old_{table}")
    _create()
    for statement in _SEARCH:
        op.execute(statement)
    _copy(op.get_bind())
    op.execute("UPDATE old_sessions SET head_id = NULL, forked_from = NULL")
    for table in _OLD:
        op.drop_table(f"old_{table}")
    op.drop_table("meta")


def _copy(connection: sa.Connection) -> None:
    tables = sa.MetaData()
    sa.event.listen(tables, "column_reflect", _as_it_lies)
    tables.reflect(connection)
    new, old = tables.tables, {name: tables.tables[f"old_{name}"] for name in _OLD}
    scopes: dict[tuple[str, str], tuple[str, bytes]] = {}
    owner: dict[str, tuple[str, bytes]] = {}
    heads: list[dict[str, Any]] = []
    for row in connection.execute(sa.select(old["sessions"])).mappings().all():
        whose = (row["tenant"], row["user_id"])
        if whose not in scopes:
            scopes[whose] = uuid.uuid4().hex, secrets.token_bytes(32)
            values = dict(zip(("id", "key"), scopes[whose], strict=True))
            connection.execute(
                new["scopes"].insert().values(tenant=whose[0], user_id=whose[1], created=row["created"], **values)
            )
        owner[row["id"]] = scopes[whose]
        heads.append({"session": row["id"], "head": row["head_id"], "origin": row["forked_from"]})
        kept = {name: row[name] for name in row if name not in ("tenant", "user_id", "head_id", "forked_from")}
        connection.execute(new["sessions"].insert().values(scope_id=scopes[whose][0], **kept))
    for row in connection.execute(sa.select(old["events"])).mappings():
        scope_id, key = owner[row["session_id"]]
        text, hashed = row["text"], None
        if text is not None:
            hashed = hmac.new(key, f"{row['role'] or ''}\0{text}".encode(), hashlib.sha256).digest()[:16]
        connection.execute(new["events"].insert().values(scope_id=scope_id, text_hash=hashed, **row))
    # Parents before their children.
    query = sa.select(old["snapshots"]).order_by(old["snapshots"].c.created, old["snapshots"].c.span_stop)
    for row in connection.execute(query).mappings().all():
        _copy_snapshot(connection, new, old["states"], dict(row), owner[row["session_id"]][0])
    for ids in heads:
        update = new["sessions"].update().where(new["sessions"].c.id == ids["session"])
        connection.execute(update.values(head_id=ids["head"], forked_from=ids["origin"]))


def _as_it_lies(_inspector: object, _table: object, column: dict[str, Any]) -> None:
    # A value that is damaged is copied as it is, and refused when it is read; it must not stop the upgrade.
    if isinstance(column["type"], (sa.JSON, sa.DateTime, sa.LargeBinary)):
        column["type"] = sa.types.NullType()


def _copy_snapshot(connection: sa.Connection, new: Any, states: sa.Table, row: dict[str, Any], scope_id: str) -> None:
    state = connection.scalar(sa.select(states.c.data).where(states.c.digest == row["state_digest"]))
    tensors = []
    if isinstance(state, bytes) and hashlib.sha256(state).hexdigest() == row["state_digest"]:
        tensors = _tensors(state)
    manifest, pieces = [], []
    for ordinal, (name, dtype, shape, data) in enumerate(tensors):
        parts = [data[start : start + _CHUNK_BYTES] for start in range(0, len(data), _CHUNK_BYTES)]
        digests = [hashlib.sha256(part).hexdigest() for part in parts]
        manifest.append([name, dtype, shape, digests])
        for part, (digest, chunk) in enumerate(zip(digests, parts, strict=True)):
            _put(connection, new["chunks"], scope_id, digest, chunk)
            pieces.append({"ordinal": ordinal, "part": part, "digest": digest})
    row["state_bytes"] = sum(len(data) for *_, data in tensors)
    row["state_digest"] = hashlib.sha256(
        json.dumps(manifest, ensure_ascii=False, separators=(",", ":")).encode()
    ).hexdigest()
    # A state that was damaged before can be computed from the log, like one that was pruned.
    row["status"] = "stored" if tensors else "pruned"
    connection.execute(new["snapshots"].insert().values(scope_id=scope_id, probe="{}", **row))
    for ordinal, (name, dtype, shape, _data) in enumerate(tensors):
        connection.execute(
            new["tensors"]
            .insert()
            .values(
                snapshot_id=row["id"],
                scope_id=scope_id,
                ordinal=ordinal,
                name=name,
                dtype=dtype,
                shape=json.dumps(shape, separators=(",", ":")),
            )
        )
    for piece in pieces:
        connection.execute(new["pieces"].insert().values(snapshot_id=row["id"], scope_id=scope_id, **piece))


def _put(connection: sa.Connection, chunks: sa.Table, scope_id: str, digest: str, data: bytes) -> None:
    more = chunks.update().where(chunks.c.scope_id == scope_id, chunks.c.digest == digest)
    if connection.execute(more.values(refs=chunks.c.refs + 1)).rowcount == 0:
        connection.execute(chunks.insert().values(scope_id=scope_id, digest=digest, refs=1, size=len(data), data=data))


def _tensors(state: bytes) -> list[tuple[str, str, list[int], bytes]]:
    """What a safetensors file holds: eight bytes of length, a JSON header, the data."""
    (length,) = struct.unpack("<Q", state[:8])
    header = json.loads(state[8 : 8 + length])
    data = state[8 + length :]
    found = []
    for name in sorted(set(header) - {"__metadata__"}):
        start, stop = header[name]["data_offsets"]
        found.append((name, header[name]["dtype"], header[name]["shape"], data[start:stop]))
    return found


def _create() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("scope_id", sa.String(length=32), nullable=False),
        sa.Column("action", sa.String(length=255), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_scope_id", "audit", ["scope_id"], unique=False)
    op.create_table(
        "scopes",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
        sa.Column("key", sa.LargeBinary(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_scopes"),
        sa.UniqueConstraint("tenant", "user_id", name="uq_scopes_tenant_user_id"),
    )
    op.create_table(
        "chunks",
        sa.Column("scope_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("refs", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("codec", sa.String(length=255), nullable=True),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name="fk_chunks_scope_id"),
        sa.PrimaryKeyConstraint("scope_id", "digest", name="pk_chunks"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("scope_id", sa.String(length=32), nullable=False),
        sa.Column("thread", sa.String(length=255), nullable=False),
        sa.Column("fingerprint", sa.String(length=255), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("head_id", sa.String(length=32), nullable=True),
        sa.Column("forked_from", sa.String(length=32), nullable=True),
        sa.Column("next_seq", sa.BigInteger(), nullable=False),
        sa.Column("next_position", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["forked_from"], ["snapshots.id"], name="fk_sessions_forked_from", use_alter=True),
        sa.ForeignKeyConstraint(["head_id"], ["snapshots.id"], name="fk_sessions_head_id", use_alter=True),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name="fk_sessions_scope_id"),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("scope_id", "thread", name="uq_sessions_scope_id_thread"),
    )
    op.create_index("ix_sessions_forked_from", "sessions", ["forked_from"], unique=False)
    op.create_index("ix_sessions_head_id", "sessions", ["head_id"], unique=False)
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("scope_id", sa.String(length=32), nullable=False),
        sa.Column("session_id", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=255), nullable=True),
        sa.Column("token_count", sa.BigInteger(), nullable=False),
        sa.Column("token_ids", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("text_hash", sa.LargeBinary(length=16), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name="fk_events_scope_id"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_events_session_id"),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
        sa.UniqueConstraint("session_id", "seq", name="uq_events_session_id_seq"),
    )
    op.create_table(
        "jobs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("scope_id", sa.String(length=32), nullable=False),
        sa.Column("session_id", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("trigger_name", sa.String(length=255), nullable=False),
        sa.Column("args", sa.JSON(), nullable=False),
        sa.Column("stop", sa.BigInteger(), nullable=False),
        sa.Column("head_id", sa.String(length=32), nullable=True),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("priority", sa.BigInteger(), nullable=False),
        sa.Column("run_after", sa.DateTime(timezone=True), nullable=False),
        sa.Column("not_later", sa.DateTime(timezone=True), nullable=True),
        sa.Column("attempts", sa.BigInteger(), nullable=False),
        sa.Column("max_attempts", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.String(length=255), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("snapshot_id", sa.String(length=32), nullable=True),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name="fk_jobs_scope_id"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_jobs_session_id"),
        sa.PrimaryKeyConstraint("id", name="pk_jobs"),
    )
    op.create_index("ix_jobs_session_id", "jobs", ["session_id"], unique=False)
    op.create_index("ix_jobs_status_run_after", "jobs", ["status", "run_after"], unique=False)
    running = sa.text("status = 'running'")
    op.create_index(
        "uq_jobs_running", "jobs", ["session_id"], unique=True, sqlite_where=running, postgresql_where=running
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("scope_id", sa.String(length=32), nullable=False),
        sa.Column("session_id", sa.String(length=32), nullable=False),
        sa.Column("parent_id", sa.String(length=32), nullable=True),
        sa.Column("fingerprint", sa.String(length=255), nullable=False),
        sa.Column("passes", sa.BigInteger(), nullable=False),
        sa.Column("rounds", sa.BigInteger(), nullable=False),
        sa.Column("span_start", sa.BigInteger(), nullable=False),
        sa.Column("span_stop", sa.BigInteger(), nullable=False),
        sa.Column("tokens", sa.BigInteger(), nullable=False),
        sa.Column("trigger_name", sa.String(length=255), nullable=False),
        sa.Column("mode", sa.String(length=255), nullable=False),
        sa.Column("environment", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("probe", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=False),
        sa.Column("state_digest", sa.String(length=64), nullable=False),
        sa.Column("state_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tag", sa.String(length=255), nullable=True),
        sa.ForeignKeyConstraint(["parent_id"], ["snapshots.id"], name="fk_snapshots_parent_id"),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name="fk_snapshots_scope_id"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_snapshots_session_id"),
        sa.PrimaryKeyConstraint("id", name="pk_snapshots"),
    )
    op.create_index("ix_snapshots_parent_id", "snapshots", ["parent_id"], unique=False)
    op.create_index("ix_snapshots_scope_id_tag", "snapshots", ["scope_id", "tag"], unique=False)
    op.create_index("ix_snapshots_session_id", "snapshots", ["session_id"], unique=False)
    op.create_table(
        "tensors",
        sa.Column("snapshot_id", sa.String(length=32), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("scope_id", sa.String(length=32), nullable=False),
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("dtype", sa.String(length=16), nullable=False),
        sa.Column("shape", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["scope_id"], ["scopes.id"], name="fk_tensors_scope_id"),
        sa.ForeignKeyConstraint(["snapshot_id"], ["snapshots.id"], name="fk_tensors_snapshot_id"),
        sa.PrimaryKeyConstraint("snapshot_id", "ordinal", name="pk_tensors"),
    )
    op.create_table(
        "pieces",
        sa.Column("snapshot_id", sa.String(length=32), nullable=False),
        sa.Column("ordinal", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("part", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("scope_id", sa.String(length=32), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.ForeignKeyConstraint(
            ["scope_id", "digest"], ["chunks.scope_id", "chunks.digest"], name="fk_pieces_scope_id_digest"
        ),
        sa.ForeignKeyConstraint(
            ["snapshot_id", "ordinal"], ["tensors.snapshot_id", "tensors.ordinal"], name="fk_pieces_snapshot_id_ordinal"
        ),
        sa.PrimaryKeyConstraint("snapshot_id", "ordinal", "part", name="pk_pieces"),
    )
    op.create_index("ix_pieces_scope_id_digest", "pieces", ["scope_id", "digest"], unique=False)
