"""Named failpoints: before and after every statement and every commit, from outside of the product."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session as Transaction
from sqlalchemy.pool import ConnectionPoolEntry

from agentsleep.archive.sqlite import SqliteDatabase

Name = tuple[str, str]
"""What was being done, and the point in it: ("sleep", "after INSERT chunks")."""

_TABLE = re.compile(r'\b(?:FROM|INTO|UPDATE|FULL)\s+"?(?:agentsleep\.)?(\w+)', re.IGNORECASE)


def kind_of(statement: str) -> str:
    """A statement's verb and its table, such as "INSERT chunks"; of DDL and pragmas what they are about."""
    words = statement.strip().split(None, 2)
    verb = words[0].upper().rstrip(";") if words else "nothing"
    if verb in ("CREATE", "ALTER", "DROP", "PRAGMA") and len(words) > 1:
        return f"{verb} {re.split('[ =(]', words[1])[0]}"
    table = _TABLE.search(statement)
    return f"{verb} {table[1]}" if table else verb


class Points:
    """Dies of SIGKILL at the n-th time that the process passes the armed point.

    Args:
        known: points that need not be told any more.
        say: is told of each point that is passed for the first time, and of the one that kills.
    """

    def __init__(self, known: set[Name], say: Callable[..., None]) -> None:
        self._known, self._say = set(known), say
        self._armed: Name | None = None
        self._left = 0
        self.doing = "open"
        """The operation in hand; "": none, so that nothing is a failpoint."""

    def arm(self, name: Name | None, times: int = 1) -> None:
        """The point to die at; None: nowhere."""
        self._armed, self._left = name, times

    def passed(self, point: str) -> None:
        """The process is there."""
        if not self.doing:
            return
        name = (self.doing, point)
        if name not in self._known:
            self._known.add(name)
            self._say(point=name)
        if name == self._armed:
            self._left -= 1
            if self._left <= 0:
                self._say(hit=name)
                os.kill(os.getpid(), signal.SIGKILL)

    def watch(self) -> None:
        """From now on, all engines and all transactions of this process pass the points."""

        def before(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            self.passed(f"before {kind_of(statement)}")

        def after(_connection: Any, _cursor: Any, statement: str, *_more: Any) -> None:
            self.passed(f"after {kind_of(statement)}")

        event.listen(Engine, "before_cursor_execute", before)
        event.listen(Engine, "after_cursor_execute", after)
        event.listen(Engine, "commit", lambda _connection: self.passed("before COMMIT"))
        event.listen(Transaction, "after_commit", lambda _transaction: self.passed("after COMMIT"))
        # A purge speaks to SQLite itself; its statements are seen as they begin.
        connect = SqliteDatabase._on_connect

        def connected(
            database: SqliteDatabase, connection: sqlite3.Connection, entry: ConnectionPoolEntry | None = None
        ) -> None:
            connect(database, connection, entry)
            if entry is None:
                connection.set_trace_callback(lambda statement: self.passed(f"purge, before {kind_of(statement)}"))
            else:
                connection.execute("PRAGMA wal_autocheckpoint = 6")  # pages: commits of all kinds get to checkpoint

        SqliteDatabase._on_connect = connected  # type: ignore[method-assign]
