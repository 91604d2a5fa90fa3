"""Transactions on one user's rows, and the ways to a row: here the scope gets into every query."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Select, select
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive import rows
from agentsleep.archive.chunks import Transform
from agentsleep.archive.database import Database, Reach
from agentsleep.archive.rules import Retention
from agentsleep.archive.schema import ScopeRow, SessionRow, SnapshotRow
from agentsleep.archive.types import Scope, SessionRecord, Snapshot
from agentsleep.errors import SessionNotFound, SnapshotNotFound


class Scoped:
    """A user of a tenant, as the database knows them."""

    def __init__(
        self, database: Database, whose: Scope, transform: Transform | None, retention: Retention | None
    ) -> None:
        self.tenant, self.name = whose.tenant, whose.user
        self.database, self.transform, self.retention = database, transform, retention
        self._scope: tuple[str, bytes] | None = None  # id and key, once they are known

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.database.name!r}, tenant={self.tenant!r}, user={self.name!r})"

    @contextmanager
    def reading(self) -> Iterator[tuple[Transaction, str]]:
        """A view of the user's rows, and the id of the scope; "" where nothing was written yet."""
        with self.database.reading(self._reach) as tx:
            yield tx, self._found(tx)[0]

    @contextmanager
    def writing(self, *, create: bool = False) -> Iterator[tuple[Transaction, str, bytes]]:
        """A transaction on the user's rows, the id of the scope and its key.

        Args:
            create: a user of whom nothing was written yet gets a scope; without it, the id is "".
        """
        known = self._scope
        try:
            with self.database.writing(self._reach) as tx:
                scope_id, key = self._found(tx, again=create)
                if not scope_id and create:
                    rows.make_scope(tx, self.tenant, self.name)
                    scope_id, key = self._found(tx, again=True)
                yield tx, scope_id, key
        except BaseException:
            self._scope = known  # what was made in the transaction is not there
            raise

    @property
    def _reach(self) -> Reach:
        return Reach(self.tenant, self.name, self._scope[0] if self._scope else "")

    def _found(self, tx: Transaction, *, again: bool = False) -> tuple[str, bytes]:
        # An id from before the user was forgotten finds nothing, and is looked up again before anything new is made.
        if self._scope is None or again:
            query = select(ScopeRow.id, ScopeRow.key).where(
                ScopeRow.tenant == self.tenant, ScopeRow.user_id == self.name
            )
            row = tx.execute(query).first()
            self._scope = (row.id, row.key) if row else None
            self.database.confine(tx, self._reach)
        return self._scope or ("", b"")

    def forgotten(self) -> None:
        """The scope is no longer there; whoever writes again gets another one."""
        self._scope = None

    def record(self, row: SessionRow) -> SessionRecord:
        """The row of a session as a value."""
        return rows.session_record(row, self.tenant, self.name)

    def snapshot_record(self, row: SnapshotRow) -> Snapshot:
        """The row of a snapshot as a value."""
        return rows.snapshot_record(row, self.tenant, self.name)

    def named(self, thread: str) -> Scope:
        """A thread of the user, for messages."""
        return Scope(tenant=self.tenant, user=self.name, thread=thread)

    def by_thread(self, thread: str, scope_id: str) -> Select[SessionRow]:
        """The query for the one session of a thread."""
        return select(SessionRow).where(SessionRow.scope_id == scope_id, SessionRow.thread == thread)

    def lock_threads(self, tx: Transaction, scope_id: str) -> None:
        """Until the transaction ends, no other one gives a thread of the user to a session; appends go on."""
        tx.execute(select(ScopeRow.id).where(ScopeRow.id == scope_id).with_for_update(key_share=True))

    def session_row(self, tx: Transaction, session_id: str, scope_id: str, *, lock: bool = False) -> SessionRow:
        """The one way to a session by its id. Raises `SessionNotFound`."""
        query = select(SessionRow).where(SessionRow.id == session_id, SessionRow.scope_id == scope_id)
        # FOR UPDATE says nothing to SQLite, whose writers are alone anyway; elsewhere it makes them so.
        row = tx.scalar(query.with_for_update() if lock else query)
        if row is None:
            raise SessionNotFound(
                f"no session {session_id!r} of user {self.name!r} of tenant {self.tenant!r} in {self.database.name}; "
                "open_session() gives ids"
            )
        return row

    def snapshot_row(self, tx: Transaction, snapshot_id: str, scope_id: str) -> SnapshotRow:
        """The one way to a snapshot by its id: the scope is part of the query. Raises `SnapshotNotFound`."""
        row = tx.scalar(select(SnapshotRow).where(SnapshotRow.id == snapshot_id, SnapshotRow.scope_id == scope_id))
        if row is None:
            raise SnapshotNotFound(
                f"no snapshot {snapshot_id!r} of user {self.name!r} of tenant {self.tenant!r} in {self.database.name}; "
                "snapshots() lists those of a session"
            )
        return row
