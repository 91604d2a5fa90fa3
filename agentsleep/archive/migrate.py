"""Bringing a database to the tables that this library knows: made anew, upgraded step by step, or refused."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, MetaData, inspect, text
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive import ddl
from agentsleep.archive.database import Database
from agentsleep.archive.postgres import SCHEMA
from agentsleep.archive.schema import REVISION, Base
from agentsleep.errors import ArchiveDamaged, ArchiveError

if TYPE_CHECKING:
    from alembic.config import Config

FIRST = "0001"
_REVISIONS = (FIRST, REVISION)
_LOCK = 0x61676E74736C65EE  # of PostgreSQL: one upgrade at a time


def prepare(database: Database) -> None:
    """Makes the tables in an empty database, and upgrades older ones; what is current costs one query.

    Raises:
        ArchiveError: another program's database, or a schema newer than this library knows.
        ArchiveDamaged: the version cannot be read.
    """
    if revision(database) == REVISION:
        return
    with database.writing() as tx:
        connection = tx.connection()
        if database.kind == "postgresql":
            _serialise(tx, database.name)
        found = _revision(connection, database.name)  # another process may have been faster
        if found is None:
            _tables().create_all(connection)
            for statement in ddl.statements(database.kind):
                connection.exec_driver_sql(statement)
            connection.exec_driver_sql(
                "CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL, "
                "CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num))"
            )
            connection.execute(text("INSERT INTO alembic_version VALUES (:head)"), {"head": REVISION})
        elif found != REVISION:
            upgrade(connection, found)


def _tables() -> MetaData:
    """The tables, in a copy: once foreign keys of a circle were made apart, as PostgreSQL needs it, the same objects
    would never again be made as SQLite needs it."""
    copy = MetaData(naming_convention=Base.metadata.naming_convention)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Cannot correctly sort tables")  # the circle of sessions and snapshots
        for table in Base.metadata.tables.values():
            table.to_metadata(copy)
    return copy


def revision(database: Database) -> str | None:
    """The revision of a database's tables; None where there are none yet."""
    with database.reading() as tx:
        return _revision(tx.connection(), database.name)


def upgrade(connection: Connection, found: str) -> None:
    """Runs the steps that are missing since the revision that was found, in the caller's transaction."""
    from alembic import command

    command.stamp(_config(connection), found)  # the first tables were made without Alembic, and say so in their own way
    command.upgrade(_config(connection), "head")


def check(database: Database) -> list[str]:
    """What differs between the tables as they are and as this library knows them; empty: nothing."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with database.reading() as tx:
        options = {"compare_type": True, "include_object": _ours}
        context = MigrationContext.configure(tx.connection(), opts=options)
        return [repr(difference) for difference in compare_metadata(context, Base.metadata)]


def _ours(_object: object, name: str | None, _kind: str, _reflected: bool, _other: object) -> bool:
    # Full-text search has tables and a column of its own, which the models do not know.
    return not (name or "").startswith("events_search")


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    config.attributes["connection"] = connection
    config.attributes["include_object"] = _ours
    return config


def _serialise(tx: Transaction, name: str) -> None:
    """PostgreSQL runs two upgrades at once, and both would make the schema; Alembic does not keep them apart."""
    tx.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
    # Looked up in the catalogue itself: within a transaction `current_schema()` may not see what another one made.
    if tx.scalar(text("SELECT 1 FROM pg_namespace WHERE nspname = :name"), {"name": SCHEMA}) is None:
        tx.connection().exec_driver_sql(f"CREATE SCHEMA {SCHEMA}")
    elif tx.scalar(text("SELECT current_schema()")) is None:
        raise ArchiveError(
            f"the schema {SCHEMA} of {name} is there, but this user may not use it; its owner can allow it "
            "(`agentsleep db upgrade` prints how)"
        )


def _revision(connection: Connection, name: str) -> str | None:
    if connection.dialect.name == "postgresql" and connection.scalar(text("SELECT current_schema()")) is None:
        return None
    tables = inspect(connection).get_table_names()
    if not tables:
        return None
    found = None
    if "alembic_version" in tables:
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    elif {"meta", "sessions", "states"} <= {*tables}:  # from before there were migrations
        version = connection.scalar(text("SELECT value FROM meta WHERE key = 'schema_version'"))
        found = FIRST if version == "1" else f"schema version {version!r:.40}"
    if found is None:
        raise ArchiveError(
            f"{name} holds another program's tables ({', '.join(sorted(tables))[:80]}) and no agentsleep archive; "
            "choose another path"
        )
    if found in _REVISIONS:
        return str(found)
    if not str(found).isdecimal():
        raise ArchiveDamaged(f"the archive {name} has {found!r:.60} as its revision; restore it from a backup")
    raise ArchiveError(
        f"the archive {name} has the tables of revision {found}, this agentsleep knows {REVISION}; upgrade agentsleep"
    )
