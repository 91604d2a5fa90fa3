"""Checking what an archive holds of a user: states, lineage and logs, every finding by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive import chunks
from agentsleep.archive.codec import digest, text_hash
from agentsleep.archive.database import UNREADABLE
from agentsleep.archive.findings import Finding, Reader
from agentsleep.archive.log import event_of
from agentsleep.archive.schema import ChunkRow, EventRow, PieceRow, ScopeRow, SessionRow, SnapshotRow, TensorRow
from agentsleep.archive.scoped import Scoped
from agentsleep.archive.types import Status
from agentsleep.errors import AgentsleepError

_EVENTS = 500  # read at once


@dataclass(frozen=True, kw_only=True)
class VerifyReport:
    """What was looked at, and what was found."""

    deep: bool
    """Whether the bytes of states and the content of events were read."""
    sessions: int
    snapshots: int
    pruned: int
    """Snapshots whose state retention has taken away: of them, only the lineage can be checked."""
    chunks: int
    events: int
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify(scoped: Scoped, deep: bool = True, progress: Callable[[float], None] | None = None) -> VerifyReport:
    """Checks all that the archive holds of the user; changes nothing.

    Every chunk against its digest, every state's list of tensors against its own, counts of references, lineage, and
    every event against its checksum. What is damaged is a finding, never an exception. Not covered, since nothing was
    stored to compare with: names, settings, measurements, times, and the digests of pruned snapshots.

    Args:
        deep: False: neither the bytes of states nor the contents of events are read; what remains is fast.
        progress: is told the part that is done, 0 to 1.

    Raises:
        ArchiveError: the archive cannot be opened at all, or its states were stored through another transformation.
    """
    with scoped.reading() as (tx, scope_id):
        return _Check(scoped, tx, scope_id, deep, progress or (lambda part: None)).run()


class _Check(Reader):
    def __init__(self, scoped: Scoped, tx: Transaction, scope_id: str, deep: bool, progress: Callable[[float], None]):
        super().__init__(scoped, tx, scope_id, progress)
        self.deep = deep

    def run(self) -> VerifyReport:
        sessions = {row.id: row for (row,) in self.read(SessionRow, select(SessionRow))}
        snapshots = {row.id: row for (row,) in self.read(SnapshotRow, select(SnapshotRow))}
        self.whole = max(1, self.count(ChunkRow) + self.count(EventRow))
        self.lineage(sessions, snapshots)
        chunks_read = self.states(snapshots)
        key = self.tx.scalar(select(ScopeRow.key).where(ScopeRow.id == self.scope_id)) or b""
        events = sum(self.log(session, snapshots, key) for session in sessions.values())
        if (strays := self.count(EventRow) - events) > 0:
            self.find("orphan", f"{strays} events belong to none of the sessions, or lie outside of their logs")
        self.step(self.whole)
        return VerifyReport(
            deep=self.deep,
            sessions=len(sessions),
            snapshots=len(snapshots),
            pruned=sum(row.status == "pruned" for row in snapshots.values()),
            chunks=chunks_read,
            events=events,
            findings=tuple(self.findings),
        )

    def lineage(self, sessions: Mapping[str, SessionRow], snapshots: Mapping[str, SnapshotRow]) -> None:
        for session in sessions.values():
            for what, link in (("head", session.head_id), ("origin", session.forked_from)):
                row = snapshots.get(link or "")
                if link is not None and row is None:
                    self.find("lineage", f"the {what} {link} of session {session.id} is missing", session_id=session.id)
                elif row is not None and row.fingerprint != session.fingerprint:
                    self.find(
                        "lineage",
                        f"the {what} {link} of session {session.id} belongs to another model",
                        session_id=session.id,
                        snapshot_id=link,
                    )
        for row in snapshots.values():
            parent = snapshots.get(row.parent_id or "")
            wrong = []
            if row.parent_id is not None and parent is None:
                wrong.append(f"its parent {row.parent_id} is missing")
            if row.session_id not in sessions:
                wrong.append(f"its session {row.session_id} is missing")
            if parent is not None and (parent.span_stop, parent.fingerprint) != (row.span_start, row.fingerprint):
                wrong.append("it does not go on from its parent's span, or with its parent's model")
            if row.parent_id is None and row.span_start != 0:
                wrong.append(f"it has no parent, and begins at event {row.span_start}")
            if row.span_stop <= row.span_start and parent is not None and row.tokens < parent.tokens:
                wrong.append("its span ends before it begins")
            if row.status not in get_args(Status):
                wrong.append(f"its status is {row.status!r}")
            if wrong:
                self.find("lineage", f"snapshot {row.id}: {'; '.join(wrong)}", snapshot_id=row.id)

    def states(self, snapshots: Mapping[str, SnapshotRow]) -> int:
        """Checks every state; returns the number of chunks."""
        chunk_rows = self.read(ChunkRow, select(ChunkRow.digest, ChunkRow.refs, ChunkRow.size))
        stored = {name: (refs, size) for name, refs, size in chunk_rows}
        damaged = {name for name in stored if self.deep and not self.whole_chunk(name, stored[name][1])}
        tensors: dict[str, list[TensorRow]] = {}
        for (tensor,) in self.read(TensorRow, select(TensorRow).order_by(TensorRow.snapshot_id, TensorRow.ordinal)):
            tensors.setdefault(tensor.snapshot_id, []).append(tensor)
        pieces: dict[tuple[str, int], list[str]] = {}
        uses: Counter[str] = Counter()
        query = select(PieceRow.snapshot_id, PieceRow.ordinal, PieceRow.digest)
        for owner, ordinal, name in self.read(
            PieceRow, query.order_by(PieceRow.snapshot_id, PieceRow.ordinal, PieceRow.part)
        ):
            uses[name] += 1
            pieces.setdefault((owner, ordinal), []).append(name)
        for row in snapshots.values():
            mine = tensors.pop(row.id, [])
            self.state(row, [(one, pieces.pop((row.id, one.ordinal), [])) for one in mine], stored, damaged)
        for owner in tensors:
            self.find("orphan", f"tensors of snapshot {owner}, which is missing", snapshot_id=owner)
        for owner, ordinal in pieces:
            self.find("orphan", f"pieces of tensor {ordinal} of {owner}, which is missing", snapshot_id=owner)
        for name, (refs, _size) in stored.items():
            if not uses[name]:
                self.find("orphan", f"chunk {name} belongs to no state", chunk=name)
            if refs != uses[name]:
                self.find("references", f"chunk {name} counts {refs} references, there are {uses[name]}", chunk=name)
        return len(stored)

    def whole_chunk(self, name: str, size: int) -> bool:
        query = select(ChunkRow.codec, ChunkRow.data).where(ChunkRow.digest == name)
        rows = self.read(ChunkRow, query, chunk=name)
        self.step(1)
        codec, data = rows[0] if rows else (None, None)
        # SQLite's columns hold any type: a damaged row may give a str.
        plain = chunks.decoded((codec, data), self.scoped.transform) if isinstance(data, bytes) else None
        return plain is not None and len(plain) == size and digest(plain) == name

    def state(
        self,
        row: SnapshotRow,
        tensors: Sequence[tuple[TensorRow, Sequence[str]]],
        stored: Mapping[str, tuple[int, int]],
        damaged: Collection[str],
    ) -> None:
        if row.status == "pruned":
            if tensors:
                self.find("manifest", f"snapshot {row.id} is pruned, but has tensors", snapshot_id=row.id)
            return
        for tensor, names in tensors:
            for part, name in enumerate(names):
                if name not in stored or name in damaged:
                    wrong = "does not match its digest" if name in stored else "is missing"
                    self.find(
                        "chunk",
                        f"snapshot {row.id}: chunk {name} (part {part} of {tensor.name}) {wrong}",
                        snapshot_id=row.id,
                        tensor=tensor.name,
                        chunk=name,
                    )
        manifest = chunks.manifest_digest((one.name, one.dtype, one.shape, names) for one, names in tensors)
        held = sum(stored[name][1] for _, names in tensors for name in names if name in stored)
        if manifest != row.state_digest:
            self.find(
                "manifest",
                f"snapshot {row.id}: its {len(tensors)} tensors (names, types, shapes, chunks) do not match its digest",
                snapshot_id=row.id,
            )
        elif held != row.state_bytes:
            self.find(
                "manifest",
                f"snapshot {row.id} should have {row.state_bytes} bytes, its chunks have {held}",
                snapshot_id=row.id,
            )

    def log(self, session: SessionRow, snapshots: Mapping[str, SnapshotRow], key: bytes) -> int:
        """Checks a session's own events; returns how many lie where its log is."""
        origin = snapshots.get(session.forked_from or "")
        start, position = (origin.span_stop, origin.tokens) if origin else (0, 0)
        mine = EventRow.session_id == session.id
        columns: tuple[Any, ...] = (EventRow,) if self.deep else (EventRow.seq, EventRow.position, EventRow.token_count)
        for first in range(start, session.next_seq, _EVENTS):
            stop = min(first + _EVENTS, session.next_seq)
            before = len(self.findings)
            query = select(*columns).where(mine, EventRow.seq >= first, EventRow.seq < stop).order_by(EventRow.seq)
            found = self.read(EventRow, query, session_id=session.id)
            unread = len(self.findings) > before
            rows: list[Any] = [row[0] if self.deep else row for row in found]
            missing = sorted(set(range(first, stop)) - {row.seq for row in rows})
            if missing and not unread:
                self.find(
                    "log",
                    f"session {session.id}: {len(missing)} events are missing, the first is {missing[0]}",
                    session_id=session.id,
                    seq=missing[0],
                )
            for row in rows:
                wrong = _wrong(row, key) if self.deep else ""
                if row.position != position and not (missing or wrong):
                    wrong = f"begins at token {row.position}, not {position}"
                if wrong:
                    message = f"event {row.seq} of session {session.id} {wrong}"
                    self.find("log", message, session_id=session.id, seq=row.seq)
                position = row.position + row.token_count
            self.step(len(rows))
        if position != session.next_position and not any(one.session_id == session.id for one in self.findings):
            message = f"session {session.id} should have {session.next_position} tokens, its events end at {position}"
            self.find("log", message, session_id=session.id)
        return self.count(EventRow, mine, EventRow.seq >= start, EventRow.seq < session.next_seq)


def _wrong(row: EventRow, key: bytes) -> str:
    try:
        event = event_of(row)
    except (AgentsleepError, *UNREADABLE):
        return "fails its checksum"
    if len(event.token_ids) != row.token_count:
        return f"counts {row.token_count} tokens, and has {len(event.token_ids)}"
    if row.text_hash != (None if event.text is None else text_hash(key, event.role, event.text)):
        return "has a hash that is not its text's"
    return ""
