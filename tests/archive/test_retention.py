"""Retention: which states stay, what becomes free, and that an archive does not grow by its states."""

from __future__ import annotations

import os
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from agentsleep.archive import Archive, Snapshot, UserArchive
from agentsleep.archive.audit import entries
from agentsleep.archive.retention import plan, prune, sweep
from agentsleep.archive.rules import Retention
from agentsleep.archive.schema import JobRow
from agentsleep.errors import InputError, SessionNotFound, SettingsError, SnapshotPruned
from tests.archive.helpers import count, loaded, opened, said, slept, tensor


@pytest.fixture
def archive(where: str) -> Iterator[Archive]:
    """One that prunes nothing by itself."""
    with Archive(where, retention=None) as archive:
        yield archive


def line(user: UserArchive, length: int, thread: str = "thread-1", size: int = 10) -> tuple[str, list[Snapshot]]:
    """A session with so many sleeps, every state another."""
    session = opened(user, thread)
    rng = random.Random(thread)
    return session.id, [slept(user, session.id, rng.randbytes(size)) for _ in range(length)]


def stored(user: UserArchive, snapshots: list[Snapshot]) -> list[int]:
    """Places of those whose states are there."""
    return [place for place, one in enumerate(snapshots) if user.snapshot(one.id).status == "stored"]


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"keep_last": 0}, "keep_last"),
        ({"keep_last": -1}, "keep_last"),
        ({"keep_last": True}, "keep_last"),
        ({"keep_last": 2.0}, "keep_last"),
        ({"every": 0}, "every"),
        ({"every": 3, "keep_last": None}, "every"),
        ({"quota_bytes": -1}, "quota_bytes"),
        ({"ttl": 0}, "ttl"),
        ({"ttl": -1.0}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"ttl": float("inf")}, "ttl"),
        ({"ttl": timedelta(0)}, "ttl"),
        ({"ttl": timedelta.max}, "ttl"),
        ({"ttl": "1 day"}, "ttl"),
        ({"ttl": True}, "ttl"),
    ],
)
def test_values_out_of_range_are_named(values: dict[str, Any], name: str) -> None:
    with pytest.raises(SettingsError, match=rf"retention\.{name} .*"):
        Retention(**values)


def test_the_newest_of_a_line_stay(ada: UserArchive) -> None:
    session_id, snapshots = line(ada, 6)
    planned = plan(ada, Retention(keep_last=4))
    assert [(one.snapshot_id, one.reason, one.bytes) for one in planned.snapshots] == [
        (one.id, "keep_last", 10) for one in snapshots[:2]
    ]
    assert planned.snapshots[0].session_id == session_id
    assert planned.snapshots[0].created == snapshots[0].created
    assert stored(ada, snapshots) == [0, 1, 2, 3, 4, 5]  # a plan changes nothing
    pruned = prune(ada, Retention(keep_last=4))
    assert (pruned.snapshots, pruned.bytes, pruned.over_quota) == (planned.snapshots, 20, 0)
    assert stored(ada, snapshots) == [2, 3, 4, 5]
    assert count(ada, "chunks") == count(ada, "tensors") == count(ada, "pieces") == 4
    with pytest.raises(SnapshotPruned):
        ada.load_state(snapshots[0].id)
    assert [one.id for one in ada.snapshots(session_id)] == [one.id for one in snapshots]
    assert len(ada.events(session_id)) == 6
    assert prune(ada, Retention(keep_last=4)).snapshots == ()
    (entry,) = entries(ada)
    assert entry.action == "prune"
    assert entry.detail == {"snapshots": [one.id for one in snapshots[:2]], "states": 2, "bytes": 20}


def test_the_default_keeps_sixteen(ada: UserArchive) -> None:
    session_id, snapshots = line(ada, 18)
    assert len(prune(ada, Retention(), session_id).snapshots) == 2
    assert stored(ada, snapshots) == list(range(2, 18))


def test_every_nth_stays_besides(ada: UserArchive) -> None:
    session_id, snapshots = line(ada, 10)
    for rule in (Retention(keep_last=2, every=3), Retention(keep_last=1, every=3)):
        prune(ada, rule, session_id)
        assert stored(ada, snapshots) == ([2, 5, 8, 9])
    more = [slept(ada, session_id, bytes([place])) for place in range(3)]
    prune(ada, Retention(keep_last=1, every=3))
    assert stored(ada, [*snapshots, *more]) == [2, 5, 8, 11, 12]


def test_the_old_go_but_heads_and_tags(ada: UserArchive) -> None:
    _, snapshots = line(ada, 4)
    ada.tag(snapshots[1].id, "kept")
    now = snapshots[-1].created + timedelta(days=2)
    assert plan(ada, Retention(ttl=timedelta(days=3)), now=now).snapshots == ()
    planned = plan(ada, Retention(ttl=86_400, every=1), now=now)
    assert [(one.snapshot_id, one.reason) for one in planned.snapshots] == [
        (snapshots[place].id, "ttl") for place in (0, 2)
    ]
    prune(ada, Retention(ttl=86_400, keep_last=None), now=now)
    assert stored(ada, snapshots) == [1, 3]


def test_a_quota_takes_the_oldest(ada: UserArchive) -> None:
    _, one = line(ada, 3, "one")
    _, two = line(ada, 3, "two")
    ada.tag(one[0].id, "kept")
    assert plan(ada, Retention(quota_bytes=60)).snapshots == ()
    planned = plan(ada, Retention(quota_bytes=45))
    assert [(s.snapshot_id, s.reason) for s in planned.snapshots] == [(one[1].id, "quota"), (two[0].id, "quota")]
    assert planned.over_quota == 0
    pruned = prune(ada, Retention(quota_bytes=5))
    assert (pruned.bytes, pruned.over_quota) == (30, 25)  # two heads and a tag stay
    assert (stored(ada, one), stored(ada, two)) == ([0, 2], [2])


def test_the_quota_of_a_session_is_the_users(ada: UserArchive) -> None:
    _, one = line(ada, 3, "one")
    session_id, two = line(ada, 3, "two")
    prune(ada, Retention(quota_bytes=50), session_id)
    assert (stored(ada, one), stored(ada, two)) == ([1, 2], [0, 1, 2])


def test_shared_chunks_are_free_when_the_last_goes(ada: UserArchive) -> None:
    session = opened(ada)
    both = tensor(b"shared" * 10, "a")
    snapshots = [slept(ada, session.id, [both, tensor(bytes([place]) * 5, "b")]) for place in range(4)]
    slept(ada, session.id, b"head")
    planned = plan(ada, Retention(keep_last=2))
    assert [one.bytes for one in planned.snapshots] == [5, 5, 5]
    planned = plan(ada, Retention(keep_last=1))
    assert [one.bytes for one in planned.snapshots] == [5, 5, 5, 65]
    assert prune(ada, Retention(keep_last=1)).bytes == planned.bytes == 80
    assert stored(ada, snapshots) == []
    assert count(ada, "chunks") == 1


def test_what_a_fork_keeps_stays_until_it_goes_on(ada: UserArchive) -> None:
    session_id, snapshots = line(ada, 6)
    fork = ada.fork(snapshots[2].id, "fork")
    assert [one.snapshot_id for one in plan(ada, Retention(keep_last=2)).snapshots] == [
        snapshots[0].id,
        snapshots[3].id,
    ]
    prune(ada, Retention(keep_last=2), session_id)
    assert stored(ada, snapshots) == [1, 2, 4, 5]
    own = [slept(ada, fork.id, b"own state"), slept(ada, fork.id, b"other state")]
    prune(ada, Retention(keep_last=2), fork.id)  # its line is left by two that the other session committed
    assert (stored(ada, snapshots), stored(ada, own)) == ([4, 5], [0, 1])


def test_a_session_alone_gives_what_all_together_give(ada: UserArchive) -> None:
    session_id, snapshots = line(ada, 9)
    other_id, other = line(ada, 9, "other")
    ada.fork(snapshots[4].id, "fork")
    alone = plan(ada, Retention(keep_last=3, every=4), session_id)
    together = plan(ada, Retention(keep_last=3, every=4))
    ids = {one.id for one in snapshots}
    assert [one for one in together.snapshots if one.snapshot_id in ids] == list(alone.snapshots)
    assert len(together.snapshots) > len(alone.snapshots)
    assert plan(ada, Retention(keep_last=3), other_id).snapshots[0].snapshot_id == other[0].id


def test_heads_and_tags_stay(ada: UserArchive) -> None:
    _, snapshots = line(ada, 5)
    ada.tag(snapshots[0].id, "good")
    ada.fork(snapshots[1].id, "branch")
    prune(ada, Retention(keep_last=1, quota_bytes=0, ttl=1), now=datetime.now(UTC) + timedelta(days=1))
    assert stored(ada, snapshots) == [0, 1, 4]
    ada.tag(snapshots[0].id, None)
    prune(ada, Retention(keep_last=1))
    assert stored(ada, snapshots) == [1, 4]


def test_what_a_job_begins_with_stays(ada: UserArchive) -> None:
    session_id, snapshots = line(ada, 3)
    with ada.writing() as (tx, scope_id, _key):
        now = datetime.now(UTC)
        job = {"id": "0" * 32, "scope_id": scope_id, "session_id": session_id, "kind": "sleep", "trigger": "asked"}
        more = {"args": {}, "stop": 3, "status": "queued", "priority": 0, "attempts": 0, "max_attempts": 3}
        tx.execute(insert(JobRow).values(**job, **more, run_after=now, created=now))
    prune(ada, Retention(keep_last=1, quota_bytes=0))
    assert stored(ada, snapshots) == [2]


def test_a_pruned_state_leaves_its_place_in_the_line(ada: UserArchive) -> None:
    session_id, snapshots = line(ada, 6)
    prune(ada, Retention(quota_bytes=30))
    assert stored(ada, snapshots) == [3, 4, 5]
    prune(ada, Retention(keep_last=2), session_id)
    assert stored(ada, snapshots) == [4, 5]
    assert loaded(ada, snapshots[5].id)


def test_another_users_states_stay(archive: Archive, ada: UserArchive) -> None:
    eve = archive.user("acme", "eve")
    session_id, mine = line(ada, 4)
    _, theirs = line(eve, 4)
    prune(ada, Retention(keep_last=1, quota_bytes=0))
    assert (stored(ada, mine), stored(eve, theirs)) == ([3], [0, 1, 2, 3])
    with pytest.raises(SessionNotFound):
        prune(eve, Retention(), session_id)
    assert plan(archive.user("acme", "nobody"), Retention()).snapshots == ()
    assert prune(archive.user("acme", "nobody"), Retention()).snapshots == ()


def test_all_or_nothing(ada: UserArchive) -> None:
    _, snapshots = line(ada, 4)

    def fails() -> None:
        with ada.writing() as (tx, scope_id, _key):
            assert len(sweep(tx, scope_id, Retention(keep_last=1)).snapshots) == 3
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert stored(ada, snapshots) == [0, 1, 2, 3]
    assert loaded(ada, snapshots[0].id)


def test_a_time_without_a_zone_is_refused(ada: UserArchive) -> None:
    with pytest.raises(InputError, match="without a zone"):
        plan(ada, Retention(ttl=1), now=datetime(2026, 1, 1))


@pytest.mark.parametrize("threads", [300])
def test_the_cost_of_a_sleep_does_not_grow_with_threads(archive: Archive, ada: UserArchive, threads: int) -> None:
    session_id, snapshots = line(ada, 5)
    statements: list[int] = []

    def cost() -> int:
        statements.clear()
        if archive.database.kind == "sqlite":
            archive.database.engine.dispose()
        with ada.writing() as (tx, scope_id, _key):
            raw = tx.connection().connection.dbapi_connection
            if isinstance(raw, sqlite3.Connection):
                raw.set_progress_handler(lambda: statements.append(1), 1)
            assert sweep(tx, scope_id, Retention(keep_last=5), ada.session_row(tx, session_id, scope_id)).bytes == 0
            if isinstance(raw, sqlite3.Connection):
                raw.set_progress_handler(None, 1)
        return len(statements)

    before = cost()
    for number in range(threads):
        ada.fork(snapshots[0].id, f"other {number}") if number % 2 else opened(ada, f"other {number}")
    assert cost() <= 1.5 * before + 100


def grow(path: Path, sleeps: int, messages: int = 12) -> tuple[int, int, int, int]:
    """After so many sleeps of a session, bytes of the file, of 16 states, of the log, and pages that states take up."""
    rng = random.Random(0)
    sizes = (10_240, 10_240, 10_752, 10_752)
    with Archive(path, synchronous="NORMAL", retention=Retention()) as archive:
        user = archive.user("acme", "ada")
        session = opened(user)
        for _ in range(sleeps):
            texts = [" ".join(rng.choices(("alice", "bob", "hands", "over", "late"), k=9)) for _ in range(messages)]
            user.append(session.id, [said(*rng.choices(range(600), k=9), text=text) for text in texts])
            state = [tensor(rng.randbytes(size), f"layers.{place}.recurrent") for place, size in enumerate(sizes)]
            slept(user, session.id, state)
        assert count(user, "chunks") == 16 * len(sizes)
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (log,) = database.execute("SELECT sum(pgsize) FROM dbstat WHERE name LIKE '%events%'").fetchone()
        tables = "('chunks', 'tensors', 'pieces')"
        (pages,) = database.execute(f"SELECT sum(pageno > 0) FROM dbstat WHERE name IN {tables}").fetchone()
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
        files = [path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))]
        return sum(os.path.getsize(file) for file in files if file.exists()), 16 * sum(sizes), log, pages + free


def test_freed_pages_are_used_again(tmp_path: Path) -> None:
    *_, after_some = grow(tmp_path / "some.db", 18, messages=1)
    *_, after_more = grow(tmp_path / "more.db", 36, messages=1)
    assert after_more <= after_some + 4


@pytest.mark.slow
def test_the_file_holds_the_kept_states_and_the_log_after_a_thousand_sleeps(tmp_path: Path) -> None:
    total, states, log, _ = grow(tmp_path / "memory.db", 1_000)
    assert total <= 1.5 * (states + log)
