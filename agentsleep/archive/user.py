"""One user's part of the archive: sessions, their logs, their snapshots. Every query carries the scope."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

from sqlalchemy import func, select

from agentsleep.archive import audit, chunks, log, retention, rows
from agentsleep.archive.chunks import SplitState
from agentsleep.archive.codec import normal_json
from agentsleep.archive.schema import SessionRow, SnapshotRow
from agentsleep.archive.types import (
    JSON,
    Event,
    NewEvent,
    SessionRecord,
    Snapshot,
    TensorBytes,
    check_name,
)
from agentsleep.archive.upkeep import Upkeep
from agentsleep.errors import (
    FingerprintMismatch,
    InputError,
    SessionNotFound,
    SettingsError,
    SnapshotConflict,
    SnapshotNotFound,
    SnapshotPruned,
)


class UserArchive(Upkeep):
    """What an archive holds of one user. Made by `Archive.user`; costs nothing, and needs no closing.

    Its methods know no id of another user: such an id is as good as one that does not exist.
    """

    # Sessions

    def open_session(
        self, thread: str, *, fingerprint: str, settings: Mapping[str, JSON], create: bool = True
    ) -> SessionRecord:
        """The session of this thread; a new one if there is none. A stored session keeps the settings that it has.

        Raises:
            SessionNotFound: there is none and `create` is False.
            FingerprintMismatch: it belongs to another model.
            InputError: `settings` are no JSON, or the fingerprint or the thread is empty.
        """
        check_name("fingerprint", fingerprint)
        check_name("thread", thread)
        plain = normal_json("settings", settings)
        found = self.find(thread)
        if found is None:
            if not create:
                raise SessionNotFound(
                    f"no session for {self.named(thread)} in {self.database.name}; check its ids, or use create=True"
                )
            with self.writing(create=True) as (tx, scope_id, _key):
                self.lock_threads(tx, scope_id)
                row = tx.scalar(self.by_thread(thread, scope_id))  # another writer may have been faster
                if row is None:
                    row = rows.new_session(scope_id, thread, fingerprint, plain, origin=None)
                    tx.add(row)
            found = self.record(row)
        if found.fingerprint != fingerprint:
            raise FingerprintMismatch(
                f"the session of {self.named(thread)} belongs to model {found.fingerprint[:12]}, but the model at hand "
                f"is {fingerprint[:12]}; load the model that wrote it, choose another thread, or rebuild it"
            )
        return found

    def find(self, thread: str) -> SessionRecord | None:
        """The session of this thread; None if there is none."""
        with self.reading() as (tx, scope_id):
            row = tx.scalar(self.by_thread(thread, scope_id))
            return None if row is None else self.record(row)

    def session(self, session_id: str) -> SessionRecord:
        """The session as it stands now. Raises `SessionNotFound`."""
        with self.reading() as (tx, scope_id):
            return self.record(self.session_row(tx, session_id, scope_id))

    def sessions(self, prefix: str = "") -> list[SessionRecord]:
        """All sessions of the user whose thread begins with ``prefix``, oldest first."""
        with self.reading() as (tx, scope_id):
            query = select(SessionRow).where(SessionRow.scope_id == scope_id)
            if prefix:  # not LIKE, to which SQLite's upper and lower case are one
                query = query.where(func.substr(SessionRow.thread, 1, len(prefix)) == prefix)
            return [self.record(row) for row in tx.scalars(query.order_by(SessionRow.created, SessionRow.id))]

    # The log

    def append(self, session_id: str, events: Sequence[NewEvent]) -> list[Event]:
        """Writes events at the end of the log. When it returns, they are on disk.

        Raises:
            SessionNotFound: no such session.  InputError: an event's data is no JSON.
        """
        data = log.plain_data(events)
        with self.writing() as (tx, scope_id, key):
            return log.extend(tx, self.session_row(tx, session_id, scope_id, lock=True), events, data, rows.now(), key)

    def events(self, session_id: str, start: int = 0, stop: int | None = None) -> list[Event]:
        """Events with start ≤ seq < stop of a log, what it inherited included, in order.

        Raises:
            SessionNotFound: no such session.  InputError: `start` or `stop` is negative.
            ArchiveDamaged: an event fails its checksum, or is missing.
        """
        if start < 0 or (stop is not None and stop < 0):
            raise InputError(f"events({start}, {stop}): seqs count from 0; negative ones mean nothing")
        with self.reading() as (tx, scope_id):
            return log.read(tx, self.session_row(tx, session_id, scope_id), start, stop)

    def since(self, session_id: str, seq: int | None) -> tuple[SessionRecord, list[Event]]:
        """The session as it stands now, and the events of its log from ``seq`` on; None: the last one.

        Where the last one is the same, nobody has written in between: what was forgotten and followed by as much else
        ends otherwise.

        Raises:
            SessionNotFound: no such session.  InputError: `seq` is negative.
        """
        if seq is not None and seq < 0:
            raise InputError(f"since({seq}): seqs count from 0; negative ones mean nothing")
        with self.reading() as (tx, scope_id):
            row = self.session_row(tx, session_id, scope_id)
            return self.record(row), log.read(tx, row, max(0, row.next_seq - 1) if seq is None else seq, None)

    # Snapshots

    def commit_snapshot(
        self,
        session_id: str,
        *,
        expected_head: str | None,
        state: Sequence[TensorBytes],
        events: Sequence[NewEvent],
        fingerprint: str,
        passes: int,
        rounds: int,
        trigger: str,
        mode: str,
        environment: Mapping[str, JSON],
        metrics: Mapping[str, JSON],
        probe: Mapping[str, JSON] | None = None,
        expected_events: int | None = None,
    ) -> Snapshot:
        """Stores a state and makes it the head: chunks, marks, snapshot and head, all of it or nothing.

        Args:
            expected_head: the head that the sleep started from (None: there was none yet); becomes the parent.
            events: the sleep's marks, appended to the log; the snapshot's span ends after them.
            probe: what the state answers to a fixed text, by which a restore is verified.
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
        split = SplitState(state)
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
            probe=normal_json("probe", probe or {}),
            status="stored",
            state_digest=split.digest,
            state_bytes=split.bytes,
            created=rows.now(),
            tag=None,
        )
        data = log.plain_data(events)
        with self.writing() as (tx, scope_id, key):
            row.scope_id = scope_id
            session = self.session_row(tx, session_id, scope_id, lock=True)
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
            parent = self.snapshot_row(tx, expected_head, scope_id) if expected_head else None
            log.extend(tx, session, events, data, row.created, key)
            row.span_start = parent.span_stop if parent else 0
            row.span_stop, row.tokens = session.next_seq, session.next_position
            tx.add(row)
            tx.flush()
            chunks.store(tx, scope_id, row.id, split, self.transform)
            rows.move_head(tx, session, expected_head, row.id)
            if self.retention is not None:
                retention.sweep(tx, scope_id, self.retention, session)
        return self.snapshot_record(row)

    def snapshots(self, session_id: str) -> list[Snapshot]:
        """The session's history: its head and all ancestors, a fork's inherited ones included, oldest first."""
        with self.reading() as (tx, scope_id):
            head = self.session_row(tx, session_id, scope_id).head_id
            return [self.snapshot_record(row) for row in tx.scalars(rows.ancestors(head or "", scope_id))]

    def ancestors(self, snapshot_id: str) -> list[Snapshot]:
        """A snapshot and all that it descends from, oldest first. Raises `SnapshotNotFound`."""
        with self.reading() as (tx, scope_id):
            row = self.snapshot_row(tx, snapshot_id, scope_id)
            return [self.snapshot_record(one) for one in tx.scalars(rows.ancestors(row.id, scope_id))]

    def all_snapshots(self) -> list[Snapshot]:
        """All snapshots of the user, oldest first."""
        with self.reading() as (tx, scope_id):
            query = select(SnapshotRow).where(SnapshotRow.scope_id == scope_id)
            return [self.snapshot_record(r) for r in tx.scalars(query.order_by(SnapshotRow.created, SnapshotRow.id))]

    def snapshot(self, snapshot_id: str) -> Snapshot:
        """A snapshot of this user. Raises `SnapshotNotFound`, also for one that exists but is another user's."""
        with self.reading() as (tx, scope_id):
            return self.snapshot_record(self.snapshot_row(tx, snapshot_id, scope_id))

    def load_state(self, snapshot_id: str, only: Sequence[str] | None = None) -> list[TensorBytes]:
        """The tensors of a state, every chunk verified.

        Args:
            only: names of tensors; None: all of them.

        Raises:
            SnapshotNotFound: no such snapshot, or another user's.
            SnapshotPruned: retention has taken the state away.
            SnapshotDamaged: a chunk is not what was stored.
        """
        with self.reading() as (tx, scope_id):
            row = self.snapshot_row(tx, snapshot_id, scope_id)
            if row.status == "pruned":
                raise SnapshotPruned(
                    f"the state of snapshot {snapshot_id} was pruned; its log is still there: replay the session up to "
                    "it, or choose a newer snapshot (agentsleep snapshots list)"
                )
            return chunks.load(tx, row, self.transform, only)

    def tag(self, snapshot_id: str, tag: str | None) -> Snapshot:
        """Names a snapshot (None: takes its name away); the old name is replaced. Tagged states are never pruned.

        Raises:
            SnapshotNotFound: no such snapshot, or another user's.
            InputError: the tag is empty, longer than 255 characters or no text.
        """
        if tag is not None:
            check_name("tag", tag)
        with self.writing() as (tx, scope_id, _key):
            row = self.snapshot_row(tx, snapshot_id, scope_id)
            row.tag = tag
        return self.snapshot_record(row)

    def fork(self, snapshot_id: str, thread: str, *, settings: Mapping[str, JSON] | None = None) -> SessionRecord:
        """A new session whose head is that snapshot, and whose log begins with all that the snapshot has seen.

        Args:
            thread: of the new session.
            settings: of the new session; None takes over those of the session that committed the snapshot.

        Raises:
            SnapshotNotFound: no such snapshot, or another user's.
            InputError: the user has such a thread already.
        """
        check_name("thread", thread)
        plain = None if settings is None else normal_json("settings", settings)
        with self.writing() as (tx, scope_id, _key):
            origin = self.snapshot_row(tx, snapshot_id, scope_id)
            self.lock_threads(tx, scope_id)
            if tx.scalar(self.by_thread(thread, scope_id)) is not None:
                raise InputError(f"there is a session for {self.named(thread)} already; fork into another thread")
            if plain is None:
                plain = self.session_row(tx, origin.session_id, scope_id).settings
            row = rows.new_session(scope_id, thread, origin.fingerprint, plain, origin=origin)
            tx.add(row)
        return self.record(row)

    def rollback(self, session_id: str, snapshot_id: str, aside: str) -> SessionRecord:
        """Gives a session's thread to a fork of one of its snapshots. What it was until now stays, as thread `aside`.

        Raises:
            SnapshotNotFound: the session does not descend from such a snapshot.
            SessionNotFound: no such session.  InputError: there is a thread `aside` already.
        """
        check_name("thread", aside)
        with self.writing() as (tx, scope_id, _key):
            old = self.session_row(tx, session_id, scope_id, lock=True)
            line = {row.id: row for row in tx.scalars(rows.ancestors(old.head_id or "", scope_id))}
            if snapshot_id not in line:
                raise SnapshotNotFound(
                    f"session {session_id} does not descend from a snapshot {snapshot_id!r}; snapshots() lists its own"
                )
            self.lock_threads(tx, scope_id)
            if tx.scalar(self.by_thread(aside, scope_id)) is not None:
                raise InputError(f"there is a session for {self.named(aside)} already; choose another name")
            thread, old.thread = old.thread, aside
            tx.flush()
            row = rows.new_session(scope_id, thread, old.fingerprint, old.settings, origin=line[snapshot_id])
            tx.add(row)
            tx.flush()
            audit.record(tx, scope_id, "rollback", {"session": old.id, "snapshot": snapshot_id, "new": row.id})
        return self.record(row)
