"""The first tables: SQLite alone, states as whole files.

They were made without Alembic; a database that has them is taken for one at this revision.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "meta",
        sa.Column("key", sa.String(length=255), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_meta"),
    )
    op.create_table(
        "sessions",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant", sa.String(length=255), nullable=False),
        sa.Column("user_id", sa.String(length=255), nullable=False),
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
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
        sa.UniqueConstraint("tenant", "user_id", "thread", name="uq_sessions_tenant_user_id_thread"),
    )
    op.create_index("ix_sessions_forked_from", "sessions", ["forked_from"], unique=False)
    op.create_index("ix_sessions_head_id", "sessions", ["head_id"], unique=False)
    op.create_table(
        "states",
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name="pk_states"),
    )
    op.create_table(
        "events",
        sa.Column("session_id", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("role", sa.String(length=255), nullable=True),
        sa.Column("token_count", sa.BigInteger(), nullable=False),
        sa.Column("token_ids", sa.LargeBinary(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.Column("checksum", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_events_session_id"),
        sa.PrimaryKeyConstraint("session_id", "seq", name="pk_events"),
    )
    op.create_table(
        "snapshots",
        sa.Column("id", sa.String(length=32), nullable=False),
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
        sa.Column("state_digest", sa.String(length=64), nullable=False),
        sa.Column("state_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("tag", sa.String(length=255), nullable=True),
        sa.ForeignKeyConstraint(["parent_id"], ["snapshots.id"], name="fk_snapshots_parent_id"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_snapshots_session_id"),
        sa.ForeignKeyConstraint(["state_digest"], ["states.digest"], name="fk_snapshots_state_digest"),
        sa.PrimaryKeyConstraint("id", name="pk_snapshots"),
    )
    op.create_index("ix_snapshots_parent_id", "snapshots", ["parent_id"], unique=False)
    op.create_index("ix_snapshots_session_id", "snapshots", ["session_id"], unique=False)
    op.create_index("ix_snapshots_state_digest", "snapshots", ["state_digest"], unique=False)
    op.execute("INSERT INTO meta (key, value) VALUES ('schema_version', '1')")
