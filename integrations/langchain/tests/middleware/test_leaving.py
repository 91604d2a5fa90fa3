"""Messages leave the agent's list when they are consolidated, and not before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langgraph.checkpoint.memory import InMemorySaver
from tests.agents import (
    CALL,
    FOUND,
    LOOK,
    Actor,
    agent_of,
    answer,
    assert_same,
    assert_unsplit,
    handle_in,
    hear,
    ids,
    invoke,
    opened_at,
    told,
    twin,
)
from tests.talk import FACTS, assert_whole, config

from agentsleep.chat import ToolCall
from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep, SleepMiddleware

LONG = [*FACTS, *FACTS][:14]


@pytest.mark.parametrize("keep", [None, ("messages", 2)])
def test_messages_leave_when_they_are_consolidated(memory: SleepMemory, saver: Any, keep: Any) -> None:
    sleepy = SleepMiddleware(memory, trigger=("tokens", 110), keep=keep, after=None)
    agent = agent_of(Actor(memory), sleepy, saver=saver)
    everything: list[str] = []
    with twin(memory, sleepy) as plain:
        for text in [*LONG[:6], LOOK, *LONG[6:10], LOOK]:
            before = len(everything)
            messages = invoke(agent, text)
            expected = hear(plain, memory, text, CALL if text == LOOK else None)
            if text == LOOK:
                plain.add("tool", FOUND, asked=True)
                expected = answer(plain, memory)
            assert messages[-1].text == expected
            everything += [one for one in ids(messages) if one not in everything]
            left = len(everything) - len(messages)
            assert ids(messages) == everything[left:]
            said = [event for event in plain.messages() if event.token_ids]
            slept = sum(event.position + len(event.token_ids) <= plain.position().slept_on for event in said)
            assert left == min(slept, len(everything) - 1) or (messages[0].type == "ai" and messages[0].tool_calls)
            assert_unsplit(messages)
            assert len(everything) - before >= 1
        assert left > 6
        with opened_at(memory, handle_in(agent), sleepy.policy) as session:
            assert told(session) == told(plain)
            assert_same(session, plain)
            assert_whole(session)
    for state in agent.get_state_history(config()):
        list_then = state.values.get("messages", [])
        assert_unsplit(list_then[:-1] if list_then and getattr(list_then[-1], "tool_calls", None) else list_then)


def test_the_shipped_model_answers_from_what_has_left(archive: Path) -> None:
    """By two steps over facts that are in no list any more."""
    with SleepMemory(archive=archive) as memory:
        agent = agent_of(ChatSleep(memory, max_tokens=30), SleepMiddleware(memory), tools=[], saver=InMemorySaver())
        for fact in ("alice hands over to bob .", "bob hands over to dave .", "dave hands over to carol ."):
            assert [one.type for one in invoke(agent, fact)] == ["ai"]
        messages = invoke(agent, "who comes 2 after alice ?")
        assert [one.text for one in messages] == ["dave"]


@pytest.mark.parametrize(("after", "deep"), [("light", False), ("deep", True)])
def test_it_sleeps_between_tasks(memory: SleepMemory, saver: Any, after: Any, deep: bool) -> None:
    sleepy = SleepMiddleware(memory, after=after, passes=2, rounds=2)
    agent = agent_of(Actor(memory), sleepy, saver=saver)
    with twin(memory, sleepy) as plain:
        for text in LONG[:3]:
            messages = invoke(agent, text)
            hear(plain, memory, text)
            plain.sleep(deep=deep, passes=2, rounds=2)
            assert [one.type for one in messages] == ["ai"], "the answer stays"
        with opened_at(memory, handle_in(agent), sleepy.policy) as session:
            assert [(one.mode, one.rounds) for one in session.history()] == [
                (one.mode, one.rounds) for one in plain.history()
            ]
            assert_same(session, plain)
            place = session.position()
            assert handle_in(agent) == {"session": session.id, "snapshot": place.head, "position": place.events}


def test_no_sleep_between_tasks(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory, after=None), saver=InMemorySaver())
    for text in LONG[:3]:
        messages = invoke(agent, text)
    assert len(messages) == 6
    assert handle_in(agent)["snapshot"] is None


def test_the_list_may_be_left_alone(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory, remove=False), saver=InMemorySaver())
    for text in LONG[:3]:
        messages = invoke(agent, text)
    assert len(messages) == 6
    with opened_at(memory, handle_in(agent)) as session:
        assert len(told(session)) == 6, "each was read once"
        assert len(session.history()) == 3


def test_system_messages_stay(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    agent.invoke({"messages": [SystemMessage("be kind"), HumanMessage(LONG[0])]}, config())
    messages = invoke(agent, LONG[1])
    assert [one.type for one in messages] == ["system", "ai"]
    agent.invoke({"messages": [SystemMessage("be brief"), HumanMessage(LONG[2])]}, config())
    messages = invoke(agent, LONG[3])
    assert [one.text for one in messages if one.type == "system"] == ["be kind", "be brief"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:4]
    with_prompt = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver(), system_prompt="be kind")
    assert [one.type for one in invoke(with_prompt, LONG[0], "u")] == ["ai"]


def test_an_answer_that_says_nothing_does_not_stop_the_list(memory: SleepMemory) -> None:
    model = Actor(memory, max_tokens=1)
    agent = agent_of(model, SleepMiddleware(memory), saver=InMemorySaver())
    end = memory.chat.end
    model.generation = {"prefix_allowed_tokens_fn": lambda batch, ids: [end]}
    assert [one.text for one in invoke(agent, LONG[0])] == [""]
    model.generation = {}
    model.max_tokens = 6
    assert [one.type for one in invoke(agent, LONG[1])] == ["ai"]


def test_calls_one_after_the_other(memory: SleepMemory) -> None:
    """The second call sleeps on the first one's result, while its own is to come."""
    model = Actor(memory, lines={LOOK: CALL, FOUND: ToolCall("look_up", {"person": "dave"})})
    sleepy = SleepMiddleware(memory, trigger=("messages", 4), after=None)
    agent = agent_of(model, sleepy, saver=InMemorySaver())
    invoke(agent, FACTS[0])
    lists = [
        step["messages"] for step in agent.stream({"messages": [HumanMessage(LOOK)]}, config(), stream_mode="values")
    ]
    for messages in lists:
        assert_unsplit(messages[:-1] if getattr(messages[-1], "tool_calls", None) else messages)
    assert [one.type for one in lists[-1]][-1] == "ai"
    assert min(map(len, lists)) < 4
    with opened_at(memory, handle_in(agent), sleepy.policy) as session:
        roles = ["user", "assistant", "user", *(["assistant", "tool"] * 2), "assistant"]
        assert [role for role, _ in told(session)] == roles
