"""A thread that is rewound rewinds its memory; one that is forked forks it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from tests.agents import (
    CALL,
    FOUND,
    LOOK,
    Actor,
    agent_of,
    answer,
    assert_same,
    handle_in,
    hear,
    invoke,
    opened_at,
    told,
    twin,
)
from tests.talk import FACTS, Open, assert_whole, config, names

from agentsleep.archive import Event
from agentsleep.memory import Session, SleepMemory
from langchain_agentsleep import Handle, SleepMiddleware

TALK = [FACTS[0], LOOK, *FACTS[1:4]]
OTHER = FACTS[7]


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Sleeps only when it must."""
    return opened(window=160)


@pytest.fixture
def sleepy(memory: SleepMemory) -> SleepMiddleware:
    """Sleeps within the second and the fourth turn, and between tasks not."""
    return SleepMiddleware(memory, trigger=("tokens", 30), keep=("messages", 1), after=None)


@pytest.fixture(params=["memory", "sqlite"])
def saver(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A checkpointer."""
    if request.param == "memory":
        yield InMemorySaver()
    else:
        with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as found:
            yield found


def log_at(memory: SleepMemory, handle: Handle) -> list[Event]:
    """All that the session of a handle has in its log."""
    return memory.archive.user("default", "default").events(handle["session"])


def heard(memory: SleepMemory, sleepy: SleepMiddleware, texts: list[str], *, asleep: int = 0) -> Session:
    """A plain session that has heard these turns; behind the first ``asleep`` of them it has slept."""
    plain = twin(memory, sleepy, f"plain {len(names(memory))}")
    for number, text in enumerate(texts):
        hear(plain, memory, text, CALL if text == LOOK else None)
        if text == LOOK:
            plain.add("tool", FOUND, asked=True)
            answer(plain, memory)
        if number < asleep:
            plain.sleep()
    return plain


def finished(agent: Any, thread: str = "t") -> list[Any]:
    """The states at the ends of its turns, the first one first."""
    return [state for state in agent.get_state_history(config(thread)) if not state.next and state.values][::-1]


def test_an_older_state_remembers_what_it_did_then(memory: SleepMemory, sleepy: SleepMiddleware, saver: Any) -> None:
    agent = agent_of(Actor(memory), sleepy, saver=saver)
    for text in TALK:
        invoke(agent, text)
    newest = handle_in(agent)
    states, log = finished(agent), log_at(memory, newest)
    assert len(states) == len(TALK)
    assert len({(state.values["agentsleep"]["snapshot"]) for state in states}) >= 3
    for number in (3, 1, 2, 4):
        messages = agent.invoke({"messages": [HumanMessage(OTHER)]}, states[number - 1].config)["messages"]
        with heard(memory, sleepy, [*TALK[:number], OTHER]) as plain:
            assert messages[-1].text == plain.messages()[-1].text
            with opened_at(memory, handle_in(agent), sleepy.policy) as session:
                assert session.id != newest["session"]
                assert told(session) == told(plain)
                assert_same(session, plain)
                assert_whole(session)
    assert log_at(memory, newest) == log, "the newer branch is untouched"
    messages = agent.invoke({"messages": [HumanMessage(OTHER)]}, states[-1].config)["messages"]
    assert handle_in(agent)["session"] == newest["session"], "and goes on without a branch"
    with heard(memory, sleepy, [*TALK, OTHER]) as plain, opened_at(memory, newest, sleepy.policy) as session:
        assert_same(session, plain)


def test_two_branches_from_one_place(memory: SleepMemory, sleepy: SleepMiddleware) -> None:
    agent = agent_of(Actor(memory), sleepy, saver=InMemorySaver())
    for text in TALK[:3]:
        invoke(agent, text)
    place, ends = finished(agent)[1], []
    for text in FACTS[7:9]:
        agent.invoke({"messages": [HumanMessage(text)]}, place.config)
        ends.append(agent.get_state(config()))
    for text, end in zip(FACTS[7:9], ends, strict=True):
        agent.invoke({"messages": [HumanMessage(FACTS[9])]}, end.config)
        assert handle_in(agent)["session"] == end.values["agentsleep"]["session"]
        with (
            heard(memory, sleepy, [*TALK[:2], text, FACTS[9]]) as plain,
            opened_at(memory, handle_in(agent), sleepy.policy) as session,
        ):
            assert_same(session, plain)
    assert len([name for name in names(memory) if not name.startswith("plain")]) == 3


@pytest.mark.parametrize("after", [None, "light"])
def test_a_run_is_done_again_from_its_middle(memory: SleepMemory, after: Any) -> None:
    """From each of its steps; what was said since is neither slept on nor read by it."""
    sleepy = SleepMiddleware(memory, after=after)
    agent = agent_of(Actor(memory), sleepy, saver=InMemorySaver())
    for text in TALK[:2]:
        invoke(agent, text)
    end = agent.get_state(config())
    run = [state for state in agent.get_state_history(config()) if state.next][:8]
    steps = list({state.next: state for state in run}.values())
    invoke(agent, TALK[2])
    newest = handle_in(agent)
    log = log_at(memory, newest)
    assert {node for state in steps for node in state.next} >= {"model", "tools", "SleepMiddleware.after_model"}
    for step in steps:
        found = agent.invoke(None, step.config)["messages"]
        assert [one.text for one in found] == [one.text for one in end.values["messages"]], step.next
        assert log_at(memory, newest) == log, step.next
        with opened_at(memory, handle_in(agent), sleepy.policy) as again:
            said = told(again)
            assert [text for role, text in said if role == "user"][:2] == TALK[:2], step.next
            assert_whole(again)
        agent.invoke({"messages": [HumanMessage(OTHER)]}, config())
        assert log_at(memory, newest) == log, step.next
        with opened_at(memory, handle_in(agent), sleepy.policy) as again:
            assert [text for role, text in told(again) if role == "user"] == [*TALK[:2], OTHER], step.next


def test_a_message_is_edited(memory: SleepMemory, sleepy: SleepMiddleware, saver: Any) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory, after=None), saver=saver)
    for text in FACTS[:3]:
        invoke(agent, text)
    newest = handle_in(agent)
    log = log_at(memory, newest)
    messages = agent.get_state(config()).values["messages"]
    agent.update_state(config(), {"messages": [HumanMessage(FACTS[8], id=messages[2].id)]})
    invoke(agent, OTHER)
    assert log_at(memory, newest) == log
    with opened_at(memory, handle_in(agent)) as session:
        users = [text for role, text in told(session) if role == "user"]
        assert users == [FACTS[0], FACTS[8], FACTS[2], OTHER]
        assert_whole(session)


def test_an_answer_is_written_by_somebody_else(memory: SleepMemory, saver: Any) -> None:
    """In the model's place; the run goes on behind it."""
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=saver)
    for text in FACTS[:2]:
        invoke(agent, text)
    newest = handle_in(agent)
    log = log_at(memory, newest)
    before = next(
        state for state in agent.get_state_history(config()) if state.next == ("model",) and state.values["messages"]
    )
    at = agent.update_state(before.config, {"messages": [AIMessage("noted", id="own")]}, as_node="model")
    found = agent.invoke(None, at)["messages"]
    assert found[-1].text == "noted"
    assert log_at(memory, newest) == log
    invoke(agent, OTHER)
    with opened_at(memory, handle_in(agent)) as session:
        assert [text for role, text in told(session) if role == "user"] == [*FACTS[:2], OTHER]
        assert ("assistant", "noted") in told(session)
        assert_whole(session)
    assert log_at(memory, newest) == log


def test_a_thread_is_copied(memory: SleepMemory, sleepy: SleepMiddleware, saver: Any) -> None:
    agent = agent_of(Actor(memory), sleepy, saver=saver)
    for text in TALK:
        invoke(agent, text)
    newest = handle_in(agent)
    log, states = log_at(memory, newest), finished(agent)
    for thread, number in (("new", 5), ("older", 3)):
        state = states[number - 1]
        assert len(state.values["messages"]) < 2 * number + 2, "some have left"
        agent.update_state(config(thread), state.values)
        expected = [*TALK[:number], OTHER, FACTS[8]]
        answers = [invoke(agent, text, thread)[-1].text for text in expected[-2:]]
        mine = handle_in(agent, thread)
        assert mine["session"] != newest["session"]
        with heard(memory, sleepy, expected) as plain, opened_at(memory, mine, sleepy.policy) as session:
            said = [text for role, text in told(plain) if role == "assistant"]
            assert [said[-2], said[-1]] == answers
            assert told(session) == told(plain)
            assert_same(session, plain)
            assert_whole(session)
        assert log_at(memory, newest) == log
    assert len([name for name in names(memory) if not name.startswith("plain")]) == 3
    assert invoke(agent, OTHER)
    assert handle_in(agent)["session"] == newest["session"]


def test_a_copied_thread_sleeps_for_itself(memory: SleepMemory) -> None:
    """Where it is copied before the sleep between tasks, and goes on there: not the old thread sleeps."""
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    invoke(agent, FACTS[0])
    state = next(s for s in agent.get_state_history(config()) if s.next == ("SleepMiddleware.after_agent",))
    newest = handle_in(agent)
    log = log_at(memory, newest)
    at = agent.update_state(config("new"), state.values, as_node="SleepMiddleware.after_model")
    found = agent.invoke(None, at)["messages"]
    assert [one.type for one in found] == ["ai"]
    assert log_at(memory, newest) == log
    assert handle_in(agent, "new")["session"] != newest["session"]
    with opened_at(memory, handle_in(agent, "new")) as session:
        assert len(session.history()) == 1
        assert_whole(session)


def test_a_state_of_another_user_tells_nothing(memory: SleepMemory) -> None:
    """What it names is not theirs: they have what its list says, and no more."""
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    for text in FACTS[:2]:
        invoke(agent, text)
    theirs = config("new", user_id="bob")
    agent.update_state(theirs, agent.get_state(config()).values)
    agent.invoke({"messages": [HumanMessage(OTHER)]}, theirs)
    with memory.session("new", user="bob", create=False, tools=None) as session:
        assert [role for role, _ in told(session)] == ["assistant", "user", "assistant"]
        assert len(session.history()) == 1


@pytest.mark.parametrize("after", ["light", "deep"])
async def test_awaited(memory: SleepMemory, tmp_path: Path, after: Any) -> None:
    sleepy = SleepMiddleware(memory, after=after, rounds=1)
    async with AsyncSqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        agent = agent_of(Actor(memory), sleepy, saver=saver)
        for text in FACTS[:3]:
            await agent.ainvoke({"messages": [HumanMessage(text)]}, config())
        states = [s async for s in agent.aget_state_history(config()) if not s.next and s.values]
        newest = states[0].values["agentsleep"]
        log = log_at(memory, newest)
        found = await agent.ainvoke({"messages": [HumanMessage(OTHER)]}, states[1].config)
        await agent.aupdate_state(config("new"), states[1].values)
        copied = await agent.ainvoke({"messages": [HumanMessage(OTHER)]}, config("new"))
        assert found["messages"][-1].text == copied["messages"][-1].text
        assert log_at(memory, newest) == log
        plain = twin(memory, sleepy)
        for text in [*FACTS[:2], OTHER]:
            hear(plain, memory, text)
            plain.sleep(deep=after == "deep", rounds=1)
        for thread in ("t", "new"):
            handle = (await agent.aget_state(config(thread))).values["agentsleep"]
            with opened_at(memory, handle, sleepy.policy) as session:
                assert_same(session, plain)
        plain.close()
