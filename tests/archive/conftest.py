from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentsleep.archive import Archive


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def archive(path: Path) -> Iterator[Archive]:
    with Archive(path) as archive:
        yield archive
