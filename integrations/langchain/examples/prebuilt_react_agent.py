"""An agent that was written for other models runs on ChatSleep as it is: LangGraph's prebuilt react agent.

    python examples/prebuilt_react_agent.py

Offline, on the shipped model. There is no middleware, so the list of messages grows; the model reads only what is new
of it, and remembers what is no longer in its window.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.prebuilt import create_react_agent
from langgraph.warnings import LangGraphDeprecatedSinceV10

from agentsleep import SleepMemory
from langchain_agentsleep import ChatSleep

ROTA = {"bob": "alice", "alice": "dave", "dave": "erin", "erin": "frank", "frank": "carol"}
CONFIG: RunnableConfig = {"configurable": {"thread_id": "watch"}}

# `create_agent` is its successor; agents that were written with it are still about.
warnings.simplefilter("ignore", LangGraphDeprecatedSinceV10)


def look_up(person: str) -> str:
    """Tells to whom a person on the rota hands over."""
    return f"{person} hands over to {ROTA[person]} ."


def main() -> None:
    """Look-ups, and questions whose answers are no longer in the window."""
    with tempfile.TemporaryDirectory() as folder, SleepMemory(archive=Path(folder) / "memory.db") as memory:
        chat = ChatSleep(memory, max_tokens=32)
        agent = create_react_agent(chat, [look_up], prompt="you watch the rota .", checkpointer=InMemorySaver())
        asked = [f"look up {person} ." for person in ROTA]
        expected = ["noted"] * len(asked)
        asked += ["who comes 1 after bob ?", "who comes 2 after bob ?"]
        expected += ["alice", "dave"]
        for text, answer in zip(asked, expected, strict=True):
            said = agent.invoke({"messages": [HumanMessage(text)]}, CONFIG)
            last = said["messages"][-1]
            told = [one for one in said["messages"] if isinstance(one, AIMessage)]
            known = last.usage_metadata["input_token_details"]["cache_read"]
            print(
                f"{text:<24} {last.content:<6} {len(said['messages'])} messages, "
                f"{last.usage_metadata['input_tokens']} tokens, {known} of them known before; "
                f"sleeps so far: {sum(one.response_metadata['sleeps'] for one in told)}"
            )
            assert last.content == answer, f"{answer} was expected: is the memory empty?"
        assert sum(one.response_metadata["sleeps"] for one in told), "all of it is in the window"


if __name__ == "__main__":
    main()
