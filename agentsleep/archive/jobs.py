"""The queue of sleeps that are to be made later: jobs that outlive the process that asked for them.

A job is leased by the worker that runs it. A worker that dies lets its lease run out, and another one claims the job
again. Nothing rests on that alone: a snapshot is committed by compare-and-swap of the session's head, so two workers
that both believe to hold a job still store one state.

Times are the database's: on PostgreSQL those of the server, since the clocks of several machines may lie further apart
than a lease is long; an SQLite file lies on the disk of one machine, whose clock all of its processes share.
"""

from __future__ import annotations

import math
import os
import random
import socket
import uuid
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Literal, cast, get_args

from sqlalchemy import ColumnElement, and_, exists, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive import job as steps
from agentsleep.archive import rows
from agentsleep.archive.codec import normal_json
from agentsleep.archive.database import EVERYONE, Database
from agentsleep.archive.job import Job, JobKind, JobStatus, job_of, with_names
from agentsleep.archive.schema import JobRow, SessionRow, UTCDateTime
from agentsleep.archive.scoped import Scoped
from agentsleep.archive.types import JSON, check_name, check_text
from agentsleep.errors import ArchiveError, InputError, SettingsError

RETRY_S, RETRY_MAX_S = 5.0, 3600.0
"""After its first failure a job waits about so long, then twice as long each time, but never longer than the second."""

MAX_ERROR = 500
"""Characters that are kept of an error."""


class JobQueue:
    """Jobs of everyone in a database. Those of one user are enqueued, read and cancelled through that user's part.

    Args:
        owner: who claims; by default this process by host, number and a few random characters.
        lease_s: seconds for which a claimed job is left to its worker without a heartbeat.

    Raises:
        SettingsError: `lease_s` is no positive number.  InputError: the owner is no name.
    """

    def __init__(self, database: Database, owner: str | None = None, lease_s: float = 60.0) -> None:
        if not (math.isfinite(lease_s) and lease_s > 0):
            raise SettingsError(f"lease_s is {lease_s!r}; give a positive number of seconds")
        self.owner = check_name("owner", owner or f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}")
        self.lease_s = lease_s
        self._database = database

    # Of one user

    def enqueue(
        self,
        whose: Scoped,
        session_id: str,
        *,
        kind: JobKind = "light",
        trigger: str = "later",
        args: Mapping[str, JSON] | None = None,
        stop: int | None = None,
        delay_s: float = 0.0,
        max_wait_s: float | None = None,
        priority: int = 0,
        max_attempts: int = 5,
    ) -> Job:
        """Asks for a sleep of a session, by whoever works on the queue.

        While a job of the same session and kind is still queued, this one becomes part of it: its end moves, and so
        does its time. Another trigger may bring its time forward, never put it off.

        Args:
            kind: "light", or "deep": a light sleep up to `stop`, and then archived windows again.
            trigger: why; becomes the trigger of the snapshot.
            args: `passes`, `rounds`, `windows` of the sleep, where they are not to be the worker's own.
            stop: tokens of the log that it is to cover; None: all that are there.
            delay_s: seconds from now before which it is not run.
            max_wait_s: seconds from its first enqueueing after which no further one puts it off.
            priority: higher ones are run first.
            max_attempts: how often it is run at most, where it fails or its worker dies.

        Raises:
            SessionNotFound: the user has no such session.
            InputError: a kind, trigger, stop, delay, wait, priority or number of attempts that is none.
        """
        if kind not in get_args(JobKind):
            raise InputError(f"unknown kind of job {kind!r}; use one of {', '.join(get_args(JobKind))}")
        check_name("trigger", trigger)
        plain = normal_json("args", args or {})
        for name, value, least in (("priority", priority, -(2**31)), ("max_attempts", max_attempts, 1)):
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
                raise InputError(f"{name} is {value!r}; give a whole number from {least} on")
        with whose.writing() as (tx, scope_id, _key):
            session = whose.session_row(tx, session_id, scope_id, lock=True)
            now = self._time(tx)
            due = now + steps.seconds("delay_s", delay_s)
            if stop is None:
                stop = session.next_position
            if isinstance(stop, bool) or not isinstance(stop, int) or not 0 <= stop <= session.next_position:
                raise InputError(f"stop is {stop!r}; the log of {session_id} has {session.next_position} tokens")
            mine = steps.mine(scope_id) & (JobRow.session_id == session_id) & (JobRow.kind == kind)
            query = select(JobRow).where(mine, JobRow.status == "queued").order_by(JobRow.created.desc())
            row = tx.scalar(query.limit(1).with_for_update())
            if row is None:
                row = steps.new_job(scope_id, session_id, kind, trigger, now, due, max_wait_s)
                row.priority, row.max_attempts = priority, max_attempts
                tx.add(row)
            steps.move(row, due, trigger)
            row.stop, row.head_id, row.args = max(row.stop, stop), session.head_id, {**row.args, **plain}
            row.priority, row.max_attempts = max(row.priority, priority), max(row.max_attempts, max_attempts)
            tx.flush()
            return job_of(row, whose.tenant, whose.name, session.thread)

    def jobs(
        self,
        whose: Scoped,
        *,
        session_id: str | None = None,
        kind: JobKind | None = None,
        status: JobStatus | None = None,
        limit: int = 100,
    ) -> list[Job]:
        """The user's jobs, newest first."""
        with whose.reading() as (tx, scope_id):
            query = with_names().where(steps.mine(scope_id)).order_by(JobRow.created.desc(), JobRow.id).limit(limit)
            for column, value in ((JobRow.session_id, session_id), (JobRow.kind, kind), (JobRow.status, status)):
                if value is not None:
                    query = query.where(column == value)
            return [job_of(*found) for found in tx.execute(query)]

    def job(self, whose: Scoped, job_id: str) -> Job:
        """A job of the user as it stands. Raises `ArchiveError` if there is none of this id."""
        with whose.reading() as (tx, scope_id):
            return self._job(tx, whose, job_id, scope_id)

    def cancel(self, whose: Scoped, job_id: str) -> Job:
        """Takes a job back. What a worker has begun is dropped, unless its state is committed at this very moment.

        Raises:
            ArchiveError: the user has no such job.  InputError: it is over.
        """
        with whose.writing() as (tx, scope_id, _key):
            open_ = steps.mine(scope_id) & (JobRow.id == job_id) & JobRow.status.in_(("queued", "running"))
            changed = steps.changed(tx, open_, status="cancelled", lease_until=None, finished=self._time(tx))
            job = self._job(tx, whose, job_id, scope_id)
            if not changed:
                raise InputError(f"job {job_id} is {job.status} already; there is nothing to cancel")
            return job

    # Of everyone

    def claim(
        self, *, fingerprint: str | None = None, job_id: str | None = None, session_id: str | None = None
    ) -> Job | None:
        """The job that is next, now leased to this owner; None if there is none, or none that is not being run.

        The oldest due job of the highest priority comes first. Of a session, one job runs at a time. Jobs whose lease
        ran out are taken up again, or have failed if that was their last attempt.

        Args:
            fingerprint: only jobs of sessions of this model.
            job_id: this job alone, also before its time.
            session_id: the light job of this session alone, also before its time.
        """
        wanted = [] if fingerprint is None else [SessionRow.fingerprint == fingerprint]
        wanted += [] if job_id is None else [JobRow.id == job_id]
        wanted += [] if session_id is None else [JobRow.session_id == session_id, JobRow.kind == "light"]
        early = job_id is not None or session_id is not None
        with self._database.reading(EVERYONE) as tx:  # which waits for nobody: there is mostly nothing to do
            now = self._time(tx)
            left = select(exists().where(steps.lost(now)))
            if not tx.scalar(left) and tx.scalar(steps.due(now, early).where(*wanted)) is None:
                return None
        with self._database.writing(EVERYONE) as tx:
            now = self._time(tx)
            steps.take_back(tx, now)
            passed: list[str] = []
            query = steps.due(now, early).where(*wanted).with_for_update(of=JobRow, skip_locked=True)
            while (row := tx.scalar(query.where(JobRow.session_id.not_in(passed)))) is not None:
                try:
                    with tx.begin_nested():
                        row.status, row.owner, row.attempts = "running", self.owner, row.attempts + 1
                        row.lease_until = now + timedelta(seconds=self.lease_s)
                        tx.flush()
                except IntegrityError:  # another worker has just claimed another job of the session
                    passed.append(row.session_id)
                    continue
                return job_of(*tx.execute(with_names().where(JobRow.id == row.id)).one())
        return None

    def heartbeat(self, job: Job) -> Literal["held", "cancelled", "lost"]:
        """Leases a claimed job from now on; says if it was cancelled, or is somebody else's by now."""
        with self._database.writing(EVERYONE) as tx:
            if steps.changed(tx, self._held(job), lease_until=self._time(tx) + timedelta(seconds=self.lease_s)):
                return "held"
            status = tx.scalar(select(JobRow.status).where(JobRow.id == job.id))
            return "cancelled" if status == "cancelled" else "lost"

    def finish(self, job: Job, snapshot_id: str | None) -> bool:
        """Says that a claimed job is done. False: it was cancelled, or is somebody else's by now.

        Args:
            snapshot_id: what it stored; None if there was nothing to do, since another sleep had covered it.
        """
        with self._database.writing(EVERYONE) as tx:
            over = {"status": "done", "snapshot_id": snapshot_id, "lease_until": None, "error": None}
            return steps.changed(tx, self._held(job), finished=self._time(tx), **over)

    def fail(self, job: Job, error: str, *, retry: bool = True) -> JobStatus | None:
        """Says that a claimed job went wrong: it is queued again, later each time, or "failed" at its last attempt.

        Args:
            error: what went wrong, of which so much is kept as `MAX_ERROR` says. Must hold nothing that a user said.
            retry: False: it would go wrong again.

        Returns:
            "queued" or "failed"; None if the job was cancelled, or is somebody else's by now.
        """
        check_text("error", error)
        with self._database.writing(EVERYONE) as tx:
            now = self._time(tx)
            text = error.replace("\0", " ")[:MAX_ERROR]
            if retry and job.attempts < job.max_attempts:
                # Jitter, so that jobs that failed together do not come back together.
                wait = min(RETRY_MAX_S, RETRY_S * 2.0 ** (job.attempts - 1)) * random.uniform(0.5, 1.5)
                again = {"status": "queued", "run_after": now + timedelta(seconds=wait), "lease_until": None}
                return "queued" if steps.changed(tx, self._held(job), error=text, **again) else None
            over = {"status": "failed", "finished": now, "lease_until": None}
            return "failed" if steps.changed(tx, self._held(job), error=text, **over) else None

    def release(self, job: Job) -> bool:
        """Gives a claimed job back as if it had not been claimed. False: it is not this owner's any more."""
        with self._database.writing(EVERYONE) as tx:
            back = {"status": "queued", "run_after": self._time(tx), "lease_until": None, "owner": None}
            return steps.changed(tx, self._held(job), attempts=job.attempts - 1, **back)

    def _time(self, tx: Transaction) -> datetime:
        if self._database.kind == "sqlite":
            return rows.now()
        return cast("datetime", tx.scalar(select(func.clock_timestamp(type_=UTCDateTime))))

    def _held(self, job: Job) -> ColumnElement[bool]:
        # The number of the attempt too: the same owner may have lost the job and claimed it again.
        return and_(
            JobRow.id == job.id,
            JobRow.owner == self.owner,
            JobRow.attempts == job.attempts,
            JobRow.status == "running",
        )

    def _job(self, tx: Transaction, whose: Scoped, job_id: str, scope_id: str) -> Job:
        found = tx.execute(with_names().where(steps.mine(scope_id), JobRow.id == job_id)).first()
        if found is None:
            raise ArchiveError(
                f"no job {job_id!r} of user {whose.name!r} of tenant {whose.tenant!r} in {self._database.name}; "
                "'agentsleep jobs list' shows those that there are"
            )
        return job_of(*found)
