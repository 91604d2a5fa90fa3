"""A session forked at any message: from the deepest snapshot before it, the rest read again."""

from __future__ import annotations

from collections.abc import Callable

from agentsleep.archive import Event, SessionRecord, Snapshot, UserArchive
from agentsleep.errors import InputError
from agentsleep.memory.past.scratch import Progress, reread
from agentsleep.memory.past.script import script
from agentsleep.memory.restoring import revive
from agentsleep.memory.session import Session
from agentsleep.memory.shared import Shared


def base_of(archive: UserArchive, session_id: str, stop: int) -> Snapshot | None:
    """The newest snapshot of a session that has seen nothing from seq ``stop`` on, and no half of a turn."""
    for one in reversed(archive.snapshots(session_id)):
        if one.span[1] <= stop:
            mark = archive.events(session_id, one.span[1] - 1, one.span[1])[0]
            if not mark.data.get("open_turn"):
                return one
    return None


def check_place(log: list[Event], stop: int) -> None:
    """Raises InputError where a log does not have this place, or a turn goes on there."""
    if not 0 <= stop <= len(log):
        raise InputError(f"the log has {len(log)} events, so there is no place {stop}; give 0 to {len(log)}")
    last = next((event for event in reversed(log[:stop]) if event.kind == "tokens"), None)
    if last is not None and last.data.get("open"):
        raise InputError(f"a turn goes on at event {stop} of the log; branch before it begins, or behind its end")


def branch(
    shared: Shared,
    archive: UserArchive,
    source: SessionRecord,
    stop: int,
    make: Callable[[Snapshot | None], SessionRecord],
    opened: Callable[[SessionRecord], Session],
    progress: Progress | None = None,
) -> Session:
    """A session that has heard what ``source`` had heard before seq ``stop``, and nothing later.

    Args:
        make: the new session, from this snapshot or from nothing.  opened: opens it.

    Raises:
        InputError: there is no such place, or it lies inside a turn; nothing was made.
        SleepFailed, ArchiveError: what is read again could not be read; the new thread holds a part of it.
    """
    log = archive.events(source.id)
    check_place(log, stop)
    base = base_of(archive, source.id, stop)
    if base is not None:
        revive(shared, archive, base)
    start = base.span[1] if base else 0
    session = opened(make(base))
    try:
        reread(session, script(log[start:stop]), progress, behind=start if base else None)
    except BaseException:
        session.close()
        raise
    return session
