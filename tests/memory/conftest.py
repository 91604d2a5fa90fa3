"""A model of random weights, made once, and memories on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from tests.memory.helpers import NEVER, make_nap

Open = Callable[..., SleepMemory]


@pytest.fixture(scope="session")
def nap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nap(tmp_path_factory.mktemp("nap"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def opened(nap: Path, archive: Path) -> Iterator[Open]:
    """Opens memories on this test's archive; they are closed at its end."""
    memories = []

    def open_one(policy: SleepPolicy = NEVER, where: str | Path = archive) -> SleepMemory:
        memories.append(SleepMemory(nap, archive=where, policy=policy))
        return memories[-1]

    yield open_one
    for memory in memories:
        memory.close()


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Sleeps only when it must."""
    return opened()


@pytest.fixture
def session(memory: SleepMemory) -> Iterator[Session]:
    with memory.session("t") as one:
        yield one
