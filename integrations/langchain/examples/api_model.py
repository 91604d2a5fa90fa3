"""An agent on a model behind an API: a sleeping model listens, what it has slept on leaves the list, and the agent asks
it with the tool ``recall``.

    python examples/api_model.py

Offline: a fake model of langchain-core, which writes what it is told to, stands for the one behind the API. What the
tool answers comes from the shipped model's fast weights.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolCall
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from agentsleep import SleepMemory
from langchain_agentsleep import SleepMiddleware, memory_tools

FACTS = ("bob hands over to alice .", "alice hands over to dave .", "dave hands over to erin .")
QUESTION = "who comes 2 after bob ?"
CONFIG: RunnableConfig = {"configurable": {"thread_id": "watch", "user_id": "ada"}}


class FakeModel(GenericFakeChatModel):
    """Takes tools, as a model behind an API does."""

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """It writes its script in any case."""
        return self


def script() -> Iterator[AIMessage]:
    """What the fake model writes."""
    for _fact in FACTS:
        yield AIMessage("noted")
    call = ToolCall(name="recall", args={"question": QUESTION}, id="call-1", type="tool_call")
    yield AIMessage("", tool_calls=[call])
    yield AIMessage("my memory has told you")


def main() -> None:
    """Told, slept on, asked."""
    with tempfile.TemporaryDirectory() as folder, SleepMemory(archive=Path(folder) / "memory.db") as memory:
        agent = create_agent(
            FakeModel(messages=script()),
            memory_tools(memory, include=["recall", "search_transcript"], max_tokens=8),
            middleware=[SleepMiddleware(memory, trigger=("messages", 2), keep=("messages", 2))],
            checkpointer=InMemorySaver(),
        )
        for fact in FACTS:
            said = agent.invoke({"messages": [HumanMessage(fact)]}, CONFIG)
            print(f"{fact:<28} {len(said['messages'])} messages in the list")

        before = [one.text for one in said["messages"]]
        print(f"the list before the question: {before}")
        assert FACTS[0] not in before, "the list can tell"
        assert FACTS[1] not in before, "the list can tell"

        for step in agent.stream({"messages": [HumanMessage(QUESTION)]}, CONFIG, stream_mode="updates"):
            for one in (step.get("tools") or {}).get("messages", ()):
                print(f"recall({QUESTION!r}) returns:\n  " + one.text.replace("\n", "\n  "))
                assert "answers: dave" in one.text, "dave was expected: is the memory empty?"
                break
        print(f"{len(agent.get_state(CONFIG).values['messages'])} messages in the list")


if __name__ == "__main__":
    main()
