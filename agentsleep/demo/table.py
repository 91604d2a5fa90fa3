"""The world that the agent explores: a table in a database of its own, which only the agent's tool reads."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from agentsleep.tasks import rota


class RotaTable:
    """``rota(person, hands_over_to)`` in an SQLite file, and the tool that looks a person up in it.

    Args:
        path: the file; a table of an earlier demonstration in it is filled anew.
        episode: who hands over to whom.
    """

    def __init__(self, path: Path, episode: rota.Episode) -> None:
        self.path = path
        self.asked: list[str] = []  # everyone whom the tool was called with, in order
        rows = [(person, episode.successor(person)) for person in sorted(episode.cycle)]
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("CREATE TABLE IF NOT EXISTS rota (person TEXT PRIMARY KEY, hands_over_to TEXT NOT NULL)")
            database.execute("DELETE FROM rota")
            database.executemany("INSERT INTO rota VALUES (?, ?)", rows)

    def look_up(self, person: str) -> str:
        """Tells to whom a person on the rota hands over."""
        self.asked.append(person)
        return self.read(person)

    def read(self, person: str) -> str:
        """The fact about a person, as the tool would tell it.

        Raises:
            LookupError: nobody of that name is in the table.
        """
        # A connection for each call: a tool runs in a thread of its own.
        with closing(sqlite3.connect(self.path)) as database:
            found = database.execute("SELECT hands_over_to FROM rota WHERE person = ?", (person,)).fetchone()
        if found is None:
            raise LookupError(f"{person!r} is not on the rota")
        return rota.fact(person, found[0])
