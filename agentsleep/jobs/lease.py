"""Keeping a job while the model computes."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Literal

from agentsleep.archive.job import Job
from agentsleep.archive.jobs import JobQueue
from agentsleep.errors import ArchiveError


class Dropped(Exception):
    """A job that is not this worker's any more: `why` is "cancelled" or "lost"."""

    def __init__(self, why: Literal["cancelled", "lost"]) -> None:
        super().__init__(why)
        self.why = why


class Lease:
    """Renews the lease of a claimed job from a thread, three times in its length, while it is entered."""

    def __init__(self, queue: JobQueue, job: Job) -> None:
        self._queue, self._job = queue, job
        self._why: Literal["cancelled", "lost"] | None = None
        self._until = time.monotonic() + queue.lease_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"lease of job {job.id}", daemon=True)

    def check(self) -> None:
        """Asks at once; raises `Dropped` if the job was cancelled or forgotten, or is somebody else's by now."""
        if self._why is None:
            self._renew()
        if self._why is None and time.monotonic() >= self._until:
            self._why = "lost"  # nobody can be asked
        if self._why is not None:
            raise Dropped(self._why)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while self._why is None and not self._over.wait(self._queue.lease_s / 3):
            self._renew()

    def _renew(self) -> None:
        began = time.monotonic()
        try:
            found = self._queue.heartbeat(self._job)
        except ArchiveError:
            return  # a server that is away for a moment: the lease has room for two more tries
        if found == "held":
            self._until = began + self._queue.lease_s
        else:
            self._why = found
