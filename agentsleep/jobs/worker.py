"""The worker: claims jobs, sleeps for sessions, and goes on whatever becomes of one of them."""

from __future__ import annotations

import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import agentsleep
from agentsleep.archive import Snapshot
from agentsleep.archive.job import Job
from agentsleep.archive.jobs import JobQueue
from agentsleep.errors import (
    AgentsleepError,
    ArchiveError,
    ArchiveFull,
    FingerprintMismatch,
    InputError,
    ModelError,
    SessionNotFound,
    SettingsError,
    SleepFailed,
    SnapshotConflict,
    SnapshotDamaged,
    SnapshotPruned,
)
from agentsleep.jobs.lease import Dropped, Lease
from agentsleep.jobs.run import run_job
from agentsleep.jobs.triggers import Silence
from agentsleep.memory import SleepMemory

# Their messages are made of ids and numbers. Others may quote what was said, and are told by their place alone.
_SPEAKING = (ArchiveFull, FingerprintMismatch, SleepFailed, SnapshotConflict, SnapshotDamaged, SnapshotPruned)
# Computed again, these go wrong again.
_FINAL = (InputError, ModelError, SessionNotFound, SleepFailed)

Report = Callable[[str], None]


class Worker:
    """Runs the jobs of everyone whose sessions belong to the memory's model, one at a time.

    A job that goes wrong is queued again, and never stops the worker. Several workers, in any number of processes and
    on any number of machines, may share an archive.

    Args:
        queue: as which worker, and for how long it leases; None: a queue of the memory's archive.
        poll_s: seconds between two looks at a queue in which nothing is due.
        idle_s: ask for a light sleep of every session in which nothing was said for so many seconds; None: for none.
        report: told, a line each, what is done. No line holds anything that was said.

    Raises:
        SettingsError: `poll_s` or `idle_s` is no number of seconds.
    """

    def __init__(
        self,
        memory: SleepMemory,
        queue: JobQueue | None = None,
        *,
        poll_s: float = 2.0,
        idle_s: float | None = None,
        report: Report = lambda line: None,
    ) -> None:
        if not 0 < poll_s <= threading.TIMEOUT_MAX:
            raise SettingsError(f"poll_s is {poll_s!r}; give a positive number of seconds")
        self._memory = memory
        self._queue = queue or JobQueue(memory.archive.database)
        self._poll, self._report = poll_s, report
        self._silence = None if idle_s is None else Silence(memory.archive, memory.fingerprint, idle_s)
        self._look_every = 0.0 if idle_s is None else max(poll_s, min(60.0, idle_s / 4))
        self._next_look = 0.0

    def run(self, stop: threading.Event | None = None, *, once: bool = False, drain: bool = False) -> int:
        """Works until it is told to stop; returns how many jobs it has claimed.

        Args:
            stop: once it is set, the job at hand is finished, and no other one is claimed.
            once: one job at most, and only if one is due now.
            drain: until none is due.

        Raises:
            ArchiveError: with `once` or `drain`, the archive could not be read. Otherwise it is tried again.
        """
        stop, done = stop or threading.Event(), 0
        while not stop.is_set():
            try:
                self._look()
                job = self._queue.claim(fingerprint=self._memory.fingerprint)
            except ArchiveError as error:
                if once or drain:
                    raise
                self._report(f"the archive cannot be read ({described(error)}); trying again")
                job = None
            if job is not None:
                self.run_job(job)
                done += 1
            if once or (drain and job is None):
                break
            if job is None:
                stop.wait(self._poll)
        return done

    def run_job(self, job: Job) -> Exception | None:
        """Runs a job that the worker's queue has claimed; returns what went wrong. Never raises an `Exception`.

        What breaks it off (Ctrl-C) comes through; the job is then given back as if it had not been claimed.
        """
        self._report(f"{_name(job)}: {job.kind} sleep on {job.stop} tokens ({job.trigger}, attempt {job.attempts})")
        began = time.monotonic()
        try:
            with Lease(self._queue, job) as lease:
                made = run_job(self._memory, job, lease.check)
            self._finish(job, made, time.monotonic() - began)
            return None
        except Dropped as dropped:
            self._report(f"{_name(job)}: {dropped.why}; nothing was stored")
            return dropped
        except Exception as error:
            self._fail(job, error)
            return error
        except BaseException:
            with suppress(ArchiveError):  # else its lease runs out
                self._queue.release(job)
            raise

    def _look(self) -> None:
        if self._silence is None or time.monotonic() < self._next_look:
            return
        for job in self._silence():
            self._report(f"{_name(job)}: queued, for nothing was said for a while")
        self._next_look = time.monotonic() + self._look_every

    def _finish(self, job: Job, made: Snapshot | None, seconds: float) -> None:
        held = self._queue.finish(job, made.id if made else None)
        what = f"snapshot {made.id[:8]}" if made else "nothing left to do"
        self._report(f"{_name(job)}: {what}, after {seconds:.1f} s" + ("" if held else " (the job was lost meanwhile)"))

    def _fail(self, job: Job, error: Exception) -> None:
        text = described(error)
        try:
            became = self._queue.fail(job, text, retry=not isinstance(error, _FINAL))
        except ArchiveError as second:  # its lease runs out
            became, text = None, f"{text}; and it could not be said: {described(second)}"
        ends = {"queued": "will be tried again", "failed": "failed for good", None: "left to others"}
        self._report(f"{_name(job)}: {ends[became]}: {text}")


def described(error: Exception) -> str:
    """An error without what a user may have said: its type, and its message only where that is made of ids and numbers;
    otherwise the place in this package where it was raised."""
    name = type(error).__name__
    if isinstance(error, _SPEAKING):
        return f"{name}: {error}"
    root = Path(agentsleep.__file__).parent
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if root in Path(frame.filename).parents]
    where = f" in {Path(places[-1].filename).relative_to(root)}, line {places[-1].lineno}" if places else ""
    return f"{name}{where}" if isinstance(error, AgentsleepError) else f"unexpected {name}{where}"


@contextmanager
def told_by_signals(stop: threading.Event, report: Report = lambda line: None) -> Iterator[None]:
    """The first SIGTERM or SIGINT sets `stop`; the second one breaks off what is being done (KeyboardInterrupt).

    Only in the main thread of a process.
    """

    def tell(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        report(f"{signal.Signals(number).name}: finishing the job at hand; once more breaks it off")

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _name(job: Job) -> str:
    return f"job {job.id[:8]} of session {job.session_id[:8]}"
