"""Running a job: the sleep of a session that another process may have open, and may be talking in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from agentsleep.archive import Scope, Snapshot, UserArchive
from agentsleep.archive.job import Job
from agentsleep.errors import FingerprintMismatch, SnapshotConflict
from agentsleep.memory import SleepMemory
from agentsleep.memory.depth import Probing
from agentsleep.memory.shared import Shared
from agentsleep.memory.window import OpenWindow
from agentsleep.policy import Passes

TRIES = 5
"""How often a sleep is computed again because somebody else moved the head in the meantime."""

Proceed = Callable[[], None]
"""Raises if what was computed is not to be stored."""


def run_job(memory: SleepMemory, job: Job, proceed: Proceed = lambda: None) -> Snapshot | None:
    """Makes the sleep that a job asks for, without the session's lock: its head is moved by compare-and-swap.

    Whoever has the session open goes on meanwhile, and reads what was said behind `job.stop` onto the new state.

    Args:
        proceed: called before each state is stored; what it raises comes through.

    Returns:
        The new snapshot; None if another sleep had covered all of it.

    Raises:
        FingerprintMismatch: the session belongs to another model.  SessionNotFound: it is gone.
        SettingsError: "auto" without probes in the memory's policy.
        SleepFailed: the result was not usable.
        SnapshotConflict: the head has moved each time.
        ArchiveError: the archive could not be read or written.
    """
    archive = memory.archive.user(job.scope.tenant, job.scope.user)
    record = archive.session(job.session_id)
    if record.fingerprint != memory.fingerprint:
        raise FingerprintMismatch(
            f"the session of job {job.id} belongs to model {record.fingerprint[:12]}, the model at hand is "
            f"{memory.fingerprint[:12]}; run it with the model that wrote it"
        )
    args = cast("dict[str, Any]", job.args)
    if args.get("passes") == "auto":
        memory.policy.check_auto()
    made: Snapshot | None = None
    for left in reversed(range(TRIES)):
        try:
            with memory.shared.queue:
                if not covers(archive, record.id, job.stop):
                    window = Unattended(memory.shared, record.id, job.scope, job.stop, proceed)
                    made = window.sleep(job.trigger, window.depth(args.get("passes"))) or made
                if job.kind == "deep" and not deepened(archive, job):
                    window = Unattended(memory.shared, record.id, job.scope, job.stop, proceed)
                    made = window.sleep_deep(*_depth(memory, window, args), reason=job.trigger) or made
            break
        except SnapshotConflict:
            if not left:
                raise
    return made


class Unattended(OpenWindow):
    """The open window of a session that somebody else may have open: read up to a place in the log, and slept on."""

    def __init__(self, shared: Shared, session_id: str, scope: Scope, upto: int, proceed: Proceed) -> None:
        self._proceed = proceed
        super().__init__(shared, session_id, scope, upto=upto)

    def catch_up(self) -> bool:
        """Leaves a head that was moved to `run_job`, which may find nothing left to do."""
        return False

    def _commit(self, *args: Any, **kwargs: Any) -> Snapshot:
        self._proceed()
        return super()._commit(*args, **kwargs)


def slept_up_to(archive: UserArchive, snapshot: Snapshot) -> int:
    """Tokens of the log that a state has taken in; the snapshot's own count has those that came while it was made."""
    last = snapshot.span[1]
    return cast("int", archive.events(snapshot.session_id, last - 1, last)[0].data["stop"])


def covers(archive: UserArchive, session_id: str, stop: int) -> bool:
    """Whether the session's head has taken in so many tokens of the log."""
    head = archive.session(session_id).head
    return (slept_up_to(archive, archive.snapshot(head)) if head else 0) >= stop


def deepened(archive: UserArchive, job: Job) -> bool:
    """Whether a deep sleep has covered the job since it was asked for."""
    later: list[Snapshot] = []
    for snapshot in archive.snapshots(job.session_id):
        later = [] if snapshot.id == job.head else [*later, snapshot]
    return any(one.mode == "deep" and slept_up_to(archive, one) >= job.stop for one in later)


def _depth(memory: SleepMemory, window: OpenWindow, args: dict[str, Any]) -> tuple[int, int, int | None]:
    """Passes, rounds and windows of a deep sleep."""
    passes: Passes | None = args.get("passes")
    depth = window.depth(passes)
    rounds = args.get("rounds")
    return (
        depth.max_passes if isinstance(depth, Probing) else depth,
        memory.backend.settings.rounds if rounds is None else rounds,
        args.get("windows"),
    )
