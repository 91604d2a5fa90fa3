"""The hooks in an event loop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from tests.agents import (
    Actor,
    agent_of,
    assert_same,
    hear,
    opened_at,
    told,
    twin,
)
from tests.talk import FACTS, assert_whole, config

from agentsleep.archive import UserArchive
from agentsleep.backends import Backend
from agentsleep.memory import SleepMemory
from langchain_agentsleep import SleepMiddleware
from langchain_agentsleep.families import Family

LONG = [*FACTS, *FACTS][:14]


async def test_the_event_loop_never_waits(memory: SleepMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that computes or reads the archive runs in its thread."""
    threads: dict[str, set[int]] = {}

    def watched(kind: type, name: str) -> None:
        method = getattr(kind, name)

        def watching(*args: Any, **options: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return method(*args, **options)

        monkeypatch.setattr(kind, name, watching)

    for kind, method in [
        (Backend, "consolidate"),
        (Family, "consolidated"),
        (UserArchive, "events"),
        (UserArchive, "session"),
    ]:
        watched(kind, method)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        sleepy = SleepMiddleware(memory, trigger=("messages", 3))
        agent = agent_of(Actor(memory), sleepy, saver=saver)
        for text in LONG[:3]:
            found = await agent.ainvoke({"messages": [HumanMessage(text)]}, config())
            assert [one.type for one in found["messages"]] == ["ai"]
        pieces = [
            piece.text
            async for piece, _ in agent.astream({"messages": [HumanMessage(LONG[3])]}, config(), stream_mode="messages")
        ]
        state = (await agent.aget_state(config())).values
    assert set(threads) == {"consolidate", "consolidated", "events", "session"}
    assert threading.get_ident() not in set().union(*threads.values())
    with twin(memory, sleepy) as plain, opened_at(memory, state["agentsleep"], sleepy.policy) as session:
        for text in LONG[:4]:
            last = hear(plain, memory, text)
            plain.sleep()
        assert "".join(pieces).startswith(last)
        assert_same(session, plain)


async def test_cancelled_while_it_sleeps_between_tasks(
    memory: SleepMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, may = threading.Event(), threading.Event()
    consolidate = Backend.consolidate

    def slow(self: Backend, *args: Any, **options: Any) -> Any:
        begun.set()
        may.wait(60)
        return consolidate(self, *args, **options)

    monkeypatch.setattr(Backend, "consolidate", slow)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=saver)
        task = asyncio.ensure_future(agent.ainvoke({"messages": [HumanMessage(LONG[0])]}, config()))
        await asyncio.to_thread(begun.wait, 60)
        task.cancel()
        await asyncio.sleep(0.05)
        may.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        state = await agent.aget_state(config())
        assert len(state.values["messages"]) == 2, "the checkpoint is as it was before the sleep"
        found = await agent.ainvoke({"messages": [HumanMessage(LONG[1])]}, config())
        assert [one.type for one in found["messages"]] == ["ai"]
        handle = (await agent.aget_state(config())).values["agentsleep"]
    with opened_at(memory, handle) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:2]
        assert len(session.history()) == 2
        assert_whole(session)
