"""A model of random weights, and memories on one archive: that of a user who talks, and that of a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsleep.archive.jobs import JobQueue
from agentsleep.backends import Backend, load_backend
from agentsleep.memory import Session, SleepMemory
from tests.memory.helpers import NEVER, make_nap

Open = Callable[..., SleepMemory]


@pytest.fixture(scope="session")
def nap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nap(tmp_path_factory.mktemp("nap"))


@pytest.fixture(scope="session")
def backend(nap: Path) -> Backend:
    return load_backend(nap)


@pytest.fixture
def where(tmp_path: Path) -> str:
    """What an archive is opened by; a test on both databases asks for `either`."""
    return str(tmp_path / "memory.db")


@pytest.fixture(params=["sqlite", "postgresql"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "memory.db")
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture
def opened(backend: Backend, where: str) -> Iterator[Open]:
    """Opens memories on this test's archive; they are closed at its end."""
    memories = []

    def open_one(place: str = where, **settings: Any) -> SleepMemory:
        memories.append(SleepMemory(backend, archive=place, **{"policy": NEVER, **settings}))
        return memories[-1]

    yield open_one
    for memory in memories:
        memory.close()


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Of the user who talks. Sleeps only when it must."""
    return opened()


@pytest.fixture
def away(opened: Open) -> SleepMemory:
    """Of the worker, as another process would have it."""
    return opened()


@pytest.fixture
def session(memory: SleepMemory) -> Iterator[Session]:
    with memory.session("t") as one:
        yield one


@pytest.fixture
def queue(away: SleepMemory) -> JobQueue:
    return JobQueue(away.archive.database, owner="worker")
