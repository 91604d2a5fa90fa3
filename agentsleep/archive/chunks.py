"""States as chunks under their SHA-256: split, stored once a scope, counted, verified when they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Protocol

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import insert as postgres_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive.codec import digest, dump_json
from agentsleep.archive.schema import ChunkRow, PieceRow, SnapshotRow, TensorRow
from agentsleep.archive.types import TensorBytes, check_name
from agentsleep.errors import ArchiveError, InputError, SnapshotDamaged

CHUNK_BYTES = 2 * 2**20
"""Most bytes of a chunk. Far below what a blob may hold in either database."""

_MANY = 500  # parameters in one statement


class Transform(Protocol):
    """What chunks go through on their way to the database and back, such as encryption.

    Their digests are taken before it, so equal states still are stored once. The log and its texts do not pass here.
    """

    name: str

    def encode(self, data: bytes) -> bytes:
        """The bytes to store."""

    def decode(self, data: bytes) -> bytes:
        """The bytes that `encode` was given. Whatever it raises makes the chunk a damaged one."""


class SplitState:
    """A state ready to be stored: its chunks by digest, and what tells of them.

    Raises:
        InputError: there are no bytes in it, or a tensor has a name of more than 255 characters, or one twice.
    """

    def __init__(self, tensors: Sequence[TensorBytes]) -> None:
        self.tensors = tensors
        self.chunks: dict[str, memoryview] = {}
        self.pieces: list[list[str]] = []
        self.bytes = 0
        for tensor in tensors:
            check_name("a tensor's name", tensor.name)
            view = tensor.view()
            self.bytes += len(view)
            parts = [view[start : start + CHUNK_BYTES] for start in range(0, len(view), CHUNK_BYTES)]
            names = [digest(part) for part in parts]
            self.chunks.update(zip(names, parts, strict=True))
            self.pieces.append(names)
        if len({tensor.name for tensor in tensors}) != len(tensors):
            raise InputError("two tensors of the state have one name; give each its own")
        if not self.bytes:
            raise InputError("the state is empty (0 bytes), which would wipe the memory; nothing was stored")

    @property
    def digest(self) -> str:
        """Of the whole state."""
        return manifest_digest((t.name, t.dtype, t.shape, p) for t, p in zip(self.tensors, self.pieces, strict=True))


def manifest_digest(parts: Iterable[tuple[str, str, Sequence[int], Sequence[str]]]) -> str:
    """SHA-256 over name, dtype, shape and chunk digests of each tensor."""
    return digest(
        dump_json([[name, dtype, list(shape), list(pieces)] for name, dtype, shape, pieces in parts]).encode()
    )


def store(tx: Transaction, scope_id: str, snapshot_id: str, state: SplitState, transform: Transform | None) -> None:
    """Writes the tensors of a snapshot, and those of its chunks that are not there yet."""
    _put(tx, scope_id, state, transform)
    tensors, pieces = [], []
    for ordinal, (tensor, names) in enumerate(zip(state.tensors, state.pieces, strict=True)):
        key = {"snapshot_id": snapshot_id, "ordinal": ordinal, "scope_id": scope_id}
        tensors.append({**key, "name": tensor.name, "dtype": tensor.dtype, "shape": list(tensor.shape)})
        pieces += [{**key, "part": part, "digest": name} for part, name in enumerate(names)]
    tx.execute(insert(TensorRow), tensors)
    tx.execute(insert(PieceRow), pieces)


def _put(tx: Transaction, scope_id: str, state: SplitState, transform: Transform | None) -> None:
    uses = Counter(name for names in state.pieces for name in names)
    # In the order of their digests, so that two writers of the same chunks never wait for each other in a circle.
    names = sorted(state.chunks)
    there = _stored(tx, scope_id, names)
    codec = transform.name if transform else None
    batch: list[dict[str, object]] = []
    for name in names:
        data: bytes | memoryview = state.chunks[name]
        if name in there and decoded(there[name], transform) == data:
            _upsert(tx, batch)
            mine = (ChunkRow.scope_id == scope_id, ChunkRow.digest == name)
            kept = tx.execute(
                update(ChunkRow).where(*mine).values(refs=ChunkRow.refs + uses[name]).returning(ChunkRow.digest)
            )
            if kept.first() is not None:
                continue
        # Not there, or dropped by another writer a moment ago, or damaged since it was stored: the new snapshot must
        # not rest on it, and the old ones are mended.
        row = {
            "scope_id": scope_id,
            "digest": name,
            "refs": uses[name],
            "size": len(data),
            "codec": codec,
            "data": transform.encode(bytes(data)) if transform else data,
        }
        batch.append(row)
    _upsert(tx, batch)


def _upsert(tx: Transaction, batch: list[dict[str, object]]) -> None:
    """Writes chunks, all with one statement, and empties the list."""
    if batch:
        insert_or = sqlite_insert if tx.get_bind().dialect.name == "sqlite" else postgres_insert
        new = insert_or(ChunkRow)
        more = {
            "refs": ChunkRow.refs + new.excluded.refs,
            "data": new.excluded.data,
            "codec": new.excluded.codec,
            "size": new.excluded.size,
        }
        tx.execute(new.on_conflict_do_update(index_elements=["scope_id", "digest"], set_=more), batch)
        batch.clear()


def _stored(tx: Transaction, scope_id: str, names: Sequence[str]) -> dict[str, tuple[str | None, bytes]]:
    there = {}
    for start in range(0, len(names), _MANY):
        query = select(ChunkRow.digest, ChunkRow.codec, ChunkRow.data).where(
            ChunkRow.scope_id == scope_id, ChunkRow.digest.in_(names[start : start + _MANY])
        )
        there.update({name: (codec, data) for name, codec, data in tx.execute(query)})
    return there


def decoded(stored: tuple[str | None, bytes], transform: Transform | None) -> bytes | None:
    """The bytes of a chunk, None if the transformation finds them damaged. Raises `ArchiveError` for another one."""
    codec, data = stored
    if codec is None:
        return data
    if transform is None or transform.name != codec:
        raise ArchiveError(
            f"a chunk was stored through the transformation {codec!r}, the archive was opened with "
            f"{transform.name if transform else None!r}; open it with Archive(..., transform=...) as it was written"
        )
    try:
        return transform.decode(data)
    except Exception:
        return None


def load(
    tx: Transaction, snapshot: SnapshotRow, transform: Transform | None, only: Sequence[str] | None = None
) -> list[TensorBytes]:
    """The tensors of a snapshot, every chunk verified.

    Args:
        only: names of tensors; None: all of them.

    Raises:
        SnapshotDamaged: a chunk is missing or is not what was stored; the message names it.
    """
    query = (
        select(TensorRow.ordinal, TensorRow.name, TensorRow.dtype, TensorRow.shape)
        .where(TensorRow.snapshot_id == snapshot.id, TensorRow.scope_id == snapshot.scope_id)
        .order_by(TensorRow.ordinal)
    )
    tensors = tx.execute(query).all()
    pieces: dict[int, list[tuple[str, str | None, object]]] = {ordinal: [] for ordinal, *_ in tensors}
    chosen = [ordinal for ordinal, name, *_ in tensors if only is None or name in only]
    wanted = (
        select(PieceRow.ordinal, PieceRow.digest, ChunkRow.codec, ChunkRow.data)
        .outerjoin(ChunkRow, (ChunkRow.scope_id == PieceRow.scope_id) & (ChunkRow.digest == PieceRow.digest))
        .where(PieceRow.snapshot_id == snapshot.id, PieceRow.scope_id == snapshot.scope_id)
        .order_by(PieceRow.ordinal, PieceRow.part)
    )
    for ordinal, name, codec, data in tx.execute(
        wanted if only is None else wanted.where(PieceRow.ordinal.in_(chosen))
    ):
        pieces.setdefault(ordinal, []).append((name, codec, data))
    names = ((name, dtype, shape, [piece[0] for piece in pieces[ordinal]]) for ordinal, name, dtype, shape in tensors)
    if not tensors or (only is None and manifest_digest(names) != snapshot.state_digest):
        raise _damaged(snapshot, "the list of its tensors does not match its digest")
    return [
        TensorBytes(
            name=name, dtype=dtype, shape=tuple(shape), data=_joined(snapshot, name, pieces[ordinal], transform)
        )
        for ordinal, name, dtype, shape in tensors
        if only is None or name in only
    ]


def _joined(
    snapshot: SnapshotRow, tensor: str, pieces: Sequence[tuple[str, str | None, object]], transform: Transform | None
) -> bytes:
    parts = []
    for part, (name, codec, data) in enumerate(pieces):
        # SQLite's columns hold any type: a damaged row may give a str.
        whole = decoded((codec, data), transform) if isinstance(data, bytes) else None
        if whole is None or digest(whole) != name:
            found = "is missing" if data is None else "does not match its digest"
            raise _damaged(snapshot, f"chunk {name[:12]} (part {part} of {tensor}) {found}")
        parts.append(whole)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _damaged(snapshot: SnapshotRow, what: str) -> SnapshotDamaged:
    return SnapshotDamaged(
        f"snapshot {snapshot.id}: {what}; session.recover() computes the state again from its nearest intact ancestor "
        f"and events {snapshot.span_start} to {snapshot.span_stop} of the log, or fork its parent "
        f"({snapshot.parent_id or 'none'})"
    )


def drop(tx: Transaction, scope_id: str, snapshot_ids: Sequence[str]) -> int:
    """Takes the states of snapshots away, and the chunks that nothing refers to any more; returns the bytes freed."""
    released: Counter[str] = Counter()
    for start in range(0, len(snapshot_ids), _MANY):
        some = snapshot_ids[start : start + _MANY]
        mine = (PieceRow.scope_id == scope_id, PieceRow.snapshot_id.in_(some))
        released.update(tx.scalars(select(PieceRow.digest).where(*mine)))
        tx.execute(delete(PieceRow).where(*mine))
        tx.execute(delete(TensorRow).where(TensorRow.scope_id == scope_id, TensorRow.snapshot_id.in_(some)))
    freed = 0
    for times in sorted({*released.values()}):
        names = sorted(name for name in released if released[name] == times)
        for start in range(0, len(names), _MANY):
            some = names[start : start + _MANY]
            chunks = (ChunkRow.scope_id == scope_id, ChunkRow.digest.in_(some))
            tx.execute(update(ChunkRow).where(*chunks).values(refs=ChunkRow.refs - times))
            freed += tx.scalar(select(func.sum(ChunkRow.size)).where(*chunks, ChunkRow.refs <= 0)) or 0
            tx.execute(delete(ChunkRow).where(*chunks, ChunkRow.refs <= 0))
    return freed
