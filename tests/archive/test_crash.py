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
from tests.archive.helpers import child, loaded, opened, said, slept


def kind_of(where: str) -> str:
    return "postgresql" if where.startswith("postgresql:") else "sqlite"


def integrity(path: Path) -> str:
    raw = sqlite3.connect(path)
    try:
        return str(raw.execute("PRAGMA integrity_check").fetchone()[0])
    finally:
        raw.close()


def kill_writers(where: str, kills: int, seed: int) -> None:
    delays = random.Random(seed)
    with Archive(where) as archive:
        session = opened(archive.user("acme", "ada"))
    events: dict[int, tuple[int, ...]] = {}
    snapshots: list[str] = []
    for _ in range(kills):
        writer = child("write", where, session.id)
        assert writer.stdout is not None
        # Counted in what it says, and only then in time: a busy machine must not kill it before it has begun.
        lines = [writer.stdout.readline() for _ in range(delays.randint(1, 10))]
        time.sleep(delays.uniform(0.0, 0.02))
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
        with Archive(where) as archive:
            ada = archive.user("acme", "ada")
            with SessionLock(ada, session.id, timeout=10):  # a server may need a moment to see that its client is gone
                log = {event.seq: event.token_ids for event in ada.events(session.id)}
                history = ada.snapshots(session.id)
                assert events.items() <= log.items()
                assert set(snapshots) <= {one.id for one in history}
                assert ada.session(session.id).head == (history[-1].id if history else None)
                for one in history:
                    assert loaded(ada, one.id).startswith(b"state ")
                assert ada.session(session.id).tokens == sum(map(len, log.values()))
        if kind_of(where) == "sqlite":
            assert integrity(Path(where)) == "ok"
    assert len(events) > kills
    assert snapshots


def test_sigkill_takes_back_nothing(where: str) -> None:
    kill_writers(where, kills=5, seed=1)


@pytest.mark.slow
def test_sigkill_takes_back_nothing_many_times(where: str) -> None:
    kill_writers(where, kills=60, seed=2)


def test_a_writer_killed_within_its_transaction_leaves_no_trace(path: Path) -> None:
    """The file and its write-ahead log as a kill leaves them, copied while a transaction is open."""
    with Archive(path) as archive:
        ada = archive.user("acme", "ada")
        session = opened(ada)
        slept(ada, session.id, b"kept")
        before = ada.session(session.id)
        copy = path.with_name("copy.db")
        with archive.database.writing() as tx:
            tx.connection().exec_driver_sql("UPDATE sessions SET next_seq = 99")
            for suffix in ("", "-wal"):
                copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
            tx.rollback()
    with Archive(copy) as survivor:
        assert survivor.user("acme", "ada").session(session.id) == before
        assert loaded(survivor.user("acme", "ada"), before.head or "") == b"kept"


@pytest.mark.parametrize("archives", [1, 2])
def test_threads_write_without_locked_errors(where: str, archives: int) -> None:
    files = [Archive(where) for _ in range(archives)]
    failed: list[BaseException] = []

    def one(number: int) -> None:
        ada = files[number % archives].user("acme", "ada")
        try:
            session = opened(ada, str(number))
            for i in range(20):
                ada.append(session.id, [said(i)])
                assert len(ada.events(session.id)) == ada.session(session.id).events
            slept(ada, session.id, b"%d" % number * 1000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    sessions = files[0].user("acme", "ada").sessions()
    assert len(sessions) == 8
    for session in sessions:
        assert [event.token_ids for event in files[-1].user("acme", "ada").events(session.id)] == [
            *[(i,) for i in range(20)],
            (),
        ]
    for archive in files:
        archive.close()


def test_processes_write_to_one_session_without_lost_updates(where: str) -> None:
    """Without the session's lock: appends interleave, but each has its own seq and position."""
    writers = [child("append", where, "shared", 25) for _ in range(3)]
    assert [writer.communicate()[0] for writer in writers] == ["done\n"] * 3
    with Archive(where) as archive:
        ada = archive.user("acme", "ada")
        log = ada.events(opened(ada, "shared").id)
    assert [event.position for event in log] == list(range(75))
    assert sorted(event.token_ids[0] for event in log) == sorted(list(range(25)) * 3)
    if kind_of(where) == "sqlite":
        assert integrity(Path(where)) == "ok"
