"""A job as a value, and single steps on its row; `jobs.py` puts them into transactions."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, cast

from sqlalchemy import ColumnElement, CursorResult, Select, and_, exists, select, update
from sqlalchemy.orm import Session as Transaction
from sqlalchemy.orm import aliased

from agentsleep.archive.schema import JobRow, ScopeRow, SessionRow
from agentsleep.archive.types import JSON, Scope
from agentsleep.errors import InputError

JobKind: TypeAlias = Literal["light", "deep"]

JobStatus: TypeAlias = Literal["queued", "running", "done", "failed", "cancelled"]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A sleep that is to be made later, is being made, or is over."""

    id: str
    scope: Scope
    session_id: str
    kind: JobKind
    trigger: str
    """Why: "later" (somebody asked), "idle", "cron"."""
    args: Mapping[str, JSON]
    """`passes`, `rounds`, `windows`, where they are not to be the worker's own."""
    stop: int
    """Tokens of the log that it is to cover."""
    head: str | None
    """Id of the session's head when the job was asked for last."""
    status: JobStatus
    priority: int
    run_after: datetime
    attempts: int
    """How often it was claimed."""
    max_attempts: int
    owner: str | None
    """Who runs it, or did so last."""
    lease_until: datetime | None
    """When others may claim it again; None where nobody runs it."""
    error: str | None
    """What went wrong last."""
    snapshot: str | None
    """Id of what it stored; None for a job that is done: another sleep had covered it."""
    created: datetime
    finished: datetime | None


def with_names() -> Select[JobRow, str, str, str]:
    """The query for jobs, with tenant, user and thread as `job_of` takes them."""
    return (
        select(JobRow, ScopeRow.tenant, ScopeRow.user_id, SessionRow.thread)
        .join(ScopeRow, ScopeRow.id == JobRow.scope_id)
        .join(SessionRow, SessionRow.id == JobRow.session_id)
    )


def job_of(row: JobRow, tenant: str, user: str, thread: str) -> Job:
    """The row as a value."""
    return Job(
        id=row.id,
        scope=Scope(tenant=tenant, user=user, thread=thread),
        session_id=row.session_id,
        kind=cast("JobKind", row.kind),
        trigger=row.trigger,
        args=row.args,
        stop=row.stop,
        head=row.head_id,
        status=cast("JobStatus", row.status),
        priority=row.priority,
        run_after=row.run_after,
        attempts=row.attempts,
        max_attempts=row.max_attempts,
        owner=row.owner,
        lease_until=row.lease_until,
        error=row.error,
        snapshot=row.snapshot_id,
        created=row.created,
        finished=row.finished,
    )


def new_job(
    scope_id: str,
    session_id: str,
    kind: JobKind,
    trigger: str,
    now: datetime,
    run_after: datetime,
    max_wait_s: float | None,
) -> JobRow:
    """A queued job that covers nothing yet."""
    return JobRow(
        id=uuid.uuid4().hex,
        scope_id=scope_id,
        session_id=session_id,
        kind=kind,
        trigger=trigger,
        args={},
        stop=0,
        status="queued",
        run_after=run_after,
        not_later=None if max_wait_s is None else now + seconds("max_wait_s", max_wait_s),
        attempts=0,
        created=now,
    )


def mine(scope_id: str) -> ColumnElement[bool]:
    """Jobs of a scope."""
    return JobRow.scope_id == scope_id


def seconds(name: str, value: float) -> timedelta:
    """A span of time. Raises `InputError` naming it."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1e9:
        raise InputError(f"{name} is {value!r}; give a number of seconds, 0 or more")
    return timedelta(seconds=value)


def move(row: JobRow, due: datetime, trigger: str) -> None:
    """The new time of a queued job that is asked for again."""
    if row.attempts:
        return  # it waits after a failure
    if trigger == row.trigger:
        row.run_after = due if row.not_later is None else min(due, row.not_later)
    elif due < row.run_after:
        row.run_after, row.trigger = due, trigger


def due(now: datetime, early: bool) -> Select[Any]:
    """The query for the next job of a session that none is run of; `early`: also before its time."""
    other = aliased(JobRow)
    running = exists().where(other.session_id == JobRow.session_id, other.status == "running")
    query = select(JobRow).join(SessionRow, SessionRow.id == JobRow.session_id)
    query = query.where(JobRow.status == "queued", ~running)
    if not early:
        query = query.where(JobRow.run_after <= now)
    return query.order_by(JobRow.priority.desc(), JobRow.run_after, JobRow.created, JobRow.id).limit(1)


def lost(now: datetime) -> ColumnElement[bool]:
    """Jobs whose lease ran out."""
    return and_(JobRow.status == "running", JobRow.lease_until < now)


def take_back(tx: Transaction, now: datetime) -> None:
    """Queues jobs again whose lease ran out: their worker is dead, or cut off."""
    said = "its worker stopped without a word, in this attempt and all before it"
    over = {"status": "failed", "finished": now, "lease_until": None, "error": said}
    changed(tx, lost(now) & (JobRow.attempts >= JobRow.max_attempts), **over)
    changed(tx, lost(now), status="queued", run_after=now, lease_until=None)


def changed(tx: Transaction, which: ColumnElement[bool], **values: object) -> bool:
    """Changes jobs; False where there are none."""
    done = tx.execute(update(JobRow).where(which).values(values).execution_options(synchronize_session=False))
    return cast("CursorResult[Any]", done).rowcount > 0
