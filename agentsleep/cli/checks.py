"""What ``agentsleep doctor`` looks at, up to the model: versions, SQLite, the archive, the machine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import agentsleep

LOW_BYTES, NO_BYTES = 256 * 2**20, 2**20
_NEEDED = (("torch", (2, 9), None), ("transformers", (5, 21), (6,)), ("sqlalchemy", (2, 0), None))
_REPAIR = "restore a backup, or save what is left into a new file with `sqlite3 OLD .recover | sqlite3 NEW`"

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at. ``remedy`` says what to do about a warning or a failure."""

    group: str
    name: str
    status: Status
    value: str
    remedy: str = ""


def versions() -> Iterator[Check]:
    """Python and the packages that matter."""
    yield Check("versions", "agentsleep", "ok", agentsleep.__version__)
    yield Check("versions", "python", "ok", f"{platform.python_version()} ({platform.python_implementation()})")
    for name, least, below in _NEEDED:
        wanted = f"{name}>={_dotted(least)}" + (f",<{_dotted(below)}" if below else "")
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Check("versions", name, "fail", "not installed", f"pip install '{wanted}'")
            continue
        numbers = tuple(int(part) for part in re.findall(r"\d+", found.partition("+")[0])[:3])
        fits = numbers >= least and (below is None or numbers < below)
        yield Check("versions", name, "ok" if fits else "fail", found, "" if fits else f"pip install '{wanted}'")


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in numbers)


def has_wal_reset_bug(numbers: tuple[int, ...]) -> bool:
    """Whether this SQLite may lose committed data of a write-ahead log (sqlite.org/wal.html#walresetbug)."""
    mended = (numbers[:2] == (3, 44) and numbers >= (3, 44, 6)) or (numbers[:2] == (3, 50) and numbers >= (3, 50, 7))
    return (3, 7, 0) <= numbers <= (3, 51, 2) and not mended


def sqlite(numbers: tuple[int, ...] = sqlite3.sqlite_version_info) -> Iterator[Check]:
    """The SQLite library that Python is linked with."""
    text = _dotted(numbers)
    if has_wal_reset_bug(numbers):
        yield Check(
            "versions",
            "sqlite",
            "warn",
            f"{text}: has the WAL-reset bug (3.7.0 to 3.51.2)",
            "in rare cases committed data is lost when two processes write one archive at the same moment: let one "
            "process at a time write it, keep backups, or use a Python with SQLite 3.51.3 or later (3.50.7 and 3.44.6 "
            "are mended too)",
        )
    elif numbers < (3, 7, 0):
        yield Check("versions", "sqlite", "fail", f"{text}: has no write-ahead log", "use a Python with SQLite 3.51.3")
    else:
        yield Check("versions", "sqlite", "ok", text)


def archive(path: Path) -> Iterator[Check]:
    """The place of the archive, and the archive itself if it is there. Makes and changes nothing."""
    there = path.exists()
    yield Check("archive", "path", "ok", f"{path}" + ("" if there else " (not there yet; made on first use)"))
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
        if there and not os.access(path, os.W_OK):
            raise PermissionError(13, "the file is read-only", str(path))
        yield Check("archive", "writable", "ok", f"{folder}")
    except OSError as error:
        remedy = "choose another file with --archive or AGENTSLEEP_HOME, or make it writable"
        yield Check("archive", "writable", "fail", f"{folder}: {error.strerror or error}", remedy)
    free = shutil.disk_usage(folder).free
    yield Check(
        "archive",
        "free space",
        "fail" if free < NO_BYTES else "warn" if free < LOW_BYTES else "ok",
        f"{free / 2**20:,.0f} MiB",
        "free some space; a full disk stores nothing more, what is stored stays" if free < LOW_BYTES else "",
    )
    if there:
        yield from _content(path)


def _content(path: Path) -> Iterator[Check]:
    try:
        # Read-only and without our own pragmas: the file may be anything.
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=5)) as database:
            wrong = [row[0] for row in database.execute("PRAGMA integrity_check(10)") if row[0] != "ok"]
            wrong += [
                f"{row[0]} points to a missing row of {row[2]}" for row in database.execute("PRAGMA foreign_key_check")
            ]
            status: Literal["ok", "fail"] = "fail" if wrong else "ok"
            yield Check("archive", "integrity", status, "; ".join(wrong)[:200] or "ok", _REPAIR if wrong else "")
            yield from _ours(database, path)
    except sqlite3.OperationalError as error:
        yield Check(
            "archive", "readable", "fail", str(error), "end the program that locks it, or check your rights to it"
        )
    except sqlite3.DatabaseError as error:
        yield Check(
            "archive", "readable", "fail", str(error), f"if this is an archive, {_REPAIR}; else name another file"
        )


def _ours(database: sqlite3.Connection, path: Path) -> Iterator[Check]:
    from agentsleep.archive.schema import REVISION

    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if "alembic_version" not in tables or "snapshots" not in tables:
        if {"meta", "states", "snapshots"} <= tables:
            yield Check("archive", "schema", "ok", "from before there were migrations; upgraded when it is opened")
        elif tables:
            named = ", ".join(sorted(tables))[:80]
            yield Check("archive", "schema", "fail", f"another program's tables: {named}", "name another file")
        else:
            yield Check("archive", "schema", "ok", "empty; tables are made on first use")
        return
    found = database.execute("SELECT version_num FROM alembic_version").fetchone()
    if found is None or not str(found[0]).isdecimal():
        yield Check("archive", "schema", "fail", f"no revision ({found})", _REPAIR)
        return
    if int(found[0]) > int(REVISION):
        yield Check("archive", "schema", "fail", f"revision {found[0]}", _newer(REVISION))
        return
    sessions, snapshots = database.execute(
        "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM snapshots)"
    ).fetchone()
    what = f"{sessions:,} sessions, {snapshots:,} snapshots"
    yield Check("archive", "content", "ok", f"revision {found[0]}; {what}; {path.stat().st_size / 2**20:.1f} MiB")
    yield _heads(database)


def _newer(revision: str) -> str:
    return f"this agentsleep knows {revision}: upgrade agentsleep"


def _heads(database: sqlite3.Connection) -> Check:
    """The states that sessions would open with, each chunk against its digest."""
    query = (
        "SELECT DISTINCT pieces.snapshot_id, pieces.digest, chunks.codec, chunks.data FROM sessions "
        "JOIN pieces ON pieces.snapshot_id = sessions.head_id "
        "LEFT JOIN chunks ON chunks.scope_id = pieces.scope_id AND chunks.digest = pieces.digest"
    )
    damaged, read = [], set()
    for snapshot, digest, codec, data in database.execute(query):
        read.add(snapshot)
        if codec is None and (not isinstance(data, bytes) or hashlib.sha256(data).hexdigest() != digest):
            damaged.append(snapshot[:8])
    if damaged:
        remedy = "open these sessions and recover() them, or fork an earlier snapshot (agentsleep snapshots restore)"
        return Check("archive", "states", "fail", f"damaged: {', '.join(dict.fromkeys(damaged))[:120]}", remedy)
    return Check("archive", "states", "ok", f"the newest states of all sessions ({len(read)}) match their digests")


def server(where: str) -> Iterator[Check]:
    """An archive on a PostgreSQL server. Makes and changes nothing."""
    from agentsleep.archive import migrate
    from agentsleep.archive.postgres import PostgresDatabase
    from agentsleep.archive.schema import REVISION
    from agentsleep.errors import AgentsleepError

    try:
        database = PostgresDatabase(where)
        try:
            found = migrate.revision(database)
        finally:
            database.close()
    except AgentsleepError as error:
        yield Check("archive", "server", "fail", str(error)[:300], "see the message")
        return
    said = f"revision {found}" if found else "no tables yet; made on first use"
    newer = found is not None and found > REVISION
    yield Check("archive", "server", "fail" if newer else "ok", said, _newer(REVISION) if newer else "")


def machine() -> Iterator[Check]:
    """What speed, and the last bits of a replay, depend on."""
    import torch

    cores, threads = os.cpu_count() or 1, torch.get_num_threads()
    said = os.environ.get("OMP_NUM_THREADS")
    note = f"torch uses {threads} of {cores} cores" + (f" (OMP_NUM_THREADS={said})" if said else "")
    many = threads > cores
    remedy = f"set OMP_NUM_THREADS to {cores} or less: more threads than cores are slow" if many else ""
    yield Check("machine", "threads", "warn" if many else "ok", note, remedy)
    yield Check("machine", "cpu", "ok", f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}")
