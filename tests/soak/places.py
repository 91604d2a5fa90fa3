"""Where the archives of the soak lie: a file, or a database on a server."""

from __future__ import annotations

import shutil
import sqlite3
import time
from abc import ABC, abstractmethod
from pathlib import Path

from agentsleep.archive import Archive
from tests.postgres import PostgresServer

PATIENCE_S = 120.0
"""A process that says nothing for so long is stuck, which is a finding."""


class Place(ABC):
    """Where a life's archive is: its beginning, and what must hold of the database itself."""

    beginnings: tuple[str, ...]

    @abstractmethod
    def begin(self, beginning: str) -> str:
        """Makes room for a new archive; returns what it is opened by."""

    @abstractmethod
    def settle(self) -> list[str]:
        """Waits until nothing of the killed process is left; returns what is wrong with the database as such."""

    @abstractmethod
    def left(self, forgotten: set[str], purged: set[str]) -> list[str]:
        """What is left of texts, beside the log: in the index of words, and, of those that were purged, as bytes."""


class SqlitePlace(Place):
    """A file. old: one of version 1, which is copied."""

    beginnings = ("fresh", "fresh", "old")

    def __init__(self, folder: Path, old: Path) -> None:
        self.folder, self.old, self.path = folder, old, folder / "memory.db"

    def begin(self, beginning: str) -> str:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        if beginning == "old":
            shutil.copy(self.old, self.path)
        return str(self.path)

    def settle(self) -> list[str]:
        if not self.path.exists():
            return []
        raw = sqlite3.connect(self.path)
        try:
            said = [row[0] for row in raw.execute("PRAGMA integrity_check")]
            broken = raw.execute("PRAGMA foreign_key_check").fetchall()
        except sqlite3.Error as error:
            return [f"SQLite says: {error}"]
        finally:
            raw.close()
        return [f"integrity_check: {one}" for one in said if one != "ok"] + [f"foreign keys: {one}" for one in broken]

    def left(self, forgotten: set[str], purged: set[str]) -> list[str]:
        raw = sqlite3.connect(self.path)
        try:
            raw.execute("INSERT INTO events_search (events_search) VALUES ('integrity-check')")  # raises
            query = "SELECT count(*) FROM events_search WHERE events_search MATCH ?"
            wrong = [f"the index has {text!r}" for text in forgotten if raw.execute(query, [f'"{text}"']).fetchone()[0]]
        except sqlite3.Error as error:
            wrong = [f"the index of words: {error}"]
        finally:
            raw.close()
        files = [self.path, self.path.with_name(self.path.name + "-wal")]
        data = b"".join(file.read_bytes() for file in files if file.exists())
        return wrong + [f"the bytes of {text!r} are still there" for text in purged if text.encode() in data]


class PostgresPlace(Place):
    """A database on a server."""

    beginnings = ("fresh", "clean", "clean")

    def __init__(self, server: PostgresServer, name: str) -> None:
        self.server, self.name = server, name

    def begin(self, beginning: str) -> str:
        if beginning == "fresh":
            self.server.disconnect(self.name)
            with self.server.connect(self.name) as connection:
                connection.execute("DROP SCHEMA IF EXISTS agentsleep CASCADE")
        else:
            Archive(self.server.url(self.name)).close()
            self.server.clean(self.name)
        return self.server.url(self.name)

    def settle(self) -> list[str]:
        theirs = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()"
        deadline = time.monotonic() + PATIENCE_S
        with self.server.connect(self.name, autocommit=True) as connection:
            while (connection.execute(theirs, [self.name]).fetchone() or (0,))[0]:
                if time.monotonic() > deadline:
                    return ["the server still works for the killed process"]
                time.sleep(0.005)
        return []

    def left(self, forgotten: set[str], purged: set[str]) -> list[str]:
        return []  # its index is the table's own, and its write-ahead log is out of reach
