"""What the commands do with a model: opening the one that wrote a thread, and restoring a snapshot with a check."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentsleep.archive import Snapshot
from agentsleep.archive.chunks import SplitState
from agentsleep.cli.app import quiet_transformers
from agentsleep.errors import FingerprintMismatch, SnapshotDamaged
from agentsleep.memory import SleepMemory
from agentsleep.memory.lineage import environment, replay
from agentsleep.memory.probing import TEXT
from agentsleep.memory.restoring import state_at
from agentsleep.memory.states import from_bytes, to_bytes
from agentsleep.sleep import check_depth
from agentsleep.state import FastWeights


@contextmanager
def writer_of(what: str, fingerprint: str, archive: str | Path, model: Path | None) -> Iterator[SleepMemory]:
    """A memory whose model is the one that wrote ``what``.

    Raises:
        FingerprintMismatch: the model at hand is another one.
    """
    quiet_transformers()
    with SleepMemory(model, archive=archive) as memory:
        if fingerprint != memory.fingerprint:
            raise FingerprintMismatch(
                f"{what} belongs to model {fingerprint[:12]}, the model at hand is {memory.fingerprint[:12]}; name the "
                "one that wrote it with --model"
            )
        yield memory


def state_of(memory: SleepMemory, snapshot: Snapshot) -> FastWeights:
    """The state of a snapshot, as it is stored, or computed from the log if it was pruned; that it speaks is checked.

    Raises:
        SnapshotDamaged: it is not what was stored.
    """
    theirs = memory.archive.user(snapshot.tenant, snapshot.user)
    return state_at(memory.shared, theirs, snapshot, theirs.events(snapshot.session_id, 0, snapshot.span[1]))


def restored(archive: str | Path, model: Path | None, snapshot: Snapshot, thread: str | None) -> dict[str, Any]:
    """Forks a snapshot into a new thread, unless its state is of no use.

    Raises:
        FingerprintMismatch: another model wrote it.  SnapshotDamaged: its state does not come back.
        InputError: the thread exists already.
    """
    with writer_of(f"snapshot {snapshot.id[:8]}", snapshot.fingerprint, archive, model) as memory:
        state = state_of(memory, snapshot)
        difference = memory.prober.check(snapshot, state)
        with memory.fork(snapshot, thread) as session:
            name, tokens = session.scope.thread, session.tokens
        # A second time through the front door: what a later process will find.
        with memory.session(name, user=snapshot.user, tenant=snapshot.tenant, create=False) as session:
            if max(session.state.diff(state).values()) != 0:
                raise SnapshotDamaged(f"thread {name!r} does not open with the state of snapshot {snapshot.id}")
    probe = {"text": TEXT, "difference": difference}
    return {"thread": name, "tokens": tokens, "state_bytes": snapshot.state_bytes, "probe": probe}


def replayed(
    memory: SleepMemory,
    session_id: str,
    first: Snapshot | None,
    last: Snapshot,
    passes: int | None,
    rounds: int | None,
) -> dict[str, Any]:
    """Computes the state of ``last`` again, from that of ``first`` or from nothing, and compares it with the archive.
    Takes no lock and opens no session: a thread may be in use meanwhile.

    Raises:
        SettingsError: passes or rounds below 1.  SnapshotDamaged: a state is not what was stored.
    """
    check_depth(1 if passes is None else passes, 1 if rounds is None else rounds)
    theirs = memory.archive.user(last.tenant, last.user)
    log = theirs.events(session_id, 0, last.span[1])
    opened = state_of(memory, first) if first is not None else None
    place = first.span[1] if first is not None else 0
    again = replay(memory.backend, log, opened, place, passes=passes, rounds=rounds)
    then, now = last.environment, environment(memory.backend)
    found: dict[str, Any] = {
        "digest": SplitState(to_bytes(again)).digest,
        "stored_digest": last.state_digest,
        "status": last.status,
        "difference": None,
        "where": None,
        "environment": {
            name: [then.get(name), now.get(name)] for name in {**then, **now} if then.get(name) != now.get(name)
        },
    }
    if last.status == "stored":
        apart = again.diff(from_bytes(theirs.load_state(last.id)))
        found["where"] = max(apart, key=lambda name: apart[name])
        found["difference"] = apart[found["where"]]
    return {**found, "equal": found["digest"] == last.state_digest}  # the digest of a pruned state is still there
