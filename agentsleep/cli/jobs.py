"""``agentsleep jobs …``: the sleeps that were asked for. Only ``run`` loads a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from agentsleep.cli.app import AsJson, Threads, app, console, emit, quiet_transformers, use_threads
from agentsleep.cli.archives import ArchiveFile, Tenant, User, archive_place, open_existing
from agentsleep.cli.worker import Lease, Model, lines
from agentsleep.errors import AgentsleepError, ArchiveError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.archive import UserArchive
    from agentsleep.archive.job import Job
    from agentsleep.archive.jobs import JobQueue

jobs_app = typer.Typer(help="Look at the sleeps that were asked for, run one, take one back.", no_args_is_help=False)
app.add_typer(jobs_app, name="jobs")

Id = Annotated[str, typer.Argument(help="The job's id, or its first characters.", metavar="ID")]
_MOST = 1000  # jobs of a user that are looked through for an id


@jobs_app.command("list")
def list_(
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    thread: Annotated[str | None, typer.Option(help="Only this thread's.")] = None,
    status: Annotated[str | None, typer.Option(help="Only these: queued, running, done, failed or cancelled.")] = None,
    limit: Annotated[int, typer.Option(help="At most so many.", min=1)] = 50,
    as_json: AsJson = False,
) -> None:
    """List the jobs of a user, newest first."""
    from agentsleep.archive.job import JobStatus
    from agentsleep.archive.jobs import JobQueue
    from agentsleep.cli.archives import sessions_of

    if status is not None and status not in get_args(JobStatus):
        raise InputError(f"--status is {status!r}; give one of {', '.join(get_args(JobStatus))}")
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        session = None if thread is None else sessions_of(theirs, thread)[0].id
        wanted = cast("JobStatus | None", status)
        found = JobQueue(opened.database).jobs(theirs, session_id=session, status=wanted, limit=limit)
        path = opened.database.name
    document = {"archive": path, "tenant": tenant, "user": user, "thread": thread, "jobs": [_row(job) for job in found]}
    emit(document, as_json, lambda out: _show(out, document))


@jobs_app.command("run")
def run(
    job_id: Id,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    model: Model = None,
    lease: Lease = 60.0,
    threads: Threads = 1,
    as_json: AsJson = False,
) -> None:
    """Run one queued job now, in this process, also before its time."""
    from agentsleep.archive.jobs import JobQueue

    with open_existing(archive) as opened:
        theirs, queue = opened.user(tenant, user), JobQueue(opened.database, lease_s=lease)
        job = find_job(queue, theirs, job_id)  # first what needs no model
        if job.status != "queued":
            raise InputError(f"job {job.id[:8]} is {job.status}; only one that is queued can be run")
        quiet_transformers()
        from agentsleep.jobs import Worker
        from agentsleep.memory import SleepMemory

        use_threads(threads)
        with SleepMemory(model, archive=archive_place(archive)) as memory:
            claimed = queue.claim(job_id=job.id)
            if claimed is None:
                raise ArchiveError(f"job {job.id[:8]} cannot be run now: a job of its session is running; try again")
            error = Worker(memory, queue, report=lines(console())).run_job(claimed)
        document = _row(queue.job(theirs, job.id))
    if error is not None:
        raise error if isinstance(error, AgentsleepError) else AgentsleepError(f"job {job.id[:8]} was {error}")
    emit(document, as_json, lambda out: _show(out, {"jobs": [document]}))


@jobs_app.command("cancel")
def cancel(
    job_id: Id,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    as_json: AsJson = False,
) -> None:
    """Take a job back. A worker that has begun with it stores nothing."""
    from agentsleep.archive.jobs import JobQueue

    with open_existing(archive) as opened:
        theirs, queue = opened.user(tenant, user), JobQueue(opened.database)
        document = _row(queue.cancel(theirs, find_job(queue, theirs, job_id).id))
    emit(document, as_json, lambda out: _show(out, {"jobs": [document]}))


def find_job(queue: JobQueue, archive: UserArchive, prefix: str) -> Job:
    """The one job of a user whose id begins like this.

    Raises:
        ArchiveError: there is none.  InputError: there are several, or nothing was given.
    """
    wanted = prefix.strip().lower()
    if not wanted:
        raise InputError("the job's id is empty; give its first characters (agentsleep jobs list)")
    fitting = [job for job in queue.jobs(archive, limit=_MOST) if job.id.startswith(wanted)]
    if len(fitting) > 1:
        ids = ", ".join(job.id[: len(wanted) + 4] for job in fitting[:5])
        raise InputError(f"{len(fitting)} jobs have ids that begin with {prefix!r} ({ids}); give more of the id")
    return fitting[0] if fitting else queue.job(archive, wanted)


def _row(job: Job) -> dict[str, Any]:
    return {
        "id": job.id,
        "thread": job.scope.thread,
        "session": job.session_id,
        "kind": job.kind,
        "trigger": job.trigger,
        "args": dict(job.args),
        "stop": job.stop,
        "status": job.status,
        "priority": job.priority,
        "run_after": job.run_after.isoformat(timespec="seconds"),
        "attempts": job.attempts,
        "max_attempts": job.max_attempts,
        "owner": job.owner,
        "error": job.error,
        "snapshot": job.snapshot,
        "created": job.created.isoformat(timespec="seconds"),
        "finished": None if job.finished is None else job.finished.isoformat(timespec="seconds"),
    }


def _show(out: Console, document: Mapping[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    rows = document["jobs"]
    if not rows:
        out.print(Text(f"no such jobs of user {document['user']!r} in {document['archive']}"), soft_wrap=True)
        return
    table = Table(
        "id", "thread", "kind", "trigger", "tokens", "status", "attempts", "not before (UTC)", "what came of it"
    )
    for row in rows:
        came = row["error"] if row["error"] else f"snapshot {row['snapshot'][:8]}" if row["snapshot"] else ""
        table.add_row(
            row["id"][:8],
            Text(row["thread"]),
            row["kind"],
            Text(row["trigger"]),
            f"{row['stop']:,}",
            row["status"],
            f"{row['attempts']} of {row['max_attempts']}",
            row["run_after"][:19].replace("T", " "),
            Text(came or ("was covered already" if row["status"] == "done" else "")),
        )
    out.print(table)
