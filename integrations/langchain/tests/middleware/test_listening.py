"""A memory that listens to a model behind an API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from tests.agents import (
    LOOK,
    Actor,
    Heard,
    Scripted,
    agent_of,
    assert_unsplit,
    handle_in,
    invoke,
    look_up,
    opened_at,
    told,
)
from tests.talk import FACTS, Open, assert_whole, config, names

from agentsleep.backends import Backend
from agentsleep.errors import InputError, SettingsError, SleepFailed
from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep, SleepMiddleware

LONG = [*FACTS, *FACTS][:14]


def calls(*persons: str, start: int = 0) -> AIMessage:
    return AIMessage(
        "",
        tool_calls=[
            {"name": "look_up", "args": {"person": person}, "id": f"call {start + number}", "type": "tool_call"}
            for number, person in enumerate(persons)
        ],
    )


def test_the_memory_listens_to_another_model(memory: SleepMemory, saver: Any) -> None:
    """Several calls a turn, which the memory's own format has not."""
    model = Scripted(script=[calls("bob", "erin"), AIMessage("fine"), calls("dave", start=2)])
    sleepy = SleepMiddleware(memory, trigger=("messages", 7), keep=("messages", 2), token_counter=len, passes=2)
    agent = agent_of(model, sleepy, saver=saver)
    lengths = []
    for text in [LOOK, LONG[0], LOOK, LONG[1], LONG[2]]:
        messages = invoke(agent, text)
        lengths.append(len(messages))
        assert_unsplit(messages)
        assert messages[0].type == "human"
    assert lengths[0] == 5, "not due"
    assert max(lengths) < 9
    for seen in model.seen:
        assert seen[0].type == "human"
        assert_unsplit(seen)
    with opened_at(memory, handle_in(agent)) as session:
        said = told(session)
        assert [text for role, text in said if role == "user"] == [LOOK, LONG[0], LOOK, LONG[1], LONG[2]]
        assert [text for role, text in said if role == "tool"] == [
            look_up(person) for person in ("bob", "erin", "dave")
        ]
        assert len(session.history()) >= 5
        assert_whole(session)


def test_a_list_of_another_model_stays_until_it_is_due(memory: SleepMemory) -> None:
    agent = agent_of(Scripted(), SleepMiddleware(memory, trigger=("messages", 99)), saver=InMemorySaver())
    for text in LONG[:4]:
        messages = invoke(agent, text)
    assert len(messages) == 8
    with opened_at(memory, handle_in(agent)) as session:
        assert len(session.history()) == 4, "it sleeps between tasks all the same"


async def test_another_model_awaited(memory: SleepMemory) -> None:
    handler = Heard()
    sleepy = SleepMiddleware(memory, trigger=("messages", 4), after=None)
    agent = agent_of(Scripted(), sleepy, saver=InMemorySaver())
    for text in LONG[:3]:
        found = await agent.ainvoke({"messages": [HumanMessage(text)]}, {**config(), "callbacks": [handler]})
    assert [one.type for one in found["messages"]] == ["human", "ai"]
    assert [name for name, _, _ in handler.events] == ["sleep_started", "sleep_finished"] * 2


@pytest.mark.parametrize("model", [Actor, Scripted])
def test_a_run_without_a_thread(memory: SleepMemory, model: Any) -> None:
    agent = agent_of(model() if model is Scripted else model(memory), SleepMiddleware(memory))
    with pytest.raises(InputError, match="thread_id"):
        agent.invoke({"messages": [HumanMessage(LONG[0])]})
    with pytest.raises(InputError, match="thread_id"):
        asyncio.run(agent.ainvoke({"messages": [HumanMessage(LONG[0])]}))
    assert names(memory) == []


def test_a_model_with_another_memory(memory: SleepMemory, opened: Open) -> None:
    agent = agent_of(ChatSleep(opened()), SleepMiddleware(memory), saver=InMemorySaver())
    with pytest.raises(SettingsError, match="different memories"):
        invoke(agent, LONG[0])


def test_a_sleep_that_fails(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes through; nothing leaves the list, and the next sleep has all of it."""
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())

    def failing(*args: Any, **options: Any) -> Any:
        raise SleepFailed("it gave NaN")

    with monkeypatch.context() as patch:
        patch.setattr(Backend, "consolidate", failing)
        with pytest.raises(SleepFailed, match="NaN"):
            invoke(agent, LONG[0])
    assert len(agent.get_state(config()).values["messages"]) == 2
    assert [one.type for one in invoke(agent, LONG[1])] == ["ai"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:2]
