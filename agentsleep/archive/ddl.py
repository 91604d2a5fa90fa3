"""What the tables cannot say of themselves: full-text search, and whose rows a PostgreSQL transaction may see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from agentsleep.archive import words

SQLITE_SEARCH: Sequence[str] = (
    "CREATE VIRTUAL TABLE events_search USING fts5(text, content = 'events', content_rowid = 'id', "
    'tokenize = "unicode61 remove_diacritics 2")',
    "CREATE TRIGGER events_search_insert AFTER INSERT ON events BEGIN "
    "INSERT INTO events_search (rowid, text) VALUES (new.id, new.text); END",
    "CREATE TRIGGER events_search_delete AFTER DELETE ON events BEGIN "
    "INSERT INTO events_search (events_search, rowid, text) VALUES ('delete', old.id, old.text); END",
)
"""The log is never updated, so there is no third trigger."""

# No GIN index: behind row-level security the planner may not use one for @@, which is not leakproof.
POSTGRES_SEARCH: Sequence[str] = (
    f"ALTER TABLE events ADD COLUMN events_search tsvector GENERATED ALWAYS AS ({words.POSTGRES_VECTOR}) STORED",
)

OWNED = ("sessions", "events", "snapshots", "tensors", "pieces", "chunks", "jobs", "audit")
"""Tables whose rows belong to a scope."""

SHARED = ("jobs", "audit")
"""Tables of which a worker, who serves everyone, may touch all rows. They hold ids, numbers and errors."""

LISTED = ("scopes", "sessions")
"""Tables of which a worker may read all rows, to know for whom there is something to do."""


def postgres_security() -> list[str]:
    """Row-level security for every table, for the owner of the tables too; only a superuser stands above it."""
    own = "scope_id = current_setting('agentsleep.scope', true)"
    everyone = "current_setting('agentsleep.scope', true) = '*'"
    whose = "tenant = current_setting('agentsleep.tenant', true) AND user_id = current_setting('agentsleep.user', true)"
    statements = []
    for table in ("scopes", *OWNED):
        statements += [
            f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
            f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        ]
        rule = whose if table == "scopes" else f"{own} OR {everyone}" if table in SHARED else own
        statements.append(f"CREATE POLICY {table}_own ON {table} USING ({rule}) WITH CHECK ({rule})")
        if table in LISTED:
            statements.append(f"CREATE POLICY {table}_listed ON {table} FOR SELECT USING ({everyone})")
    return statements


def grants(role: str, schema: str) -> list[str]:
    """What the owner of the tables allows another role by, so that it may read and write, but not upgrade."""
    name = '"' + role.replace('"', '""') + '"'
    written = ", ".join(f"{schema}.{table}" for table in ("scopes", *OWNED))
    return [
        f"GRANT USAGE ON SCHEMA {schema} TO {name}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {name}",
        f"GRANT INSERT, UPDATE, DELETE ON {written} TO {name}",
        f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name}",
    ]


def statements(kind: Literal["sqlite", "postgresql"]) -> list[str]:
    """Everything of this kind that a new database needs once its tables are made."""
    return list(SQLITE_SEARCH) if kind == "sqlite" else [*POSTGRES_SEARCH, *postgres_security()]
