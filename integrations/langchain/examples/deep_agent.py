"""A third-party agent that knows nothing of sleeping runs on ChatSleep as it is: ``deepagents``.

    python examples/deep_agent.py

Offline. The shipped model speaks of a rota and cannot do a deep agent's work: what is shown is that the agent runs,
with its own prompt, tools, middleware and checkpoints, and that the model reads only what is new of the list. A deep
agent keeps a budget by the window that the model tells, for prompt, tools and answer. So the window is set wide here;
the model was trained with a narrow one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from deepagents import create_deep_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from agentsleep import SleepMemory
from langchain_agentsleep import ChatSleep

FACTS = ("bob hands over to alice .", "alice hands over to dave .")
CONFIG: RunnableConfig = {"configurable": {"thread_id": "deep"}}


def main() -> None:
    """Three turns."""
    with (
        tempfile.TemporaryDirectory() as folder,
        SleepMemory(archive=Path(folder) / "memory.db", settings={"window": 16_384}) as memory,
    ):
        agent = create_deep_agent(ChatSleep(memory, max_tokens=16), checkpointer=InMemorySaver())
        for text in (*FACTS, "who comes 1 after bob ?"):
            said = agent.invoke({"messages": [HumanMessage(text)]}, CONFIG)
            last = said["messages"][-1]
            assert isinstance(last, AIMessage)
            assert last.usage_metadata is not None
            known = last.usage_metadata["input_token_details"]["cache_read"]
            print(f"{text:<28} {last.content!r:<9} {last.usage_metadata['input_tokens']} tokens, {known} of them known")
            assert bool(known) == (text != FACTS[0]), "what was read before was read again"
        print(f"its checkpoint holds: {', '.join(sorted(agent.get_state(CONFIG).values))}")
        print(f"its graph: {', '.join(sorted(agent.nodes))}")
        assert said["messages"][-1].content == "alice"


if __name__ == "__main__":
    main()
