"""What a check of an archive reports, and reading rows of which some cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from sqlalchemy import ColumnElement, Row, Select, func, literal_column, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive.database import UNREADABLE
from agentsleep.archive.scoped import Scoped

Problem: TypeAlias = Literal["chunk", "manifest", "references", "orphan", "lineage", "log", "unreadable"]
"""Bytes that are not what was stored; a list of tensors that is not; a count of uses that is wrong; rows that nothing
leads to; a head, parent or span that does not fit; an event that is damaged or missing; rows that cannot be read."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that is not as it was written."""

    problem: Problem
    message: str
    session_id: str | None = None
    snapshot_id: str | None = None
    tensor: str | None = None
    chunk: str | None = None
    seq: int | None = None


class Reader:
    """A user's rows, and what is found wrong with them.

    Args:
        progress: is told the part of `whole` steps that is done.
    """

    def __init__(self, scoped: Scoped, tx: Transaction, scope_id: str, progress: Callable[[float], None]) -> None:
        self.scoped, self.tx, self.scope_id, self._progress = scoped, tx, scope_id, progress
        self.findings: list[Finding] = []
        self.steps, self.whole = 0, 1

    def find(self, problem: Problem, message: str, **where: Any) -> None:
        """Notes a finding."""
        self.findings.append(Finding(problem=problem, message=message, **where))

    def count(self, table: type[Any], *which: ColumnElement[bool]) -> int:
        """The user's rows of a table."""
        query = select(func.count()).select_from(table).where(table.scope_id == self.scope_id, *which)
        return int(self.tx.scalar(query) or 0)

    def step(self, done: int) -> None:
        """So much more is done."""
        self.steps += done
        self._progress(min(1.0, self.steps / self.whole))

    def read(self, table: type[Any], query: Select[*tuple[Any, ...]], **where: Any) -> list[Row[*tuple[Any, ...]]]:
        """The user's rows of a query on one table. A row that cannot be read is a finding; the others are returned."""
        query = query.where(table.scope_id == self.scope_id)
        try:
            return list(self.tx.execute(query))
        except (SQLAlchemyError, *UNREADABLE) as error:
            if self.scoped.database.kind != "sqlite":
                raise  # the transaction is over; the server checks its encodings by itself
            first = error
        number: ColumnElement[int] = literal_column(f"{table.__tablename__}.rowid")
        rows: list[Row[*tuple[Any, ...]]] = []
        failed = False
        for rowid in list(self.tx.scalars(query.with_only_columns(number))):
            try:
                rows += self.tx.execute(query.where(number == rowid))
            except (SQLAlchemyError, *UNREADABLE) as error:
                failed = True
                self.find("unreadable", f"row {rowid} of {table.__tablename__} cannot be read: {_said(error)}", **where)
        if not failed:
            self.find("unreadable", f"{table.__tablename__} cannot be read: {_said(first)}", **where)
        return rows


def _said(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0][:200]
