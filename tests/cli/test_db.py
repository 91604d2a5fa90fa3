from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import psycopg
import pytest

import agentsleep.cli.db  # noqa: F401  # puts its commands on the app
from agentsleep.archive import Archive
from agentsleep.archive.schema import REVISION
from tests.archive.test_migrations import old_file
from tests.cli.conftest import Cli
from tests.postgres import PostgresServer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


def test_a_current_file_has_nothing_to_do(cli: Cli, path: Path) -> None:
    Archive(path).close()
    assert cli("db", "upgrade", "--archive", path).stdout == f"{path}: revision {REVISION}, nothing to do\n"
    assert cli("db", "check", "--archive", path).stdout == f"{path}: revision {REVISION}, as it should be\n"


def test_an_old_file_is_seen_left_alone_by_check_and_upgraded(cli: Cli, path: Path) -> None:
    old_file(path)
    for _ in range(2):
        found = cli("db", "check", "--archive", path, code=1).stdout
        assert found.startswith(f"{path}: revision 0001, this agentsleep knows {REVISION}; run 'agentsleep db upgrade'")
    done = json.loads(cli("db", "upgrade", "--archive", path, "--json").stdout)
    assert done == {"archive": str(path), "before": "0001", "revision": REVISION, "grants": []}
    found = json.loads(cli("db", "check", "--archive", f"sqlite:///{path}", "--json").stdout)
    assert found == {
        "archive": str(path),
        "revision": REVISION,
        "known": REVISION,
        "ok": True,
        "differences": [],
    }


def test_tables_that_differ_are_listed(cli: Cli, path: Path) -> None:
    Archive(path).close()
    raw = sqlite3.connect(path)
    raw.execute("DROP INDEX ix_snapshots_parent_id")
    raw.close()
    assert "ix_snapshots_parent_id" in cli("db", "check", "--archive", path, code=1).stdout
    document = json.loads(cli("db", "check", "--archive", path, "--json", code=1).stdout)
    assert (document["ok"], len(document["differences"])) == (False, 1)


def test_a_missing_file_is_not_made(cli: Cli, path: Path) -> None:
    for command in ("upgrade", "check"):
        assert f"no archive at {path}" in cli.complaint("db", command, "--archive", path)
    assert not path.exists()


def test_another_programs_file_is_refused(cli: Cli, path: Path) -> None:
    raw = sqlite3.connect(path)
    raw.execute("CREATE TABLE notes (x)")
    raw.close()
    for command in ("upgrade", "check"):
        assert "another program's tables (notes)" in cli.complaint("db", command, "--archive", path)


def test_a_server_gets_its_tables_and_a_role_its_rights(
    cli: Cli, postgres_server: PostgresServer, empty_postgres: str
) -> None:
    url = postgres_server.url(empty_postgres)
    assert "no tables yet" in cli("db", "check", "--archive", url, code=1).stdout
    shown = cli("db", "upgrade", "--archive", url, "--role", 'we"b').stdout
    assert f"revision {REVISION}, made" in shown
    assert postgres_server.password not in shown
    granting = [line for line in shown.splitlines() if line.startswith("GRANT")]
    assert len(granting) == 4
    assert all(line.endswith(' TO "we""b";') for line in granting)
    with postgres_server.connect(empty_postgres, autocommit=True) as admin:
        admin.execute('CREATE ROLE "we""b"')
        try:
            with psycopg.connect(url, autocommit=True) as owner:
                for line in granting:
                    owner.execute(line)
        finally:
            admin.execute('DROP OWNED BY "we""b"; DROP ROLE "we""b"')
    document = json.loads(cli("db", "upgrade", "--archive", url, "--json").stdout)
    assert (document["before"], document["revision"], len(document["grants"])) == (REVISION, REVISION, 4)
    assert "as it should be" in cli("db", "check", "--archive", url).stdout


def test_a_server_that_is_not_there_is_told_without_its_password(cli: Cli, tmp_path: Path) -> None:
    for command in ("upgrade", "check"):
        told = cli.complaint("db", command, "--archive", f"postgresql://me:secret@/db?host={tmp_path}")
        assert "cannot be reached" in told
        assert "secret" not in told
