"""States that are no longer there, or no longer whole, computed again from the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agentsleep.archive import Event, Snapshot, UserArchive, mend
from agentsleep.errors import SnapshotDamaged, SnapshotPruned
from agentsleep.memory.lineage import environment, replay
from agentsleep.memory.shared import Shared
from agentsleep.memory.states import from_bytes, to_bytes
from agentsleep.state import FastWeights


def state_at(shared: Shared, archive: UserArchive, snapshot: Snapshot, log: Sequence[Event]) -> FastWeights:
    """The state of a snapshot: as it is stored, or, if it was pruned, computed from the nearest stored ancestor.

    Args:
        log: all events that the snapshot has seen, at least.

    Raises:
        SnapshotDamaged: a state on the way is not what was stored.
    """
    if snapshot.status == "stored":
        state = from_bytes(archive.load_state(snapshot.id))
        shared.prober.check(snapshot, state)
        return state
    line = archive.ancestors(snapshot.id)
    stored = [one for one in line if one.status == "stored"]
    base = stored[-1] if stored else None
    opened = from_bytes(archive.load_state(base.id)) if base else FastWeights()
    return replay(shared.backend, log[: snapshot.span[1]], opened, base.span[1] if base else 0)


def revive(shared: Shared, archive: UserArchive, snapshot: Snapshot) -> None:
    """Sees to it that a session can open with this snapshot: its state is there and speaks. One that was pruned is
    computed from the log, and stored again.

    Raises:
        SnapshotNotFound: the archive has no such snapshot.  SnapshotDamaged: its state is not what was stored.
    """
    now = archive.snapshot(snapshot.id)
    log = archive.events(now.session_id, 0, now.span[1]) if now.status == "pruned" else ()
    with shared.queue:
        state = state_at(shared, archive, now, log)
    if now.status == "pruned":
        mend(archive, now.id, to_bytes(state), environment(shared.backend), shared.prober.ask(state))


@dataclass(frozen=True, kw_only=True)
class Recovered:
    """What :func:`recover` did.

    base: the intact snapshot that it began from; None: from the beginning of the log.
    mended: snapshots whose states were computed again and stored.
    exact: whether they are, bit for bit, what was stored first; elsewhere than where they were made they may not be.
    """

    base: Snapshot | None
    mended: tuple[Snapshot, ...]
    exact: bool


def recover(shared: Shared, archive: UserArchive, session_id: str) -> Recovered:
    """Mends the states that a session's head rests on, back to the newest intact one.

    Raises:
        ArchiveDamaged: the log is damaged too.
        SessionNotFound: no such session.
    """
    with shared.queue:
        return _recover(shared, archive, session_id)


def _recover(shared: Shared, archive: UserArchive, session_id: str) -> Recovered:
    line = archive.snapshots(session_id)
    broken: list[Snapshot] = []
    base = None
    for snapshot in reversed(line):
        if snapshot.status == "pruned" and broken:
            continue
        try:
            shared.prober.check(snapshot, from_bytes(archive.load_state(snapshot.id)))
        except (SnapshotDamaged, SnapshotPruned):
            broken.insert(0, snapshot)
        else:
            base = snapshot
            break
    if not broken:
        return Recovered(base=base, mended=(), exact=True)
    log = archive.events(session_id)
    place = base.span[1] if base else 0
    state = from_bytes(archive.load_state(base.id)) if base else FastWeights()
    mended = []
    for snapshot in broken:
        state = replay(shared.backend, log[: snapshot.span[1]], state, place)
        place = snapshot.span[1]
        mended.append(
            mend(archive, snapshot.id, to_bytes(state), environment(shared.backend), shared.prober.ask(state))
        )
    exact = all(new.state_digest == old.state_digest for new, old in zip(mended, broken, strict=True))
    return Recovered(base=base, mended=tuple(mended), exact=exact)
