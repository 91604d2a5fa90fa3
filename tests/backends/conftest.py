"""A checkpoint of random weights, and copies of it to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.memory.helpers import make_nap


@pytest.fixture(scope="session")
def nap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nap(tmp_path_factory.mktemp("nap"))


@pytest.fixture
def copy(nap: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nap, tmp_path / "copy"))
