"""Sleeps are told to whoever listens."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from tests.agents import (
    Actor,
    Heard,
    agent_of,
    handle_in,
    opened_at,
)
from tests.talk import FACTS, config

from agentsleep.memory import SleepMemory
from langchain_agentsleep import SleepMiddleware

LONG = [*FACTS, *FACTS][:14]


FIELDS = {"session", "mode", "trigger", "tokens", "passes", "rounds"}


def test_sleeps_are_told_to_callback_handlers(memory: SleepMemory) -> None:
    handler = Heard()
    agent = agent_of(Actor(memory), SleepMiddleware(memory, trigger=("messages", 3), passes=3), saver=InMemorySaver())
    agent.invoke({"messages": [HumanMessage(text) for text in LONG[:3]]}, {**config(), "callbacks": [handler]})
    assert [name for name, _, _ in handler.events] == ["sleep_started", "sleep_finished"] * 2
    (_, during, one), (_, done, other), (_, _, between), (_, last, _) = handler.events
    assert one == other == handler.models[0] != between
    assert set(during) == FIELDS
    assert set(done) == FIELDS | {"ms", "snapshot"}
    assert (during["trigger"], last["trigger"]) == ("policy", "asked")
    assert {name: done[name] for name in FIELDS} == during
    assert done["passes"] == 3
    with opened_at(memory, handle_in(agent)) as session:
        assert [one.id for one in session.history()] == [done["snapshot"], last["snapshot"]]
        assert [one.parent for one in session.history()] == [None, done["snapshot"]]
        assert done["tokens"] + last["tokens"] == session.position().tokens
        assert done["ms"] > 0


async def test_sleeps_are_among_the_events_of_a_run(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    long = HumanMessage(" ".join(FACTS * 3))
    events = [e async for e in agent.astream_events({"messages": [long]}, config(), version="v2")]
    model = next(e["run_id"] for e in events if e["event"] == "on_chat_model_start")
    root = events[0]["run_id"]
    sleeps = [e for e in events if e["event"] == "on_custom_event"]
    assert [e["name"] for e in sleeps] == ["sleep_started", "sleep_finished"] * (len(sleeps) // 2)
    within = [e for e in sleeps if e["run_id"] == model]
    assert {e["data"]["trigger"] for e in within} == {"overflow"}
    assert {e["data"]["trigger"] for e in sleeps[len(within) :]} == {"asked"}
    assert all(root in e["parent_ids"] for e in sleeps)
    order = [e["event"] for e in events]
    assert order[-1] == "on_chain_end"
    hook = next(i for i, e in enumerate(events) if e["event"] == "on_chain_end" and "after_agent" in e["name"])
    assert events.index(sleeps[-1]) < hook, "told before the hook returns"


class Deaf(AsyncCallbackHandler):
    async def on_custom_event(self, name: str, data: Any, **_: Any) -> None:
        raise RuntimeError(name)


@pytest.mark.filterwarnings("ignore")
async def test_a_listener_that_fails_stops_nothing(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    found = await agent.ainvoke({"messages": [HumanMessage(LONG[0])]}, {**config(), "callbacks": [Deaf()]})
    assert len(found["messages"]) == 1
