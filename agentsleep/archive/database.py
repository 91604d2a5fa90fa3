"""What both kinds of database have in common: transactions that either are on disk or never were, and named errors."""

from __future__ import annotations

import os
import struct
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as Transaction

from agentsleep.errors import AgentsleepError, ArchiveError, SettingsError

Synchronous = Literal["FULL", "NORMAL"]
"""What a commit waits for: FULL, that it is on the disk; NORMAL, that it survives the end of the process."""

# What decoding a row raises when its bytes are not what was written.
UNREADABLE = (struct.error, ValueError, TypeError, AttributeError, OverflowError)


class Reach(NamedTuple):
    """Whose rows a transaction is about. PostgreSQL's row-level security lets it see no others."""

    tenant: str = ""
    user: str = ""
    scope_id: str = ""


EVERYONE = Reach("*", "*", "*")
"""For the queue of jobs, and for lists of who there is: no text and no state of another user can be read with it."""


class Database(ABC):
    """A database and its transactions; safe to share between threads, not across `os.fork`.

    Attributes:
        name: for messages; never holds a password.  path: of the file; None without one.

    Raises:
        SettingsError: `synchronous` is no such value.
    """

    name: str
    path: Path | None
    engine: Engine
    reader: Engine
    writer: Engine
    low_level: tuple[type[Exception], ...]  # what the driver raises by itself

    def __init__(self, synchronous: Synchronous) -> None:
        if synchronous not in get_args(Synchronous):
            raise SettingsError(f"synchronous is {synchronous!r}; it must be one of {get_args(Synchronous)}")
        self.synchronous = synchronous
        self._pid = os.getpid()
        self._closed = False

    @property
    def kind(self) -> Literal["sqlite", "postgresql"]:
        """Which of the two it is."""
        return "sqlite" if self.engine.dialect.name == "sqlite" else "postgresql"

    @contextmanager
    def reading(self, reach: Reach = EVERYONE) -> Iterator[Transaction]:
        """A consistent view; waits for no writer."""
        with self._transaction(self.reader, self.gate(writes=False)) as tx:
            self.confine(tx, reach)
            yield tx

    @contextmanager
    def writing(self, reach: Reach = EVERYONE) -> Iterator[Transaction]:
        """A transaction; on return it is on disk, or it never was."""
        with self._transaction(self.writer, self.gate(writes=True)) as tx:
            self.confine(tx, reach)
            yield tx

    def close(self) -> None:
        """Lets go of the database; calling it again does nothing."""
        self._closed = True
        if os.getpid() == self._pid:
            self.engine.dispose()

    @abstractmethod
    def translate(self, error: Exception) -> ArchiveError:
        """The typed error for a low-level one; arguments are checked before, so `UNREADABLE` is a bad row."""

    @abstractmethod
    def confine(self, tx: Transaction, reach: Reach) -> None:
        """Tells the database whose rows the transaction is about; also when a scope has only now got its id."""

    @contextmanager
    def erasing(self, tx: Transaction) -> Iterator[None]:
        """What is deleted inside is overwritten, where the database can do that."""
        yield

    @abstractmethod
    def purge(self) -> list[str]:
        """Rewrites the database without what was deleted from it; returns what could not be reached, and why."""

    def gate(self, *, writes: bool) -> threading.Lock | nullcontext[None]:
        """What threads of this process queue at before they begin a transaction."""
        return nullcontext()

    def check_usable(self) -> None:
        """Raises `ArchiveError` after `close`, and in a fork."""
        if self._closed:
            raise ArchiveError(f"the archive {self.name} is closed; open a new Archive")
        if os.getpid() != self._pid:
            raise ArchiveError(
                f"the archive {self.name} was opened by process {self._pid} and is used in its fork {os.getpid()}, "
                "which can damage it; open a new Archive after the fork"
            )

    @contextmanager
    def _transaction(self, engine: Engine, gate: threading.Lock | nullcontext[None]) -> Iterator[Transaction]:
        self.check_usable()
        with gate, self.named_errors(), Transaction(engine, expire_on_commit=False) as tx, tx.begin():
            yield tx

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Low-level errors come out as typed ones."""
        try:
            yield
        except AgentsleepError:
            raise
        except Exception as error:
            if isinstance(error, (SQLAlchemyError, *self.low_level, *UNREADABLE)):
                raise self.translate(error) from error
            raise
