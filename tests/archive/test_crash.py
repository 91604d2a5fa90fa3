"""What was acknowledged is there: after SIGKILL, with many threads, with many processes."""

from __future__ import annotations

import random
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest

from agentsleep.archive import Archive, SessionLock
from tests.archive.helpers import ADA, child, opened, said, slept


def integrity(path: Path) -> str:
    raw = sqlite3.connect(path)
    try:
        return str(raw.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        raw.close()


def kill_writers(path: Path, kills: int, seed: int) -> None:
    delays = random.Random(seed)
    with Archive(path) as archive:
        session = opened(archive)
    events: dict[int, tuple[int, ...]] = {}
    snapshots: list[str] = []
    for _ in range(kills):
        writer = child("write", path, session.id)
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        time.sleep(delays.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        lines += writer.communicate()[0].splitlines(keepends=True)
        for line in lines:
            if not line.endswith("\n"):
                continue  # killed while it spoke: that was not yet said
            kind, *values = line.split()
            if kind == "event":
                events[int(values[0])] = tuple(map(int, values[1:]))
            else:
                snapshots += values
        with Archive(path) as archive, SessionLock(archive, session.id):
            log = {event.seq: event.token_ids for event in archive.events(session.id)}
            history = archive.snapshots(session.id)
            assert events.items() <= log.items()
            assert set(snapshots) <= {one.id for one in history}
            assert archive.session(session.id).head == (history[-1].id if history else None)
            for one in history:
                assert archive.load_state(one.id, **ADA).startswith(b"state ")
            assert archive.session(session.id).tokens == sum(map(len, log.values()))
        assert integrity(path) == "ok"
    assert len(events) > kills
    assert snapshots


def test_sigkill_takes_back_nothing(path: Path) -> None:
    kill_writers(path, kills=5, seed=1)


@pytest.mark.slow
def test_sigkill_takes_back_nothing_many_times(path: Path) -> None:
    kill_writers(path, kills=60, seed=2)


def test_a_writer_killed_within_its_transaction_leaves_no_trace(path: Path) -> None:
    """The file and its write-ahead log as a kill leaves them, copied while a transaction is open."""
    with Archive(path) as archive:
        session = opened(archive)
        slept(archive, session.id, b"kept")
        before = archive.session(session.id)
        copy = path.with_name("copy.db")
        with archive._db.writing() as tx:
            tx.connection().exec_driver_sql("UPDATE sessions SET next_seq = 99")
            for suffix in ("", "-wal"):
                copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
            tx.rollback()
    with Archive(copy) as survivor:
        assert survivor.session(session.id) == before
        assert survivor.load_state(before.head or "", **ADA) == b"kept"


@pytest.mark.parametrize("archives", [1, 2])
def test_threads_write_to_one_file_without_locked_errors(path: Path, archives: int) -> None:
    files = [Archive(path) for _ in range(archives)]
    failed: list[BaseException] = []

    def one(number: int) -> None:
        archive = files[number % archives]
        try:
            session = opened(archive, str(number))
            for i in range(20):
                archive.append(session.id, [said(i)])
                assert len(archive.events(session.id)) == archive.session(session.id).events
            slept(archive, session.id, b"%d" % number * 1000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    sessions = files[0].sessions("acme", "ada")
    assert len(sessions) == 8
    for session in sessions:
        assert [event.token_ids for event in files[-1].events(session.id)] == [*[(i,) for i in range(20)], ()]
    for archive in files:
        archive.close()


def test_processes_write_to_one_session_without_lost_updates(path: Path) -> None:
    """Without the session's lock: appends interleave, but each has its own seq and position."""
    writers = [child("append", path, "shared", 25) for _ in range(3)]
    assert [writer.communicate()[0] for writer in writers] == ["done\n"] * 3
    with Archive(path) as archive:
        log = archive.events(opened(archive, "shared").id)
    assert [event.position for event in log] == list(range(75))
    assert sorted(event.token_ids[0] for event in log) == sorted(list(range(25)) * 3)
    assert integrity(path) == "ok"
