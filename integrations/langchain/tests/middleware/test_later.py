"""Sleeping between tasks as a durable job."""

from __future__ import annotations

import threading
from typing import Any

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
from tests.talk import FACTS, Open, assert_whole, config

from agentsleep.jobs import JobQueue, Worker
from agentsleep.memory import SleepMemory
from langchain_agentsleep import SleepMiddleware

LONG = [*FACTS, *FACTS][:14]


def test_a_job_sleeps_and_the_next_turn_goes_on_from_there(memory: SleepMemory, opened: Open, saver: Any) -> None:
    sleepy = SleepMiddleware(memory, when="later", passes=3)
    agent = agent_of(Actor(memory), sleepy, saver=saver)
    invoke(agent, LONG[0])
    assert len(invoke(agent, LONG[1])) == 4
    stop = threading.Event()
    worker = threading.Thread(target=Worker(opened(window=160), poll_s=0.02).run, args=(stop,))
    worker.start()
    queue, mine = JobQueue(memory.archive.database), memory.archive.user("default", "default")
    while any(job.status != "done" for job in queue.jobs(mine)):
        threading.Event().wait(0.02)
    stop.set()
    worker.join()
    assert len(agent.get_state(config()).values["messages"]) == 4, "nobody has asked it since"
    messages = invoke(agent, LONG[2])
    assert [one.type for one in messages] == ["human", "ai"]
    with twin(memory, sleepy) as plain, opened_at(memory, handle_in(agent), sleepy.policy) as session:
        for text in LONG[:2]:
            hear(plain, memory, text)
        plain.sleep(passes=3)
        assert hear(plain, memory, LONG[2]) == messages[-1].text
        assert [(one.trigger, one.passes) for one in session.history()] == [("later", 3)]
        assert told(session) == told(plain)
        assert_same(session, plain)
        assert_whole(session)


def test_a_turn_that_comes_before_the_job(memory: SleepMemory, opened: Open) -> None:
    """Its own sleep covers what the job was for."""
    sleepy = SleepMiddleware(memory, when="later", after="light", trigger=("messages", 3))
    agent = agent_of(Actor(memory), sleepy, saver=InMemorySaver())
    invoke(agent, LONG[0])
    messages = invoke(agent, LONG[1])
    assert messages[-1].response_metadata["sleeps"] == 1
    assert len(messages) <= 2
    assert Worker(opened(window=160)).run(drain=True) >= 1
    queue, mine = JobQueue(memory.archive.database), memory.archive.user("default", "default")
    assert {job.status for job in queue.jobs(mine)} == {"done"}
    messages = invoke(agent, LONG[2])
    with opened_at(memory, handle_in(agent), sleepy.policy) as session:
        assert [text for role, text in told(session) if role == "user"] == LONG[:3]
        assert_whole(session)
