"""Does a stored state live? Asked of the model itself, on a fixed text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from agentsleep.archive import Snapshot
from agentsleep.backends import LiveWindow
from agentsleep.errors import FingerprintMismatch, SnapshotDamaged
from agentsleep.memory import SleepMemory
from agentsleep.state import FastWeights

TEXT = "who comes 1 after alice ?"


def logits_on(memory: SleepMemory, state: FastWeights, text: str = TEXT) -> Tensor:
    """Logits ``[vocabulary]`` behind a user's message and the assistant's marker, read from ``state``."""
    window = LiveWindow(memory.backend, state)
    window.read([*memory.chat.message("user", text), *memory.chat.prompt()][: window.free])
    assert window.logits is not None
    return window.logits


def probe(memory: SleepMemory, snapshot: Snapshot, state: FastWeights) -> dict[str, Any]:
    """How a state speaks: ``{"text", "difference"}``, the largest distance of a logit from those of an empty memory.

    Raises:
        SnapshotDamaged: its logits are not finite, or an empty memory gives the same.
    """
    spoken, silent = logits_on(memory, state), logits_on(memory, FastWeights())
    if not bool(torch.isfinite(spoken).all()):
        raise SnapshotDamaged(
            f"snapshot {snapshot.id} gives logits that are not finite; restore its parent ({snapshot.parent or 'none'})"
        )
    difference = float((spoken - silent).abs().max())
    if difference == 0:
        raise SnapshotDamaged(
            f"snapshot {snapshot.id} speaks like an empty memory; restore its parent ({snapshot.parent or 'none'})"
        )
    return {"text": TEXT, "difference": difference}


def restored(archive: Path, model: Path | None, snapshot: Snapshot, thread: str | None) -> dict[str, Any]:
    """Forks a snapshot into a new thread, unless its state is of no use.

    Raises:
        FingerprintMismatch: another model wrote it.  SnapshotDamaged: its state does not come back.
        InputError: the thread exists already.
    """
    with SleepMemory(model, archive=archive) as memory:
        if snapshot.fingerprint != memory.fingerprint:
            raise FingerprintMismatch(
                f"snapshot {snapshot.id[:8]} belongs to model {snapshot.fingerprint[:12]}, the model at hand is "
                f"{memory.fingerprint[:12]}; name the one that wrote it with --model"
            )
        scope = memory.archive.session(snapshot.session_id).scope
        stored = memory.archive.load_state(snapshot.id, tenant=scope.tenant, user=scope.user)
        state = FastWeights.load(stored)
        measured = probe(memory, snapshot, state)
        with memory.fork(snapshot, thread) as session:
            name, tokens = session.scope.thread, session.tokens
        # A second time through the front door: what a later process will find.
        with memory.session(name, user=scope.user, tenant=scope.tenant, create=False) as session:
            if max(session.state.diff(state).values()) != 0:
                raise SnapshotDamaged(f"thread {name!r} does not open with the state of snapshot {snapshot.id}")
    return {"thread": name, "tokens": tokens, "state_bytes": len(stored), "probe": measured}
