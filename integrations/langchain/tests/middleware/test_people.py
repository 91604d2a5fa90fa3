"""Interrupts, and people who decide."""

from __future__ import annotations

from typing import Any

from langchain.agents.middleware import (
    HumanInTheLoopMiddleware,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command, interrupt
from tests.agents import (
    FOUND,
    LOOK,
    Actor,
    agent_of,
    assert_unsplit,
    handle_in,
    invoke,
    opened_at,
    told,
)
from tests.talk import FACTS, assert_whole, config, names

from agentsleep.memory import SleepMemory
from langchain_agentsleep import SleepMiddleware


def test_a_call_that_is_approved_edited_or_rejected(memory: SleepMemory, saver: Any) -> None:
    hitl = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    sleepy = SleepMiddleware(memory, after=None, trigger=("tokens", 140))
    for thread, order in (("a", (sleepy, hitl)), ("b", (hitl, sleepy))):
        agent = agent_of(Actor(memory), *order, saver=saver)
        invoke(agent, FACTS[0], thread)
        invoke(agent, LOOK, thread)
        assert agent.get_state(config(thread)).next
        agent.invoke(Command(resume={"decisions": [{"type": "approve"}]}), config(thread))
        with opened_at(memory, handle_in(agent, thread), sleepy.policy) as session:
            assert [role for role, _ in told(session)] == [
                "user",
                "assistant",
                "user",
                "assistant",
                "tool",
                "assistant",
            ]
        invoke(agent, LOOK, thread)
        edited = {"type": "edit", "edited_action": {"name": "look_up", "args": {"person": "dave"}}}
        messages = agent.invoke(Command(resume={"decisions": [edited]}), config(thread))["messages"]
        assert_unsplit(messages)
        with opened_at(memory, handle_in(agent, thread), sleepy.policy) as session:
            roles = [role for role, _ in told(session)]
            assert roles[-4:] == ["user", "assistant", "tool", "assistant"]
            assert str(told(session)[-2][1]).endswith("dave hands over to bob .")
        invoke(agent, LOOK, thread)
        no = {"type": "reject", "message": "not now"}
        messages = agent.invoke(Command(resume={"decisions": [no]}), config(thread))["messages"]
        assert_unsplit(messages)
        with opened_at(memory, handle_in(agent, thread), sleepy.policy) as session:
            assert str(told(session)[-2][1]).endswith("not now")
            assert [text for role, text in told(session) if role == "user"] == [FACTS[0], LOOK, LOOK, LOOK]
            assert_whole(session)


def test_a_tool_that_asks_somebody(memory: SleepMemory, saver: Any) -> None:
    def look_up(person: str) -> str:
        """Asks."""
        return str(interrupt(person))

    agent = agent_of(Actor(memory), SleepMiddleware(memory), tools=[look_up], saver=saver)
    invoke(agent, LOOK)
    messages = agent.invoke(Command(resume=FOUND), config())["messages"]
    assert [one.type for one in messages] == ["ai"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [role for role, _ in told(session)] == ["user", "assistant", "tool", "assistant"]
        assert len(names(memory)) == 1


def test_somebody_says_something_else_instead(memory: SleepMemory) -> None:
    """The call has no result, and never will; the list goes on to shrink."""
    hitl = HumanInTheLoopMiddleware(interrupt_on={"look_up": True})
    agent = agent_of(Actor(memory), hitl, SleepMiddleware(memory), saver=InMemorySaver())
    invoke(agent, LOOK)
    assert [one.type for one in invoke(agent, FACTS[0])] == ["ai"]
