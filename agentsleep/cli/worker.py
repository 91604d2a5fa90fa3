"""``agentsleep worker``: makes the sleeps that were asked for."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentsleep.cli.app import Threads, app, console, quiet_transformers, use_threads
from agentsleep.cli.archives import ArchiveFile, archive_place, open_existing
from agentsleep.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

Model = Annotated[Path | None, typer.Option(help="A checkpoint folder; by default the shipped model.")]
Lease = Annotated[float, typer.Option(help="Seconds after which the job of a worker that died is taken up by others.")]


@app.command("worker")
def worker(
    archive: ArchiveFile = None,
    model: Model = None,
    once: Annotated[bool, typer.Option("--once", help="Run one job if one is due, then end.")] = False,
    drain: Annotated[bool, typer.Option("--drain", help="Run the jobs that are due, then end.")] = False,
    poll: Annotated[float, typer.Option(help="Seconds between two looks at an empty queue.")] = 2.0,
    lease: Lease = 60.0,
    cron: Annotated[
        str | None,
        typer.Option(help="When to ask for a deep sleep of every session that has said something, as '0 3 * * *'."),
    ] = None,
    idle: Annotated[
        float | None, typer.Option(help="Seconds of silence after which a session is put to a light sleep.")
    ] = None,
    threads: Threads = 1,
) -> None:
    """Run the sleeps that are queued, for every user of an archive.

    SIGTERM and Ctrl-C let it finish the job at hand; a second one breaks it off and gives the job back.
    """
    if once and drain:
        raise SettingsError("--once and --drain exclude each other; give one of them")
    if cron is not None and (once or drain):
        raise SettingsError("--cron needs a worker that stays; leave --once and --drain out")
    quiet_transformers()
    import threading

    from agentsleep.archive.jobs import JobQueue
    from agentsleep.jobs import Cron, Nightly, Worker, told_by_signals
    from agentsleep.memory import SleepMemory

    use_threads(threads)
    out = console()
    report, stop = lines(out), threading.Event()
    with ExitStack() as stack:
        open_existing(archive).close()  # a worker makes no archive
        memory = stack.enter_context(SleepMemory(model, archive=archive_place(archive)))
        opened = memory.archive
        queue = JobQueue(opened.database, lease_s=lease)
        made = Worker(memory, queue, poll_s=poll, idle_s=idle, report=report)
        if cron is not None:
            clock = stack.enter_context(Cron(cron, Nightly(opened, memory.fingerprint)))
            report(f"deep sleeps are asked for at {cron!r}, next at {clock.next_time or 'no time that will come'}")
        report(f"worker {queue.owner} on {opened.database.name}, model {memory.fingerprint[:12]}")
        stack.enter_context(told_by_signals(stop, report))
        if out.is_terminal:
            stack.enter_context(out.status("working; Ctrl-C ends it after the job at hand"))
        done = made.run(stop, once=once, drain=drain)
        report(f"claimed {done} job{'s' * (done != 1)}")


def lines(out: Console) -> Callable[[str], None]:
    """Writes lines with the time, UTC."""

    def line(text: str) -> None:
        out.print(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}  {text}", markup=False, soft_wrap=True)

    return line
