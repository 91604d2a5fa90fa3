"""Sleeps that are asked for now and made later: the trigger that waits for silence, and jobs that a turn takes over."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from agentsleep.archive import Snapshot, UserArchive
from agentsleep.archive.job import Job
from agentsleep.archive.jobs import JobQueue
from agentsleep.errors import ArchiveError, SettingsError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Sleep once nothing was said for a while: a job for a worker, put off by whatever is said in the meantime.

    Args:
        idle_s: seconds of silence.
        max_wait_s: seconds after which a session that is never silent is slept on all the same; None: never.
        deep: a deep sleep.

    Raises:
        SettingsError: `idle_s` or `max_wait_s` is no number of seconds.
    """

    idle_s: float
    max_wait_s: float | None = None
    deep: bool = False

    def __post_init__(self) -> None:
        for name in ("idle_s", "max_wait_s"):
            value = getattr(self, name)
            wrong = (
                isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or value < 0
            )
            if wrong and not (name == "max_wait_s" and value is None):
                raise SettingsError(f"{name} is {value!r}; give a number of seconds, 0 or more")

    def said(self, archive: UserArchive, session_id: str) -> None:
        """Something was said in a session: one write. It never fails; the next thing that is said makes up for it."""
        try:
            JobQueue(archive.database).enqueue(
                archive,
                session_id,
                kind="deep" if self.deep else "light",
                trigger="idle",
                delay_s=self.idle_s,
                max_wait_s=self.max_wait_s,
            )
        except ArchiveError as error:
            _log.warning("the sleep of session %s was not scheduled (%s)", session_id, type(error).__name__)


class Taken:
    """A queued job that a turn runs itself, since it has to sleep anyway. No job: nothing was queued."""

    def __init__(self, job: Job | None) -> None:
        self.job = job
        self.snapshot: Snapshot | None = None

    @property
    def passes(self) -> int | None:
        """How deep the job is to sleep; None leaves it to the policy."""
        said = self.job.args.get("passes") if self.job else None
        return said if isinstance(said, int) else None

    @property
    def stop(self) -> int:
        """Tokens of the log that the sleep has to cover."""
        return self.job.stop if self.job else 0


@contextmanager
def taken(archive: UserArchive, session_id: str) -> Iterator[Taken]:
    """The light job that is queued for a session: done with what is then put into ``snapshot``, or given back."""
    queue = JobQueue(archive.database)
    turn = Taken(queue.claim(session_id=session_id))
    try:
        yield turn
    except BaseException:
        if turn.job is not None:
            with suppress(ArchiveError):  # else its lease runs out
                queue.release(turn.job)
        raise
    if turn.job is not None:
        with suppress(ArchiveError):
            queue.finish(turn.job, turn.snapshot.id if turn.snapshot else None)
