"""Threads out of an archive into one file, and back into another archive, whichever database it is on."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Protocol, get_args

from agentsleep.archive import JSON, Line, Scope, SessionRecord, Snapshot, UserArchive, plant, renamed
from agentsleep.errors import (
    FingerprintMismatch,
    InputError,
    SessionNotFound,
    SnapshotConflict,
    SnapshotPruned,
)
from agentsleep.memory.past.scratch import Progress
from agentsleep.memory.probing import Prober
from agentsleep.memory.states import from_bytes
from agentsleep.memory.textless import textless, without_text
from agentsleep.memory.transfer.contents import Contents, States
from agentsleep.memory.transfer.records import event_json, snapshot_json
from agentsleep.memory.transfer.threadfile import LOG, ThreadFile, state_name, writing

Which = Literal["stored", "head"]
"""Which states an export holds: all that are stored, or the newest one alone."""


class Model(Protocol):
    """The model at hand, such as a :class:`SleepMemory`."""

    @property
    def fingerprint(self) -> str:
        """Of the model."""

    @property
    def prober(self) -> Prober:
        """What its states are asked with."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What an export wrote.

    text: whether what was said is in it.  events, snapshots: how many.  states: snapshots that have one in the file.
    bytes: of the file.
    left_out: tokens that were said since the newest sleep and are in no state; without text they are not in the file.
    """

    path: Path
    thread: str
    text: bool
    events: int
    snapshots: int
    states: int
    bytes: int
    left_out: int


def export_thread(
    archive: UserArchive,
    thread: str,
    target: str | Path,
    *,
    text: bool = True,
    states: Which = "stored",
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Writes a thread into one file that is whole by itself: what a fork has inherited is in it. Needs no model, and
    may be called while a session writes: the file holds the thread as it was at the beginning.

    Args:
        target: a zip is written there; its format is told in :mod:`agentsleep.memory.transfer.threadfile`.
        text: False leaves out texts, tokens, system messages and tools. What remains are states and lineage: a thread
            that goes on from its newest state, and cannot be read, searched, replayed or forgotten in parts. States are
            made of what was read and partly give it away again.
        states: the states of other snapshots count as pruned in the file.
        force: overwrites ``target``.
        progress: called with states written, and how many there are.

    Raises:
        SessionNotFound: no such thread.  InputError: ``target`` is there already; no state, and no text to export.
        SnapshotDamaged, ArchiveDamaged: what is stored is damaged.
        SnapshotConflict: something was forgotten meanwhile.
        ArchiveError: the file cannot be written. Nothing is left of it, whatever is raised.
    """
    path = Path(target)
    if states not in get_args(Which):
        raise InputError(f"states is {states!r}; use one of {', '.join(get_args(Which))}")
    record = archive.find(thread)
    if record is None:
        raise SessionNotFound(f"no session for {archive.named(thread)} in {archive.database.name}; there is no export")
    line = archive.ancestors(record.head) if record.head else []
    log = archive.events(record.id, 0, record.events)
    if not text and not line:
        raise InputError(f"thread {thread!r} has no state yet, and its texts are to be left out; sleep first")
    events, snapshots = (log, line) if text else without_text(log, line)
    with writing(path, force=force) as pack:
        pack.add(LOG, (_line(event_json(event)) for event in events), packed=True)
        wanted = [one.id for one in line if one.status == "stored" and (states == "stored" or one.id == record.head)]
        kept = set()
        for done, snapshot_id in enumerate(wanted):
            if progress is not None:
                progress(done, len(wanted))
            try:
                tensors = archive.load_state(snapshot_id)
            except SnapshotPruned:  # by a sleep, a moment ago
                continue
            pack.add(state_name(snapshot_id), [from_bytes(tensors).save({"snapshot": snapshot_id})])
            kept.add(snapshot_id)
        if progress is not None:
            progress(len(wanted), len(wanted))
        if archive.events(record.id, 0, record.events) != log:
            raise SnapshotConflict(f"thread {thread!r} was changed while it was exported; export it again")
        entries = [snapshot_json(replace(one, status="stored" if one.id in kept else "pruned")) for one in snapshots]
        settings: Mapping[str, JSON] = record.settings if text else {}
        pack.finish(
            {
                "library": version("agentsleep"),
                "fingerprint": record.fingerprint,
                "scope": {"tenant": archive.tenant, "user": archive.name, "thread": thread},
                "text": text,
                "settings": settings,
                "sessions": _sessions(archive, record),
                "events": len(events),
                "snapshots": entries,
            }
        )
    slept = log[line[-1].span[1] - 1].data.get("stop", record.tokens) if line else 0
    return Exported(
        path=path,
        thread=thread,
        text=text,
        events=len(events),
        snapshots=len(line),
        states=len(kept),
        bytes=path.stat().st_size,
        left_out=0 if text or not isinstance(slept, int) else record.tokens - slept,
    )


def import_thread(
    archive: UserArchive,
    source: str | Path,
    *,
    model: Model | None = None,
    thread: str | None = None,
    into_tenant: str | None = None,
    into_user: str | None = None,
    progress: Progress | None = None,
) -> SessionRecord:
    """Makes a thread of an exported one. All of the file is verified first, and all of it is stored in one transaction,
    or nothing.

    Snapshots keep their ids where the file is the user's own and the archive has none of them.

    Args:
        archive: whose the thread becomes.
        model: must be the one that wrote the states, and its newest state is asked whether it speaks as it did; None
            leaves both to the first time that the thread is opened.
        thread: its name; None: as it was called.
        into_tenant, into_user: the tenant and the user of ``archive``, which must be named where they are not those
            that the file came from.
        progress: called with states verified, and how many there are.

    Raises:
        InputError: no such file, or a damaged one; it is another user's; there is such a thread already.
        FingerprintMismatch: it belongs to another model.
        SnapshotDamaged: a state in it is not what was exported, or does not speak as it did.
    """
    with ThreadFile(Path(source)) as file:
        told = Contents(file, archive.tenant, archive.name)
        _check_target(archive, file.source, told.scope, into_tenant, into_user)
        name = thread or told.scope.thread
        if model is not None and told.fingerprint != model.fingerprint:
            raise FingerprintMismatch(
                f"{file.source} belongs to model {told.fingerprint[:12]}, the model at hand is "
                f"{model.fingerprint[:12]}; load the one that wrote it, or import without a model, then rebuild"
            )
        if archive.find(name) is not None:
            raise InputError(f"there is a session for {archive.named(name)} already; import into another thread")
        told.read()
        stored = told.stored
        for done, snapshot in enumerate(stored):
            if progress is not None:
                progress(done, len(stored))
            tensors = told.state(snapshot)
            if model is not None and snapshot is told.snapshots[-1]:
                model.prober.check(snapshot, from_bytes(tensors))
        if progress is not None:
            progress(len(stored), len(stored))
        ids = _ids(archive, told.scope, told.snapshots)
        line = renamed(Line(events=told.events, snapshots=_held(told), states={}), ids)
        line = replace(line, states=States(told, {ids[one.id]: one for one in stored}))
        counts = {"events": len(told.events), "snapshots": len(told.snapshots), "states": len(stored)}
        detail: dict[str, int | str] = {"file": file.digest, **counts}
        record = plant(archive, name, told.fingerprint, line, settings=told.settings, imported=detail)
    if model is not None and record.head is not None:  # as it came through the database
        model.prober.check(archive.snapshot(record.head), from_bytes(archive.load_state(record.head)))
    return record


def _check_target(archive: UserArchive, source: Path, whose: Scope, tenant: str | None, user: str | None) -> None:
    """Nobody gets another one's memory by mistake."""
    for kind, named, target, theirs in (
        ("tenant", tenant, archive.tenant, whose.tenant),
        ("user", user, archive.name, whose.user),
    ):
        if named is not None and named != target:
            raise InputError(f"into_{kind} is {named!r}, but the archive given is that of {kind} {target!r}; name that")
        if named is None and theirs != target:
            raise InputError(
                f"{source} is of {kind} {theirs!r}, not of {target!r}; import it for {theirs!r}, or, if it is to "
                f"become that of {target!r}, say so: into_{kind}={target!r} (--into-{kind})"
            )


def _ids(archive: UserArchive, whose: Scope, snapshots: Sequence[Snapshot]) -> dict[str, str]:
    """What the snapshots are called here. Of another user's, an archive on a server cannot tell whether it has them."""
    own = (whose.tenant, whose.user) == (archive.tenant, archive.name)
    known = {one.id for one in archive.all_snapshots()}
    keeps = own and known.isdisjoint(one.id for one in snapshots)
    return {one.id: one.id if keeps else uuid.uuid4().hex for one in snapshots}


def _held(told: Contents) -> list[Snapshot]:
    """The snapshots; a newest one that no log can compute again has a tag, so that retention never takes it away."""
    line = list(told.snapshots)
    if line and line[-1].tag is None and textless(told.events[line[-1].span[1] - 1]):
        line[-1] = replace(line[-1], tag="imported")
    return line


def _sessions(archive: UserArchive, record: SessionRecord) -> list[JSON]:
    """The sessions whose events make up the log, the oldest first."""
    found: list[JSON] = []
    one: SessionRecord | None = record
    while one is not None:
        found.insert(0, {"id": one.id, "created": one.created.isoformat(), "forked_from": one.forked_from})
        one = archive.session(archive.snapshot(one.forked_from).session_id) if one.forked_from else None
    return found


def _line(entry: Mapping[str, JSON]) -> bytes:
    return json.dumps(entry, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode() + b"\n"
