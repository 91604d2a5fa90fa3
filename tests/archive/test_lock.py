from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentsleep.archive import Archive, SessionLock, UserArchive
from agentsleep.errors import SessionBusy, SessionNotFound, SettingsError
from tests.archive.helpers import child, opened


@pytest.fixture(params=["sqlite", "memory", "postgresql"])
def either(request: pytest.FixtureRequest, path: Path) -> Iterator[UserArchive]:
    where = {"sqlite": str(path), "memory": ":memory:"}.get(request.param) or request.getfixturevalue("postgres_url")
    with Archive(where) as archive:
        yield archive.user("acme", "ada")


def test_one_writer_at_a_time_within_a_thread(either: UserArchive) -> None:
    session = opened(either)
    with SessionLock(either, session.id) as lock:
        assert lock.held
        with pytest.raises(SessionBusy) as caught:
            SessionLock(either, session.id).acquire()
        for word in (session.id, str(os.getpid()), "MainThread", "timeout"):
            assert word in str(caught.value)
        with pytest.raises(SessionBusy):
            lock.acquire()  # nor twice by the same object
        assert lock.held
    assert not lock.held
    with SessionLock(either, session.id):
        pass


def test_other_sessions_are_free(either: UserArchive) -> None:
    with SessionLock(either, opened(either, "a").id), SessionLock(either, opened(either, "b").id):
        pass


def test_release_is_idempotent_and_gives_only_ones_own(either: UserArchive) -> None:
    session = opened(either)
    first, second = SessionLock(either, session.id), SessionLock(either, session.id)
    first.release()
    first.acquire()
    first.release()
    first.release()
    with second:
        first.release()
        with pytest.raises(SessionBusy):
            first.acquire()
        first.release()
        with pytest.raises(SessionBusy):
            first.acquire()


def test_a_body_that_raises_releases(either: UserArchive) -> None:
    session = opened(either)
    with pytest.raises(KeyboardInterrupt), SessionLock(either, session.id):
        raise KeyboardInterrupt
    with SessionLock(either, session.id):
        pass


def test_a_waiter_gets_it_when_it_is_free(either: UserArchive) -> None:
    session = opened(either)
    first = SessionLock(either, session.id)
    first.acquire()
    timer = threading.Timer(0.1, first.release)  # from another thread
    timer.start()
    with SessionLock(either, session.id, timeout=10):
        assert not first.held
    timer.join()


def test_a_waiter_gives_up(either: UserArchive) -> None:
    session = opened(either)
    with SessionLock(either, session.id):
        began = time.monotonic()
        with pytest.raises(SessionBusy, match=r"waited 0\.1 s"):
            SessionLock(either, session.id, timeout=0.1).acquire()
        assert 0.1 <= time.monotonic() - began < 5


def test_threads_take_turns(either: UserArchive) -> None:
    session, inside, most = opened(either), [0], [0]

    def one() -> None:
        for _ in range(5):
            with SessionLock(either, session.id, timeout=30):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0.001)
                inside[0] -= 1

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def test_two_archives_on_one_database_share_locks(ada: UserArchive, where: str) -> None:
    session = opened(ada)
    with Archive(where) as other, SessionLock(ada, session.id), pytest.raises(SessionBusy):
        SessionLock(other.user("acme", "ada"), session.id).acquire()


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf")])
def test_a_timeout_is_a_number_of_seconds(ada: UserArchive, timeout: float) -> None:
    with pytest.raises(SettingsError, match="timeout"):
        SessionLock(ada, opened(ada).id, timeout=timeout)


def test_another_users_session_is_locked_by_nobody_else(archive: Archive, ada: UserArchive) -> None:
    session = opened(ada)
    with pytest.raises(SessionNotFound):
        SessionLock(archive.user("acme", "eve"), session.id).acquire()
    with SessionLock(ada, session.id):  # the attempt left nothing held
        pass


def test_another_process_is_named_and_its_death_frees_the_session(ada: UserArchive, where: str) -> None:
    session = opened(ada)
    holder = child("hold", where, session.id)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SessionBusy, match=rf"\b{holder.pid} on .* since 20"):
            SessionLock(ada, session.id, timeout=0.05).acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with SessionLock(ada, session.id, timeout=10):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_another_process_that_ends_lets_a_waiter_in(ada: UserArchive, where: str) -> None:
    session = opened(ada)
    holder = child("hold", where, session.id)
    try:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == "held\n"
        timer = threading.Timer(0.1, holder.stdin.close)
        timer.start()
        with SessionLock(ada, session.id, timeout=30):
            pass
        timer.join()
        assert holder.wait() == 0
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
