"""Several users at once: one agent, one model, and a memory of each user's own, also where their threads have one name.

    python examples/several_users.py

Offline, on the shipped model. Whose memory it is, the config says; no read crosses from one user to another.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from agentsleep import SleepMemory
from langchain_agentsleep import ChatSleep, SleepMiddleware

TOLD = {
    "ada": {"bob": "alice", "alice": "dave"},
    "ben": {"bob": "erin", "erin": "carol"},
    "cleo": {"bob": "frank", "frank": "heidi"},
}


async def main() -> None:
    """Everyone talks at the same time."""
    with tempfile.TemporaryDirectory() as folder, SleepMemory(archive=Path(folder) / "memory.db") as memory:
        agent = create_agent(
            ChatSleep(memory, max_tokens=8),
            system_prompt="you watch the rota .",
            middleware=[SleepMiddleware(memory)],
            checkpointer=InMemorySaver(),
        )

        async def talk(user: str) -> None:
            # LangGraph's checkpoints know threads only, so a thread's id tells users apart there.
            config: RunnableConfig = {"configurable": {"thread_id": f"{user}/rota", "user_id": user}}
            for person, successor in TOLD[user].items():
                await agent.ainvoke({"messages": [HumanMessage(f"{person} hands over to {successor} .")]}, config)
            for hops, answer in enumerate(TOLD[user].values(), 1):
                question = f"who comes {hops} after bob ?"
                said = await agent.ainvoke({"messages": [HumanMessage(question)]}, config)
                print(f"{user}: {question} {said['messages'][-1].content}")
                assert not any("hands over" in one.text for one in said["messages"]), "the list can tell"
                assert said["messages"][-1].content == answer, f"{answer} was expected: is the memory empty?"

        await asyncio.gather(*map(talk, TOLD))
        for user in TOLD:
            print(f"{user}'s threads: {[record.scope.thread for record in memory.sessions(user=user)]}")


if __name__ == "__main__":
    asyncio.run(main())
