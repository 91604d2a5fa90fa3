"""An agent with a tool is killed in the middle of a turn; another process resumes it from its checkpoint, and it still
knows what the first one was told.

    python examples/killed_and_resumed.py

Offline, on the shipped model. LangGraph's SqliteSaver keeps the list of messages, agentsleep's archive the memory.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.sqlite import SqliteSaver

from agentsleep import SleepMemory
from langchain_agentsleep import ChatSleep, SleepMiddleware

ROTA = {"bob": "alice", "alice": "dave", "dave": "erin", "erin": "frank", "frank": "bob"}
CONFIG: RunnableConfig = {"configurable": {"thread_id": "watch", "user_id": "ada"}}
LAST = "frank"


def main(folder: Path, *, hangs: bool) -> None:
    """Looks people up and asks; where the tool hangs, it gets only so far."""

    def look_up(person: str) -> str:
        """Tells to whom a person on the rota hands over."""
        if hangs and person == LAST:
            print("in the tool", flush=True)
            time.sleep(600)  # killed here
        return f"{person} hands over to {ROTA[person]} ."

    with (
        SleepMemory(archive=folder / "memory.db") as memory,
        SqliteSaver.from_conn_string(str(folder / "checkpoints.db")) as saver,
    ):
        agent = create_agent(
            ChatSleep(memory, max_tokens=32),
            [look_up],
            system_prompt="you watch the rota .",
            middleware=[SleepMiddleware(memory)],
            checkpointer=saver,
        )
        if hangs:
            for person in ROTA:
                show(agent.invoke({"messages": [HumanMessage(f"look up {person} .")]}, CONFIG))
            return
        show(agent.invoke(None, CONFIG))  # no new message: the turn that was killed goes on
        listed = " ".join(str(one.content) for one in agent.get_state(CONFIG).values["messages"])
        for hops, person, answer in ((1, "bob", "alice"), (2, "bob", "dave"), (1, LAST, "bob")):
            assert f"{person} hands over" not in listed  # the list cannot tell
            said = agent.invoke({"messages": [HumanMessage(f"who comes {hops} after {person} ?")]}, CONFIG)
            show(said)
            assert said["messages"][-1].content == answer, f"{answer} was expected: is the memory empty?"


def show(said: dict[str, Any]) -> None:
    """The last messages of a state."""
    print(f"  {len(said['messages'])} in the list; the newest: {said['messages'][-1].content}")


def killed(folder: Path) -> None:
    """Starts a process, and kills it while its tool runs."""
    with subprocess.Popen([sys.executable, __file__, str(folder)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="")
            if line.startswith("in the tool"):
                break
        child.kill()
        assert child.wait() == -signal.SIGKILL


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]), hangs=True)
    else:
        with tempfile.TemporaryDirectory() as place:
            print("a process looks people up:")
            killed(Path(place))
            print("killed with SIGKILL; another process goes on:")
            main(Path(place), hangs=False)
