"""What the archive adds to a state: stored and loaded, against one safetensors file of the same bytes."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import load, save_file
from sqlalchemy import event

from agentsleep.archive import Archive, NewEvent, UserArchive, forget_user
from agentsleep.errors import SettingsError
from agentsleep.memory.states import from_bytes, to_bytes
from agentsleep.state import FastWeights

BARS = {"save_ratio": 1.5, "checkpoint_ratio": 4.0, "load_ratio": 1.5}
"""Of the file's time, at most; for SQLite."""

WARM = 1  # repeats before any is counted
_FINGERPRINT = "bench"
_TENANT = "agentsleep bench archive"


@dataclass
class Taken:
    """Seconds, a list of repeats for each step."""

    save: list[float] = field(default_factory=list)
    checkpoint: list[float] = field(default_factory=list)
    load: list[float] = field(default_factory=list)
    file_save: list[float] = field(default_factory=list)
    file_load: list[float] = field(default_factory=list)

    def row(self, backend: str, size: int) -> dict[str, Any]:
        """Medians in milliseconds, and how many times those of the file they are."""
        save, file_save = median(self.save), median(self.file_save)
        whole = median(a + b for a, b in zip(self.save, self.checkpoint, strict=True)) if self.checkpoint else None
        read, file_read = median(self.load), median(self.file_load)
        return {
            "backend": backend,
            "bytes": size,
            "save_ms": 1000 * save,
            "checkpoint_ms": None if whole is None else 1000 * whole,
            "load_ms": 1000 * read,
            "file_save_ms": 1000 * file_save,
            "file_load_ms": 1000 * file_read,
            "save_ratio": save / file_save,
            "checkpoint_ratio": None if whole is None else whole / file_save,
            "load_ratio": read / file_read,
        }


def bench_archive(
    *,
    layers: int = 18,
    heads: int = 16,
    repeats: int = 15,
    seed: int = 0,
    folder: Path | None = None,
    postgres: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Times a sleep's commit and a restore, and the same tensors as a safetensors file, in turn.

    A repeat has a new state, since the archive stores equal bytes once. To save is `UserArchive.commit_snapshot`
    (hashes, chunks, lineage, log, on disk when it returns), against a new file that is written and synced, and its
    folder with it. To load is `UserArchive.load_state` and the way to tensors, against reading the file, its SHA-256
    and the way to tensors. Who begins changes from repeat to repeat; medians count. Both sides read what they wrote a
    moment ago, from the operating system's memory.

    SQLite moves what was committed from its write-ahead log into the file every now and then (a checkpoint), in the
    commit that makes the log too long. Here that is switched off and asked for after every commit: "save" is a commit
    without it, "checkpoint" is the commit and the whole checkpoint after it. As in a long life, the file of the log
    stays and is written over.

    Args:
        layers: recurrent ones. Each has S, fp32 `[1, heads, 128, 128]`, and the tail of its convolution, fp32
            `[1, 384 * heads, 3]`; by default what Qwen3.5-0.8B has, 20.2 million bytes.
        heads: of a layer.
        repeats: timed ones.
        seed: of the states.
        folder: where the files are made; None takes the system's folder for temporary ones.
        postgres: the URL of a database to measure too; the rows that are made in it are removed.
        progress: called with the part that is done, 0 to 1.

    Returns:
        ``{"rows", "bars", "repeats", "threads", "torch"}``. A row is ``{"backend", "bytes", "save_ms",
        "checkpoint_ms", "load_ms", "file_save_ms", "file_load_ms", "save_ratio", "checkpoint_ratio", "load_ratio"}``;
        that of PostgreSQL has None for the checkpoint, which its server makes when nobody waits for it.

    Raises:
        SettingsError: a setting out of its range.  ArchiveError: the server cannot be reached.
    """
    for name, value, least in (("layers", layers, 1), ("heads", heads, 1), ("repeats", repeats, 1), ("seed", seed, 0)):
        if value < least:
            raise SettingsError(f"{name} is {value}; it must be at least {least}")
    report = progress or (lambda part: None)
    rows = []
    with TemporaryDirectory(prefix="agentsleep-archive-", dir=folder) as made:
        places = [str(Path(made) / "memory.db"), *([postgres] if postgres else [])]
        for number, where in enumerate(places):
            with Archive(where) as archive:
                taken, size = Taken(), 0
                user = archive.user(_TENANT, os.urandom(8).hex())
                try:
                    for repeat in range(repeats + WARM):
                        state = _state(layers, heads, seed + repeat)
                        size = state.nbytes
                        _repeat(user, state, Path(made), repeat, taken if repeat >= WARM else Taken())
                        report((number + (repeat + 1) / (repeats + WARM)) / len(places))
                finally:
                    if archive.path is None:
                        forget_user(user)
                rows.append(taken.row(archive.database.kind, size))
    bars = [
        {"bar": name, "most": most, "ratio": rows[0][name], "passed": rows[0][name] <= most}
        for name, most in BARS.items()
    ]
    return {
        "rows": rows,
        "bars": bars,
        "repeats": repeats,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def _state(layers: int, heads: int, seed: int) -> FastWeights:
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for layer in range(layers):
        tensors[FastWeights.name(layer, "recurrent")] = torch.randn(1, heads, 128, 128, generator=draw)
        tensors[FastWeights.name(layer, "conv")] = torch.randn(1, 384 * heads, 3, generator=draw)
    return FastWeights(tensors)


def _repeat(user: UserArchive, state: FastWeights, folder: Path, repeat: int, taken: Taken) -> None:
    sides: Sequence[Callable[[], FastWeights]] = (
        lambda: _archive_side(user, state, taken),
        lambda: _file_side(folder / f"{repeat}.safetensors", state, taken),
    )
    for side in sides if repeat % 2 else sides[::-1]:
        found = side()
        assert found.keys() == state.keys(), "a side lost a tensor"
        assert all(torch.equal(found[name], tensor) for name, tensor in state.items()), "a side changed a tensor"


def _archive_side(user: UserArchive, state: FastWeights, taken: Taken) -> FastWeights:
    session = user.open_session("states", fingerprint=_FINGERPRINT, settings={})
    sqlite = user.database.kind == "sqlite"
    if sqlite and session.head is None:
        event.listen(user.database.engine, "connect", _without_checkpoints)
        user.database.engine.dispose()  # connections of before would still make checkpoints
        user.find("states")
    began = time.perf_counter()
    snapshot = user.commit_snapshot(
        session.id,
        expected_head=session.head,
        state=to_bytes(state),
        events=[NewEvent(kind="sleep")],
        fingerprint=_FINGERPRINT,
        passes=1,
        rounds=1,
        trigger="asked",
        mode="light",
        environment={},
        metrics={},
    )
    saved = time.perf_counter()
    if sqlite:
        with user.database.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA wal_checkpoint(RESTART)")
        taken.checkpoint.append(time.perf_counter() - saved)
    taken.save.append(saved - began)
    began = time.perf_counter()
    found = from_bytes(user.load_state(snapshot.id))
    taken.load.append(time.perf_counter() - began)
    return found


def _without_checkpoints(connection: Any, _entry: Any) -> None:
    connection.execute("PRAGMA wal_autocheckpoint = 0")


def _file_side(path: Path, state: FastWeights, taken: Taken) -> FastWeights:
    began = time.perf_counter()
    save_file(dict(state), path)
    for place in (path, path.parent):
        opened = os.open(place, os.O_RDONLY)
        os.fsync(opened)
        os.close(opened)
    taken.file_save.append(time.perf_counter() - began)
    began = time.perf_counter()
    data = path.read_bytes()
    hashlib.sha256(data).hexdigest()
    found = FastWeights(load(data))
    taken.file_load.append(time.perf_counter() - began)
    path.unlink()
    return found
