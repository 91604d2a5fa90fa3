"""Several agents at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from tests.agents import (
    Actor,
    agent_of,
    assert_same,
    handle_in,
    hear,
    invoke,
    opened_at,
    told,
    twin,
)
from tests.talk import FACTS, assert_whole, config, names

from agentsleep.memory import SleepMemory
from langchain_agentsleep import SleepMiddleware

LONG = [*FACTS, *FACTS][:14]


def test_whose_thread_it_is(memory: SleepMemory) -> None:
    agent = agent_of(Actor(memory), SleepMiddleware(memory, user="ada", tenant="acme"))
    agent.invoke({"messages": [HumanMessage(LONG[0])]}, config())
    agent.invoke({"messages": [HumanMessage(LONG[0])]}, config(user_id="bob"))
    assert (names(memory, user="ada", tenant="acme"), names(memory, user="bob", tenant="acme")) != ([], [])


def test_threads_side_by_side(memory: SleepMemory) -> None:
    saver, sleepy = InMemorySaver(), SleepMiddleware(memory, trigger=("messages", 3))
    agent = agent_of(Actor(memory), sleepy, saver=saver)

    def talk(number: int) -> list[str]:
        return [invoke(agent, text, f"thread {number}")[-1].text for text in LONG[number : number + 3]]

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(talk, range(8)))
    assert len(names(memory)) == 8
    for number in (0, 7):
        with twin(memory, sleepy, f"twin {number}") as plain:
            for text, given in zip(LONG[number : number + 3], answers[number], strict=True):
                assert hear(plain, memory, text) == given
                plain.sleep()
            with opened_at(memory, handle_in(agent, f"thread {number}"), sleepy.policy) as session:
                assert_same(session, plain)


def test_the_same_thread_twice_at_once(memory: SleepMemory) -> None:
    """Both are answered; what the state then names has heard what its list says."""
    agent = agent_of(Actor(memory), SleepMiddleware(memory), saver=InMemorySaver())
    invoke(agent, LONG[0])
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda text: invoke(agent, text), LONG[1:3]))
    assert all(isinstance(messages[-1], AIMessage) for messages in both)
    messages = invoke(agent, LONG[3])
    assert [one.type for one in messages if not isinstance(one, ToolMessage)][-1] == "ai"
    with opened_at(memory, handle_in(agent)) as session:
        said = [text for role, text in told(session) if role == "user"]
        assert said[0] == LONG[0]
        assert said[-1] == LONG[3]
        assert len(said) == len(set(said))
        assert_whole(session)
