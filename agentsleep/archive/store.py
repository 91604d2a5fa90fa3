"""The archive: sessions, their event logs, their snapshots. The only door to the tables."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive import log, rows, schema
from agentsleep.archive.codec import digest, normal_json
from agentsleep.archive.engine import Database, Synchronous
from agentsleep.archive.schema import SessionRow, SnapshotRow, StateRow
from agentsleep.archive.types import JSON, Event, NewEvent, Scope, SessionRecord, Snapshot, check_name
from agentsleep.errors import (
    FingerprintMismatch,
    InputError,
    SessionNotFound,
    SettingsError,
    SnapshotConflict,
    SnapshotDamaged,
    SnapshotNotFound,
)


class Archive:
    """Event logs and snapshots of many sessions in one SQLite database.

    What a method that writes has returned is on disk: neither SIGKILL nor, unless `synchronous` is NORMAL, a power cut
    takes it back. What raises has stored nothing. Reads never wait for writers. One `Archive` serves all threads of a
    process; after `os.fork` a new one is needed. The archive itself lets any number of writers append; `SessionLock`
    keeps them apart.

    Args:
        where: the file (made, with its folder, if it is missing), ":memory:", or a URL `sqlite:///…`.
        synchronous: "FULL" waits for the disk at every commit; "NORMAL" does not, so that a power cut or a crash of the
            operating system may take back the last commits (SIGKILL still may not).

    Raises:
        SettingsError: `where` is empty or no SQLite URL; `synchronous` is neither of the two.
        ArchiveError: the file cannot be opened, is another program's, or of a newer schema.
        ArchiveDamaged: the file is damaged or no database. Every method may raise this, and `ArchiveFull` for a full
            disk, and `SessionBusy` if another program keeps the database locked for more than five seconds.
    """

    def __init__(self, where: str | Path, *, synchronous: Synchronous = "FULL") -> None:
        self._db = Database(where, synchronous)
        try:
            schema.prepare(self._db)
        except BaseException:
            self._db.close()
            raise

    @property
    def path(self) -> Path | None:
        """The database file; None in memory."""
        return self._db.path

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file; calling it again does nothing."""
        self._db.close()

    def __repr__(self) -> str:
        return f"Archive({self._db.name!r})"

    # Sessions

    def open_session(
        self, scope: Scope, *, fingerprint: str, settings: Mapping[str, JSON], create: bool = True
    ) -> SessionRecord:
        """The session of this scope; a new one if there is none. A stored session keeps the settings that it has.

        Raises:
            SessionNotFound: there is none and `create` is False.
            FingerprintMismatch: it belongs to another model.
            InputError: `settings` are no JSON, or the fingerprint is empty.
        """
        check_name("fingerprint", fingerprint)
        plain = normal_json("settings", settings)
        with self._db.reading() as tx:
            row = tx.scalar(rows.by_scope(scope))
        if row is None:
            if not create:
                raise SessionNotFound(f"no session for {scope} in {self._db.name}; check its ids, or use create=True")
            with self._db.writing() as tx:
                row = tx.scalar(rows.by_scope(scope))  # another writer may have been faster
                if row is None:
                    row = rows.new_session(scope, fingerprint, plain, origin=None)
                    tx.add(row)
        if row.fingerprint != fingerprint:
            raise FingerprintMismatch(
                f"the session of {scope} belongs to model {row.fingerprint[:12]}, but the model at hand is "
                f"{fingerprint[:12]}; load the model that wrote it, or choose another thread"
            )
        return rows.session_record(row)

    def session(self, session_id: str) -> SessionRecord:
        """The session as it stands now. Raises `SessionNotFound`."""
        with self._db.reading() as tx:
            return rows.session_record(self._row(tx, session_id))

    def sessions(self, tenant: str, user: str) -> list[SessionRecord]:
        """All sessions of one user of one tenant, oldest first."""
        query = select(SessionRow).where(SessionRow.tenant == tenant, SessionRow.user_id == user)
        with self._db.reading() as tx:
            return [rows.session_record(row) for row in tx.scalars(query.order_by(SessionRow.created, SessionRow.id))]

    # The event log

    def append(self, session_id: str, events: Sequence[NewEvent]) -> list[Event]:
        """Writes all of `events` at the end of the log, or none. The cost does not depend on the log's length.

        Raises:
            SessionNotFound: no such session.
            InputError: an event's data is no JSON.
        """
        data = log.plain_data(events)
        with self._db.writing() as tx:
            return log.extend(tx, self._row(tx, session_id, lock=True), events, data, rows.now())

    def events(self, session_id: str, start: int = 0, stop: int | None = None) -> list[Event]:
        """Events with start ≤ seq < stop (None: to the end), in order, what a fork inherited included.

        Raises:
            SessionNotFound: no such session.
            InputError: `start` or `stop` is negative.
            ArchiveDamaged: an event fails its checksum, or is missing.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise InputError(f"events({start}, {stop}): seqs count from 0; negative ones mean nothing")
        with self._db.reading() as tx:
            return log.read(tx, self._row(tx, session_id), start, stop)

    # Snapshots

    def commit_snapshot(
        self,
        session_id: str,
        *,
        expected_head: str | None,
        state: bytes,
        events: Sequence[NewEvent],
        fingerprint: str,
        passes: int,
        rounds: int,
        trigger: str,
        mode: str,
        environment: Mapping[str, JSON],
        metrics: Mapping[str, JSON],
        expected_events: int | None = None,
    ) -> Snapshot:
        """Stores a state and makes it the head: the state, the marks, the snapshot and the head, all of it or nothing.

        Args:
            expected_head: the head that the sleep started from (None: there was none yet); becomes the parent.
            events: the sleep's marks, appended to the log; the snapshot's span ends after them.
            expected_events: the log's length that the sleep has seen; None does not check it.

        Raises:
            SnapshotConflict: the head, or the log's length, is no longer the expected one.
            SessionNotFound: no such session.
            FingerprintMismatch: the session belongs to another model.
            SettingsError: `passes` or `rounds` below 1.
            InputError: the state is empty, or something is no JSON.
        """
        for name, value in (("passes", passes), ("rounds", rounds)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SettingsError(f"{name} must be an int of at least 1, got {value!r}")
        if not state:
            raise InputError("the state is empty (0 bytes), which would wipe the memory; nothing was stored")
        row = SnapshotRow(
            id=uuid.uuid4().hex,
            session_id=session_id,
            parent_id=expected_head,
            fingerprint=check_name("fingerprint", fingerprint),
            passes=passes,
            rounds=rounds,
            trigger=check_name("trigger", trigger),
            mode=check_name("mode", mode),
            environment=normal_json("environment", environment),
            metrics=normal_json("metrics", metrics),
            state_digest=digest(state),
            state_bytes=len(state),
            created=rows.now(),
            tag=None,
        )
        data = log.plain_data(events)
        with self._db.writing() as tx:
            session = self._row(tx, session_id, lock=True)
            if session.fingerprint != fingerprint:
                raise FingerprintMismatch(
                    f"session {session_id} belongs to model {session.fingerprint[:12]}, the state comes from "
                    f"{fingerprint[:12]}; sleep with the session's own model"
                )
            if session.head_id != expected_head:
                raise rows.conflict(session_id, expected_head, session.head_id)
            if expected_events is not None and session.next_seq != expected_events:
                raise SnapshotConflict(
                    f"the log of session {session_id} has {session.next_seq} events, the sleep saw {expected_events}; "
                    f"nothing was stored (the head is still {expected_head}); read the new events and sleep again"
                )
            parent = tx.get_one(SnapshotRow, expected_head) if expected_head else None
            log.extend(tx, session, events, data, row.created)
            row.span_start = parent.span_stop if parent else 0
            row.span_stop, row.tokens = session.next_seq, session.next_position
            rows.keep_state(tx, row.state_digest, state)
            tx.add(row)
            tx.flush()
            rows.move_head(tx, session_id, expected_head, row.id)
        return rows.snapshot_record(row)

    def snapshots(self, session_id: str) -> list[Snapshot]:
        """The session's history: its head and all ancestors, a fork's inherited ones included, oldest first."""
        with self._db.reading() as tx:
            self._row(tx, session_id)
            return [rows.snapshot_record(row) for row in tx.scalars(rows.ancestors(session_id))]

    def snapshot(self, snapshot_id: str, *, tenant: str, user: str) -> Snapshot:
        """A snapshot of this user. Raises `SnapshotNotFound`, also for one that exists but is another user's."""
        with self._db.reading() as tx:
            return rows.snapshot_record(self._own(tx, snapshot_id, tenant, user))

    def load_state(self, snapshot_id: str, *, tenant: str, user: str) -> bytes:
        """The state's bytes, verified.

        Raises:
            SnapshotNotFound: no such snapshot, or another user's.
            SnapshotDamaged: the bytes are not those that were stored.
        """
        with self._db.reading() as tx:
            row = self._own(tx, snapshot_id, tenant, user)
            state = tx.scalar(select(StateRow.data).where(StateRow.digest == row.state_digest))
        # SQLite's columns hold any type: a damaged row may give a str.
        whole = isinstance(state, bytes) and len(state) == row.state_bytes and digest(state) == row.state_digest
        if state is None or not whole:
            found = "are missing" if state is None else "do not match their digest"
            raise SnapshotDamaged(
                f"snapshot {snapshot_id}: its {row.state_bytes} bytes {found} {row.state_digest[:12]}; go back to its "
                f"parent ({row.parent_id or 'none'}) and re-read events {row.span_start} to {row.span_stop} of the log"
            )
        return state

    def tag(self, snapshot_id: str, tag: str | None, *, tenant: str, user: str) -> Snapshot:
        """Names a snapshot (None: takes its name away); the old name is replaced.

        Raises:
            SnapshotNotFound: no such snapshot, or another user's.
            InputError: the tag is empty, longer than 255 characters or no text.
        """
        if tag is not None:
            check_name("tag", tag)
        with self._db.writing() as tx:
            row = self._own(tx, snapshot_id, tenant, user)
            row.tag = tag
        return rows.snapshot_record(row)

    def fork(self, snapshot_id: str, scope: Scope, *, settings: Mapping[str, JSON] | None = None) -> SessionRecord:
        """A new session whose head is that snapshot, and whose log begins with all that the snapshot has seen.

        Args:
            scope: of the new session; its tenant and user must be the snapshot's own.
            settings: of the new session; None takes over those of the session that committed the snapshot.

        Raises:
            SnapshotNotFound: no such snapshot, or another user's.
            InputError: the scope has a session already.
        """
        plain = None if settings is None else normal_json("settings", settings)
        with self._db.writing() as tx:
            origin = self._own(tx, snapshot_id, scope.tenant, scope.user)
            if tx.scalar(rows.by_scope(scope)) is not None:
                raise InputError(f"there is a session for {scope} already; fork into another thread")
            if plain is None:
                plain = self._row(tx, origin.session_id).settings
            row = rows.new_session(scope, origin.fingerprint, plain, origin=origin)
            tx.add(row)
        return rows.session_record(row)

    def _row(self, tx: Transaction, session_id: str, *, lock: bool = False) -> SessionRow:
        # FOR UPDATE says nothing to SQLite, whose writers are alone anyway; elsewhere it makes them so.
        row = tx.get(SessionRow, session_id, with_for_update=lock)
        if row is None:
            raise SessionNotFound(f"no session {session_id!r} in {self._db.name}; open_session() gives ids")
        return row

    def _own(self, tx: Transaction, snapshot_id: str, tenant: str, user: str) -> SnapshotRow:
        # The one way to a snapshot by its id: the scope is part of the query, never checked afterwards.
        row = tx.scalar(
            select(SnapshotRow)
            .join(SessionRow, SessionRow.id == SnapshotRow.session_id)
            .where(SnapshotRow.id == snapshot_id, SessionRow.tenant == tenant, SessionRow.user_id == user)
        )
        if row is None:
            raise SnapshotNotFound(
                f"no snapshot {snapshot_id!r} of user {user!r} of tenant {tenant!r} in {self._db.name}; "
                "snapshots() lists those of a session"
            )
        return row
