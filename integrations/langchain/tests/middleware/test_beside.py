"""Beside other middlewares."""

from __future__ import annotations

from typing import Any

import pytest
from langchain.agents.middleware import (
    AgentMiddleware,
    ClearToolUsesEdit,
    ContextEditingMiddleware,
    ModelCallLimitMiddleware,
    ModelRetryMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel
from tests.agents import (
    FOUND,
    LOOK,
    Actor,
    agent_of,
    assert_same,
    assert_unsplit,
    handle_in,
    hear,
    invoke,
    look_up,
    opened_at,
    told,
    twin,
)
from tests.talk import FACTS, assert_whole, config

from agentsleep.chat import ToolCall
from agentsleep.memory import SleepMemory
from langchain_agentsleep import SleepMiddleware

LONG = [*FACTS, *FACTS][:14]


@pytest.mark.parametrize("keep", [1, 3])
def test_beside_summaries(memory: SleepMemory, keep: int) -> None:
    """A mistake: a summary takes the place of what the memory knows. Nothing breaks."""
    summary = SummarizationMiddleware(
        FakeListChatModel(responses=["a b"]), trigger=("messages", 4), keep=("messages", keep)
    )
    agent = agent_of(Actor(memory), summary, SleepMiddleware(memory, after=None), saver=InMemorySaver())
    for text in LONG[:6]:
        messages = invoke(agent, text)
        assert isinstance(messages[-1], AIMessage)
    with opened_at(memory, handle_in(agent)) as session:
        said = [text for role, text in told(session) if role == "user"]
        assert any(str(text).endswith("a b") for text in said)
        assert said[-1] == LONG[5]
        assert_whole(session)


def test_beside_an_edited_context(memory: SleepMemory) -> None:
    """The request says something else than the list: a branch that hears so, and is gone on with."""
    edit = ContextEditingMiddleware(edits=[ClearToolUsesEdit(trigger=1, keep=0, placeholder="gone")])
    sleepy = SleepMiddleware(memory, after="light")
    for thread, order in (("a", (sleepy, edit)), ("b", (edit, sleepy))):
        agent = agent_of(Actor(memory), *order, saver=InMemorySaver())
        invoke(agent, LOOK, thread)
        for text in LONG[:3]:
            messages = invoke(agent, text, thread)
        assert [one.type for one in messages] == ["ai"]
        with opened_at(memory, handle_in(agent, thread), sleepy.policy) as session:
            assert [text for role, text in told(session) if role == "user"] == [LOOK, *LONG[:3]]
            assert_whole(session)


def test_beside_a_limit_of_calls(memory: SleepMemory) -> None:
    limit = ModelCallLimitMiddleware(run_limit=1, exit_behavior="end")
    agent = agent_of(Actor(memory), limit, SleepMiddleware(memory), saver=InMemorySaver())
    messages = invoke(agent, LOOK)
    assert [one.type for one in messages][-1] == "ai"
    assert_unsplit(messages)
    messages = invoke(agent, FACTS[0])
    assert [one.type for one in messages] == ["ai"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role in ("user", "tool")] == [LOOK, FOUND, FACTS[0]]


def test_beside_tries_of_the_model(memory: SleepMemory) -> None:
    """What a try has left in the log is not read again, and not part of what is gone on with."""
    failures = [RuntimeError("early"), RuntimeError("late")]

    class Flaky(AgentMiddleware[Any, Any, Any]):
        def wrap_model_call(self, request: Any, handler: Any) -> Any:
            if len(failures) == 2:
                raise failures.pop()
            answer = handler(request)
            if failures:
                raise failures.pop()
            return answer

    retry = ModelRetryMiddleware(max_retries=3, initial_delay=0, jitter=False)
    for thread, order in (("a", lambda s: (retry, s, Flaky())), ("b", lambda s: (retry, Flaky(), s))):
        sleepy = SleepMiddleware(memory)
        agent = agent_of(Actor(memory), *order(sleepy), saver=InMemorySaver())
        failures[:] = []
        invoke(agent, LONG[0], thread)
        failures[:] = [RuntimeError("early"), RuntimeError("late")]
        messages = invoke(agent, LONG[1], thread)
        assert not failures
        assert [one.type for one in messages] == ["ai"]
        with (
            twin(memory, sleepy, f"twin {thread}") as plain,
            opened_at(memory, handle_in(agent, thread), sleepy.policy) as session,
        ):
            for text in LONG[:2]:
                hear(plain, memory, text)
                plain.sleep()
            assert told(session) == told(plain)
            assert_same(session, plain)


class Shift(BaseModel):
    """Who takes over."""

    who: str


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_with_an_answer_of_a_given_form(memory: SleepMemory, strategy: Any) -> None:
    line: Any = ToolCall("Shift", {"who": "bob"}) if strategy is ToolStrategy else '{"who": "bob"}'
    model = Actor(memory, lines={LONG[0]: line, LONG[1]: line})
    agent = agent_of(model, SleepMiddleware(memory), tools=[], saver=InMemorySaver(), response_format=strategy(Shift))
    for text in LONG[:2]:
        found = agent.invoke({"messages": [HumanMessage(text)]}, config())
        assert found["structured_response"] == Shift(who="bob")
        assert [one.type for one in found["messages"]] in (["ai"], ["ai", "tool"])
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:2]
        assert len(session.history()) == 2


def test_a_tool_whose_result_is_the_answer(memory: SleepMemory) -> None:
    from langchain_core.tools import tool

    agent = agent_of(
        Actor(memory), SleepMiddleware(memory), tools=[tool(return_direct=True)(look_up)], saver=InMemorySaver()
    )
    assert [one.type for one in invoke(agent, LOOK)] == ["ai", "tool"]
    assert [one.type for one in invoke(agent, LONG[0])] == ["ai"]
    with opened_at(memory, handle_in(agent)) as session:
        assert [role for role, _ in told(session)] == ["user", "assistant", "tool", "user", "assistant"]
