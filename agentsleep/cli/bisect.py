"""``agentsleep snapshots bisect``: which sleep was it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import AsJson, complain, console, emit
from agentsleep.cli.archives import (
    ArchiveFile,
    Model,
    Tenant,
    Thread,
    User,
    archive_place,
    command_line,
    find_in_thread,
    find_thread,
    named,
    open_existing,
)
from agentsleep.cli.events import event_line, taken_in
from agentsleep.cli.snapshots import snapshots_app
from agentsleep.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.archive import SessionRecord, Snapshot
    from agentsleep.memory.bisect import Trial

GOOD, UNCLEAR, WORST = 0, 125, 125  # exit codes of a command; those above 125 are not the command's own
_WORDS = {True: "good", False: "bad", None: "cannot tell"}


@snapshots_app.command("bisect")
def bisect(
    thread: Thread,
    ask: Annotated[str | None, typer.Option(help="A question of the user, asked after each sleep.")] = None,
    expect: Annotated[str | None, typer.Option(help="A sleep is good while the answer holds this text.")] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="A shell command in place of a question: exit code 0 is good, 125 cannot tell, 1 to 124 bad; it finds "
            "AGENTSLEEP_SNAPSHOT, _THREAD, _USER, _TENANT and _ARCHIVE in its environment."
        ),
    ] = None,
    start: Annotated[
        str | None, typer.Option("--from", help="The oldest snapshot in question, a good one; by default the first.")
    ] = None,
    stop: Annotated[
        str | None, typer.Option("--to", help="The newest in question, a bad one; by default the last.")
    ] = None,
    good_before: Annotated[
        bool, typer.Option("--good-before", help="It held before the oldest, which may then be bad.")
    ] = False,
    max_tokens: Annotated[int, typer.Option(help="Tokens of an answer at most.")] = 64,
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Find the sleep after which an answer is no longer right, in few steps. Changes nothing."""
    if (run is None) == (ask is None) or (ask is None) != (expect is None):
        raise InputError("give --ask QUESTION with --expect TEXT, or --run COMMAND")
    if expect is not None and not expect.strip():
        raise InputError("--expect is empty, which every answer holds; give a text")
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        record = find_thread(theirs, thread)
        line = theirs.snapshots(record.id)
        first = line.index(find_in_thread(theirs, record, start)) if start is not None else 0
        last = line.index(find_in_thread(theirs, record, stop)) + 1 if stop is not None else len(line)
        if not line[first:last]:
            why = "has not slept yet" if not line else "has --to before --from; exchange them"
            raise InputError(f"thread {thread!r} {why}: there is nothing to search")
        if run is not None:
            judge = _command(run, thread, archive_place(archive), user, tenant)
            found = _search(judge, line[first:last], good_before)
        else:
            with _asked(record, archive, model, ask or "", expect or "", max_tokens) as judge:
                found = _search(judge, line[first:last], good_before)
        document = {
            "archive": opened.database.name,
            "thread": thread,
            **found,
            "took_in": taken_in(theirs, theirs.snapshot(found["first_bad"])) if found["first_bad"] else [],
        }
        document["rollback"] = (
            command_line("rollback", thread, found["last_good"], archive=archive, user=user, tenant=tenant)
            if found["last_good"]
            else None
        )
    emit(document, as_json, lambda out: _show(out, document))


def _search(judge: Callable[[Snapshot], bool | None], line: list[Snapshot], good_before: bool) -> dict[str, Any]:
    """The bisection with a line on stderr for every step."""
    from agentsleep.memory.bisect import bisect as search

    trials: list[Trial] = []
    out = console()

    def progress(trial: Trial) -> None:
        trials.append(trial)
        left = f"{trial.left} of {len(line)} in question"
        at = f"{trial.snapshot.created:%Y-%m-%d %H:%M:%S}"
        said = f"step {len(trials)}: {named(trial.snapshot)} of {at}: {_WORDS[trial.good]}; {left}"
        out.print(said, markup=False, soft_wrap=True)

    try:
        found = search(line, judge, good_before=good_before, progress=progress)
    except KeyboardInterrupt:
        told = ", ".join(f"{trial.snapshot.id[:8]} {_WORDS[trial.good]}" for trial in trials) or "nothing was asked yet"
        complain(f"interrupted: {told}; the archive is as it was. --from and --to go on from there")
        raise
    except InputError as error:
        if not trials:  # the judge's own
            raise
        raise InputError(
            f"{error}. Here --from and --to choose the ends, and --good-before says that it held before the oldest"
        ) from error
    return {
        "first_bad": found.first_bad.id if found.first_bad is not None else None,
        "last_good": found.last_good.id if found.last_good is not None else None,
        "candidates": [one.id for one in found.candidates],
        "trials": [{"snapshot": one.snapshot.id, "good": one.good, "left": one.left} for one in found.trials],
    }


@contextmanager
def _asked(
    record: SessionRecord, archive: str | None, model: Path | None, question: str, expect: str, max_tokens: int
) -> Iterator[Callable[[Snapshot], bool | None]]:
    """Asks each state the question, in a session in memory that begins where the snapshot ended."""
    from agentsleep.cli.probe import writer_of
    from agentsleep.memory.past.scratch import scratch

    what = f"thread {record.scope.thread!r}"
    wanted = _plain(expect)
    with writer_of(what, record.fingerprint, archive_place(archive), model) as memory:
        theirs = memory.archive.user(record.scope.tenant, record.scope.user)

        def good(snapshot: Snapshot) -> bool | None:
            log = theirs.events(record.id, 0, snapshot.span[1])
            if log[-1].data.get("open_turn"):
                return None  # a turn was being written; what would be asked is not what the user could have asked
            with scratch(memory.shared, theirs, log, snapshot) as session:
                answer = session.ask(question, remember=False, max_new_tokens=max_tokens).text
            console().print(f"  {answer!r}", markup=False, soft_wrap=True)
            return wanted in _plain(answer)

        yield good


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _command(command: str, thread: str, archive: str, user: str, tenant: str) -> Callable[[Snapshot], bool | None]:
    """Runs the command for each state, as ``git bisect run`` does; what it writes goes to stderr."""
    about = {"THREAD": thread, "ARCHIVE": archive, "USER": user, "TENANT": tenant}

    def good(snapshot: Snapshot) -> bool | None:
        given = {f"AGENTSLEEP_{name}": value for name, value in {"SNAPSHOT": snapshot.id, **about}.items()}
        done = subprocess.run(command, shell=True, check=False, stdout=2, env={**os.environ, **given})
        if not 0 <= done.returncode <= WORST:
            raise InputError(
                f"the command ended with {done.returncode} for snapshot {snapshot.id[:8]}, which says that it could "
                "not be run or was killed; let it end with 0 (good), 125 (cannot tell) or 1 to 124 (bad)"
            )
        return None if done.returncode == UNCLEAR else done.returncode == GOOD

    return good


def _show(out: Console, document: Mapping[str, Any]) -> None:
    from rich.text import Text

    lines = []
    if document["first_bad"] is None:
        among = ", ".join(snapshot[:8] for snapshot in document["candidates"])
        lines.append(f"it is one of these sleeps, of which all but the last cannot be told: {among}")
    else:
        lines.append(f"the first bad one is snapshot {document['first_bad'][:8]}; it took in:")
        lines += [event_line(event) for event in document["took_in"]]
    if document["rollback"] is not None:
        lines.append(f"to go back to snapshot {document['last_good'][:8]}, the last good one:\n{document['rollback']}")
    else:
        lines.append("there is no good snapshot before it to go back to")
    out.print(Text("\n".join(lines)), soft_wrap=True)
