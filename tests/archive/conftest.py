"""Every test here that asks for an archive runs on SQLite and on PostgreSQL.

A module about one of the two overrides `where` by a fixture of that database alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentsleep.archive import Archive, UserArchive


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where an SQLite file may be made."""
    return tmp_path / "memory.db"


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest) -> str:
    """What an archive without rows is opened by, in any process."""
    name = {"sqlite": "path", "postgresql": "postgres_url"}[request.param]
    return str(request.getfixturevalue(name))


@pytest.fixture
def archive(where: str) -> Iterator[Archive]:
    with Archive(where) as archive:
        yield archive


@pytest.fixture
def ada(archive: Archive) -> UserArchive:
    """The part of the user whom most tests are about."""
    return archive.user("acme", "ada")
