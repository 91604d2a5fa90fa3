"""Consolidation between tasks: the agent answers and asks for a sleep, a worker makes it while nobody waits.

    python examples/between_tasks.py

Offline, on the shipped model. Here the worker is a call in the same process; in production it is a process of its own
(``agentsleep worker --archive memory.db --cron "0 3 * * *"``), which needs the archive and the model, and no agent.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from agentsleep import SleepMemory
from agentsleep.jobs import Nightly, Worker
from langchain_agentsleep import ChatSleep, SleepMiddleware

ROTA = {"bob": "alice", "alice": "dave", "dave": "erin", "erin": "frank", "frank": "carol"}
CONFIG: RunnableConfig = {"configurable": {"thread_id": "watch"}}


def look_up(person: str) -> str:
    """Tells to whom a person on the rota hands over."""
    return f"{person} hands over to {ROTA[person]} ."


def main() -> None:
    """Tasks, a sleep after each one that the worker makes, one in the night, and questions."""
    with tempfile.TemporaryDirectory() as folder, SleepMemory(archive=Path(folder) / "memory.db") as memory:
        agent = create_agent(
            ChatSleep(memory, max_tokens=32),
            [look_up],
            system_prompt="you watch the rota .",
            middleware=[SleepMiddleware(memory, after="light", when="later")],
            checkpointer=InMemorySaver(),
        )
        worker = Worker(memory, report=lambda line: print(f"    worker: {line}"))
        for person in ROTA:
            said = agent.invoke({"messages": [HumanMessage(f"look up {person} .")]}, CONFIG)
            print(f"look up {person}: {said['messages'][-1].content}; {len(said['messages'])} messages in the list")
            worker.run(drain=True)  # between two tasks

        print("the night: archived windows are read again")
        Nightly(memory.archive, memory.fingerprint)()  # what `agentsleep worker --cron` does at its hour
        worker.run(drain=True)

        for hops, person, answer in ((1, "bob", "alice"), (2, "bob", "dave"), (1, "erin", "frank")):
            question = f"who comes {hops} after {person} ?"
            said = agent.invoke({"messages": [HumanMessage(question)]}, CONFIG)
            print(f"{question} {said['messages'][-1].content}; {len(said['messages'])} messages in the list")
            assert not any("hands over" in one.text for one in said["messages"]), "the list can tell"
            assert said["messages"][-1].content == answer, f"{answer} was expected: is the memory empty?"


if __name__ == "__main__":
    main()
