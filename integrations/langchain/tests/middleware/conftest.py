"""What the tests of SleepMiddleware stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.talk import Open

from agentsleep.memory import SleepMemory


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Sleeps only when it must; a window holds two calls of a tool."""
    return opened(window=160)


@pytest.fixture(params=["memory", "sqlite"])
def saver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A checkpointer."""
    if request.param == "memory":
        yield InMemorySaver()
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as found:
            yield found
