"""An agent looks people up in an SQLite table, sleeps, and is asked what it found once the window is empty.

    python examples/agent_with_tool.py

Offline, seconds. The agent knows nothing of the table but what its tool tells it.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np

from agentsleep import SleepMemory
from agentsleep.errors import ToolError
from agentsleep.memory import Agent, Tool
from agentsleep.tasks import rota


def make_table(path: Path, episode: rota.Episode) -> None:
    """The world outside of the agent."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE rota (person TEXT PRIMARY KEY, hands_over_to TEXT NOT NULL)")
        rows = [(person, episode.successor(person)) for person in sorted(episode.cycle)]
        database.executemany("INSERT INTO rota VALUES (?, ?)", rows)


def make_tool(path: Path) -> Tool:
    """The agent's only way to the table. The model is told the function's name and its arguments."""

    def look_up(person: str) -> str:
        """Tells to whom a person on the rota hands over."""
        with closing(sqlite3.connect(path)) as database:  # a tool runs in a thread of its own
            found = database.execute("SELECT hands_over_to FROM rota WHERE person = ?", (person,)).fetchone()
        if found is None:
            raise LookupError(f"{person!r} is not on the rota")  # told to the model as the tool's result
        return rota.fact(person, found[0])

    return Tool(look_up, timeout=5.0)


def main(seed: int = 0) -> None:
    """Explore, sleep, answer."""
    episode = rota.sample_episode(np.random.default_rng(seed), chatter=0)
    with (
        tempfile.TemporaryDirectory() as folder,
        SleepMemory(archive=Path(folder) / "memory.db") as memory,
        memory.session("watch", system=rota.SYSTEM) as session,
    ):
        world = Path(folder) / "world.db"
        make_table(world, episode)
        agent = Agent(session, [make_tool(world)], max_steps=2)
        for person in episode.order:
            before = len(session.history())
            try:
                said = agent.run(rota.request(person)).text
            except ToolError as error:  # the model called tools and never spoke
                said = f"({error})"
            slept = "  ... slept" * (len(session.history()) - before)
            print(f"{rota.request(person):<18} -> {said[:40]}{slept}")
        print(f"\n{len(agent.errors)} tool calls went wrong")

        session.pin(tools=[])  # from here on no tool is offered: what is not remembered cannot be looked up
        session.sleep(deep=True, rounds=1)
        right = asked = 0
        for depth in range(1, 7):
            for person in episode.cycle[::4]:
                question = episode.ask(depth, person)
                right += session.ask(question.text, remember=False, max_new_tokens=8).text == question.answer
                asked += 1
        print(f"{right} of {asked} questions of depth 1 to 6 answered right from the fast weights")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
