"""The awaited archive: the same answers, a loop that goes on, and transactions that a cancellation leaves whole."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from agentsleep.archive import Archive, UserArchive
from agentsleep.archive.aio import AsyncArchive, AsyncUserArchive
from agentsleep.errors import ArchiveError, InputError, SessionNotFound, SettingsError
from tests.archive.helpers import MODEL, SLEEP, kind, opened, said, tensor

T = TypeVar("T")


def run(main: Coroutine[Any, Any, T]) -> T:
    async def timed() -> T:
        async with asyncio.timeout(60):
            return await main

    return asyncio.run(timed())


def public(cls: type) -> dict[str, Any]:
    return {name: value for name, value in vars(cls).items() if not name.startswith("_") and callable(value)}


def test_every_method_of_a_user_has_its_awaited_form() -> None:
    """A new method of `UserArchive` needs one too, with the same arguments and the same result."""
    sync, awaited = public(UserArchive), public(AsyncUserArchive)
    assert set(awaited) == set(sync)
    for name, method in awaited.items():
        assert inspect.iscoroutinefunction(method), name
        assert inspect.signature(method) == inspect.signature(sync[name]), name


def test_a_session_from_beginning_to_end(where: str) -> None:
    async def main() -> None:
        async with await AsyncArchive.open(where) as archive:
            ada = archive.user("acme", "ada")
            session = await ada.open_session("thread-1", fingerprint=MODEL, settings={})
            log = await ada.append(session.id, [said(1, 2)])
            snapshot = await ada.commit_snapshot(
                session.id,
                expected_head=None,
                state=[tensor(b"state")],
                events=[SLEEP],
                fingerprint=MODEL,
                passes=2,
                rounds=1,
                trigger="manual",
                mode="light",
                environment={},
                metrics={},
                expected_events=1,
            )
            assert await ada.tag(snapshot.id, "named") == await ada.snapshot(snapshot.id)
            assert (await ada.events(session.id))[:1] == log
            assert [one.id for one in await ada.snapshots(session.id)] == [snapshot.id]
            assert await ada.ancestors(snapshot.id) == await ada.all_snapshots()
            assert bytes((await ada.load_state(snapshot.id))[0].data) == b"state"
            fork = await ada.fork(snapshot.id, "branch", settings={"passes": 4})
            assert await ada.find("branch") == fork == await ada.session(fork.id)
            back = await ada.rollback(session.id, snapshot.id, "aside")
            assert {one.scope.thread for one in await ada.sessions()} == {"thread-1", "branch", "aside"}
            assert back.scope.thread == "thread-1"
            assert await archive.users() == [("acme", "ada")]
            with pytest.raises(SessionNotFound):
                await archive.user("acme", "eve").session(session.id)
            with pytest.raises(InputError, match="empty"):
                archive.user("", "ada")
        await archive.close()
        with pytest.raises(ArchiveError, match="is closed; open a new AsyncArchive"):
            await ada.sessions()

    run(main())


def test_many_tasks_write_at_once(where: str) -> None:
    async def main() -> None:
        async with await AsyncArchive.open(where, threads=4) as archive:

            async def one(name: str) -> None:
                ada = archive.user("acme", "ada")
                session = await ada.open_session(name, fingerprint=MODEL, settings={})
                for i in range(5):
                    await ada.append(session.id, [said(i)])

            await asyncio.gather(*(one(str(i)) for i in range(12)))
            ada = archive.user("acme", "ada")
            sessions = await ada.sessions()
            assert sorted(session.events for session in sessions) == [5] * 12

    run(main())


class Gate:
    """Holds a call of the archive until a test opens it, and counts those that began."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.began, self.open, self.calls = threading.Event(), threading.Event(), 0
        real = getattr(UserArchive, name)

        def held(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            self.began.set()
            assert self.open.wait(30)
            return real(*arguments, **named)

        monkeypatch.setattr(UserArchive, name, held)


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.005)


def test_the_loop_goes_on_while_a_call_waits(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, "sessions")

    async def main() -> None:
        awaited = AsyncArchive(archive)
        task = asyncio.create_task(awaited.user("acme", "ada").sessions())
        await until(gate.began)  # the loop turns
        assert not task.done()
        gate.open.set()
        assert await task == []
        await awaited.close()

    run(main())


def test_a_cancelled_write_is_finished_before_the_cancellation_is_seen(
    archive: Archive, ada: UserArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = opened(ada)
    gate = Gate(monkeypatch, "append")

    async def main() -> None:
        awaited = AsyncArchive(archive)
        task = asyncio.create_task(awaited.user("acme", "ada").append(session.id, [said(1)]))
        await until(gate.began)
        for _ in range(3):  # also when it is cancelled again and again
            task.cancel()
            await asyncio.sleep(0.01)
            assert not task.done()
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [event.token_ids for event in ada.events(session.id)] == [(1,)]  # at once: nothing runs any more
        await awaited.close()

    run(main())


def test_a_cancelled_write_that_fails_rolls_back_and_is_a_cancellation(
    archive: Archive, ada: UserArchive, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, "append")

    async def main() -> None:
        awaited = AsyncArchive(archive)
        task = asyncio.create_task(awaited.user("acme", "ada").append("nobody", [said(1)]))
        await until(gate.began)
        task.cancel()
        gate.open.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        await awaited.close()

    run(main())


def test_a_call_that_was_cancelled_in_the_queue_never_begins(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch, "sessions")

    async def main() -> None:
        awaited = AsyncArchive(archive, threads=1)
        ada = awaited.user("acme", "ada")
        first, second = asyncio.create_task(ada.sessions()), asyncio.create_task(ada.sessions())
        await until(gate.began)
        await asyncio.sleep(0.02)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second  # although the first still runs
        assert not first.done()
        gate.open.set()
        assert await first == []
        await awaited.close()
        assert gate.calls == 1

    run(main())


def test_closing_waits_for_what_runs(archive: Archive, ada: UserArchive, monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(ada)
    gate = Gate(monkeypatch, "append")

    async def main() -> None:
        awaited = AsyncArchive(archive)
        task = asyncio.create_task(awaited.user("acme", "ada").append(session.id, [said(1)]))
        await until(gate.began)
        closing = asyncio.create_task(awaited.close())
        await asyncio.sleep(0.02)
        assert not closing.done()
        gate.open.set()
        await closing
        assert len(await task) == 1

    run(main())


def test_opening_fails_as_the_archive_does(tmp_path: Any) -> None:
    with pytest.raises(ArchiveError, match="cannot be opened"):
        run(AsyncArchive.open(tmp_path))
    with pytest.raises(SettingsError, match="threads is 0"):
        run(AsyncArchive.open(tmp_path / "new.db", threads=0))


def test_a_cancelled_opening_leaves_no_connection(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[str] = []
    began, go = threading.Event(), threading.Event()
    init, close = Archive.__init__, Archive.close

    def slow(self: Archive, *arguments: Any, **named: Any) -> None:
        began.set()
        assert go.wait(30)
        init(self, *arguments, **named)

    def noted(self: Archive) -> None:
        closed.append(kind(self))
        close(self)

    monkeypatch.setattr(Archive, "__init__", slow)
    monkeypatch.setattr(Archive, "close", noted)

    async def main() -> None:
        task = asyncio.create_task(AsyncArchive.open(where))
        await until(began)
        task.cancel()
        await asyncio.sleep(0.01)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
    assert len(closed) == 1
