"""What asks for sleeps: somebody after a task, silence, and the clock."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from agentsleep.archive import JSON, Archive, SessionRecord, UserArchive
from agentsleep.archive.job import Job
from agentsleep.archive.jobs import JobQueue
from agentsleep.errors import SettingsError
from agentsleep.jobs.run import covers, slept_up_to
from agentsleep.memory import Session
from agentsleep.policy import Passes
from agentsleep.sleep import check_depth


def later(
    session: Session,
    *,
    deep: bool = False,
    passes: Passes | None = None,
    rounds: int | None = None,
    windows: int | None = None,
    delay_s: float = 0.0,
    priority: int = 0,
) -> Job:
    """Asks for a sleep on all that a session has said, to be made by a worker. When this returns, it is on disk.

    Args:
        deep, passes, rounds, windows: as in :meth:`Session.sleep`; what is not given is the worker's own.
        delay_s: seconds from now before which no worker begins.
        priority: jobs of a higher one come first.

    Raises:
        SettingsError: passes, rounds or windows below 1.
        InputError: the delay or the priority is no number.
        ArchiveError: it could not be stored.
    """
    check_depth(passes if isinstance(passes, int) else 1, 1 if rounds is None else rounds)
    if windows is not None and (isinstance(windows, bool) or not isinstance(windows, int) or windows < 1):
        raise SettingsError(f"windows is {windows!r}; a deep sleep reads a whole number of at least 1")
    given: dict[str, JSON] = {"passes": passes, "rounds": rounds, "windows": windows}
    return JobQueue(session.archive.database).enqueue(
        session.archive,
        session.id,
        kind="deep" if deep else "light",
        args={name: value for name, value in given.items() if value is not None},
        delay_s=delay_s,
        priority=priority,
    )


class Nightly:
    """Asks for a deep sleep of every session of a model that has said something since its newest deep sleep."""

    def __init__(self, archive: Archive, fingerprint: str) -> None:
        self._archive, self._fingerprint = archive, fingerprint
        self._queue = JobQueue(archive.database)

    def __call__(self) -> list[Job]:
        """The jobs that it asked for; two that ask at the same time ask for the same ones."""
        made = []
        for user, record in _sessions(self._archive, self._fingerprint):
            deep = [snapshot for snapshot in user.snapshots(record.id) if snapshot.mode == "deep"]
            if record.tokens > (slept_up_to(user, deep[-1]) if deep else 0):
                made.append(self._queue.enqueue(user, record.id, kind="deep", trigger="cron"))
        return made


class Silence:
    """Asks for a sleep of every session of a model in which nothing was said for a while.

    For sessions of programs that have no `Schedule`: it looks at all of them, where a schedule is told.

    Raises:
        SettingsError: `idle_s` is no number of seconds.
    """

    def __init__(self, archive: Archive, fingerprint: str, idle_s: float) -> None:
        if not 0 <= idle_s <= 1e9:
            raise SettingsError(f"idle_s is {idle_s!r}; give a number of seconds, 0 or more")
        self._archive, self._fingerprint, self._idle = archive, fingerprint, timedelta(seconds=idle_s)
        self._queue = JobQueue(archive.database)
        self._asked: dict[str, int] = {}  # session → length of its log

    def __call__(self) -> list[Job]:
        """The jobs that it asked for. What was asked for once is not asked for again until more is said."""
        made = []
        for user, record in _sessions(self._archive, self._fingerprint):
            if self._asked.get(record.id) == record.events:
                continue
            last: Any = user.events(record.id, record.events - 1)[0]
            if datetime.now(UTC) - last.created < self._idle:
                continue
            self._asked[record.id] = record.events
            if not covers(user, record.id, record.tokens):
                made.append(self._queue.enqueue(user, record.id, trigger="idle"))
        return made


def _sessions(archive: Archive, fingerprint: str) -> Iterator[tuple[UserArchive, SessionRecord]]:
    """Sessions of a model that have said something, of everyone."""
    for tenant, name in archive.users():
        user = archive.user(tenant, name)
        for record in user.sessions():
            if record.tokens and record.fingerprint == fingerprint:
                yield user, record
