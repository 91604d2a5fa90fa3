"""Time travel: an agent is asked again from an earlier checkpoint, and its memory is the one that it had then.

    python examples/time_travel.py

Offline, on the shipped model. The checkpoint holds a handle; the memory's states lie in the archive, as a tree.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from agentsleep import SleepMemory
from langchain_agentsleep import ChatSleep, SleepMiddleware

ROTA = {"bob": "alice", "alice": "dave"}
THREAD: RunnableConfig = {"configurable": {"thread_id": "watch"}}
QUESTION = "who comes 1 after bob ?"


def look_up(person: str) -> str:
    """Tells to whom a person on the rota hands over."""
    return f"{person} hands over to {ROTA[person]} ."


def main() -> None:
    """Two mornings of one agent: the one that was, and the one that might have been."""
    with tempfile.TemporaryDirectory() as folder, SleepMemory(archive=Path(folder) / "memory.db") as memory:
        agent = create_agent(
            ChatSleep(memory, max_tokens=32),
            [look_up],
            system_prompt="you watch the rota .",
            middleware=[SleepMiddleware(memory)],
            checkpointer=InMemorySaver(),
        )

        def say(text: str, config: RunnableConfig = THREAD) -> str:
            said = agent.invoke({"messages": [HumanMessage(text)]}, config)
            answer = str(said["messages"][-1].content)
            print(f"  {text:<28} {answer:<8} ({len(said['messages'])} messages in the list)")
            return answer

        print("the rota, as it is:")
        say("look up alice .")
        before = agent.get_state(THREAD).config  # a checkpoint: from here on there will be two pasts
        say("look up bob .")
        assert say(QUESTION) == "alice"
        as_it_was = agent.get_state(THREAD).config

        print("back to the checkpoint before bob was looked up, and the rota is another one:")
        ROTA["bob"] = "erin"
        say("look up bob .", before)
        assert say(QUESTION) == "erin", "the branch must not know what the other one was told"
        assert say("who comes 1 after alice ?") == "dave", "the branch knows what was said before it parted"

        print("and forward again, to the checkpoint of the first morning:")
        assert say(QUESTION, as_it_was) == "alice"

        print("threads in the archive:")
        for record in memory.sessions():
            print(f"  {record.scope.thread}: {record.tokens} tokens")


if __name__ == "__main__":
    main()
