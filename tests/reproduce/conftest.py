from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentsleep.reproduce.campaign import Campaign, carry_out
from agentsleep.reproduce.plan import load_table
from tests.reproduce.toys import toy_plans


@pytest.fixture
def plans(tmp_path: Path) -> Iterator[Path]:
    """The folder of the toys, which stand in for the plans of the package."""
    with toy_plans(tmp_path / "package") as folder:
        yield folder


@pytest.fixture(scope="session")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every measure was taken: ``every.json`` and ``runs/``; a test that changes it copies it."""
    folder = tmp_path_factory.mktemp("measured")
    with toy_plans(folder / "package"):
        every = Campaign(table=load_table("every"), scale="small", seeds=[0], runs=folder / "runs", out=folder)
        assert carry_out(every, resume=False) == 5
    return folder
