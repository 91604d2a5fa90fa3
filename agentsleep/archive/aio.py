"""The archive for programs that run an event loop: each call waits in a worker thread, and the loop goes on.

A call that is cancelled is waited for: its transaction is on disk, or rolled back, when `CancelledError` comes out of
it. One that was still queued is not begun.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from agentsleep.archive.chunks import Transform
from agentsleep.archive.database import Synchronous
from agentsleep.archive.rules import DEFAULT, Retention
from agentsleep.archive.store import Archive
from agentsleep.archive.types import JSON, Event, NewEvent, SessionRecord, Snapshot, TensorBytes
from agentsleep.archive.user import UserArchive
from agentsleep.errors import ArchiveError, SettingsError

T = TypeVar("T")

THREADS = 8
"""Calls of one `AsyncArchive` that run at a time; less than PostgreSQL's pool holds, so that none waits there."""


class _Workers:
    """The threads of an archive."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="agentsleep-archive")

    async def run(self, call: Callable[[], T]) -> T:
        try:
            work = self._threads.submit(contextvars.copy_context().run, call)
        except RuntimeError as error:  # shut down
            raise ArchiveError("the archive is closed; open a new AsyncArchive") from error
        done = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not work.cancel():
                await _over(done)
            raise

    def close(self, *, wait: bool) -> None:
        self._threads.shutdown(wait)


async def _alone(call: Callable[[], T]) -> T:
    """Runs a call in a thread of its own, so that it begins at once."""
    workers = _Workers(1)
    try:
        return await workers.run(call)
    finally:
        workers.close(wait=False)


async def _over(done: asyncio.Future[T]) -> None:
    """Returns when the call has ended, however often the waiting itself is cancelled."""
    while not done.done():
        try:
            await asyncio.wait([done])
        except asyncio.CancelledError:
            continue
    if not done.cancelled():
        done.exception()  # nobody is left to hear of it


class AsyncArchive:
    """An `Archive` whose methods are awaited: `async with await AsyncArchive.open("memory.db") as archive: …`

    Safe to share between tasks; not bound to the loop that opened it.

    Args:
        archive: what the calls go to; `close` closes it.
        threads: calls that run at a time.

    Raises:
        SettingsError: `threads` is below 1.
    """

    def __init__(self, archive: Archive, *, threads: int = THREADS) -> None:
        if threads < 1:
            raise SettingsError(f"threads is {threads}; give at least 1")
        self.archive = archive
        self._workers = _Workers(threads)

    @classmethod
    async def open(
        cls,
        where: str | Path,
        *,
        synchronous: Synchronous = "FULL",
        retention: Retention | None = DEFAULT,
        transform: Transform | None = None,
        threads: int = THREADS,
    ) -> AsyncArchive:
        """Opens an archive, upgrading it if it is an older one. Arguments and errors are those of `Archive`."""
        opened: list[Archive] = []

        def begin() -> None:
            opened.append(Archive(where, synchronous=synchronous, retention=retention, transform=transform))

        try:
            await _alone(begin)
            return cls(opened[0], threads=threads)
        except BaseException:
            for archive in opened:  # cancelled, but it had been opened
                archive.close()
            raise

    async def __aenter__(self) -> AsyncArchive:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Waits for the calls that were made, then lets go of the database; calling it again does nothing."""
        await _alone(self._end)

    def _end(self) -> None:
        self._workers.close(wait=True)
        self.archive.close()

    def user(self, tenant: str, user: str) -> AsyncUserArchive:
        """The part of one user. Raises `InputError` as `Archive.user` does; reads nothing yet."""
        return AsyncUserArchive(self.archive.user(tenant, user), self._workers)

    async def users(self) -> Sequence[tuple[str, str]]:
        """See `Archive.users`."""
        return await self._workers.run(self.archive.users)


class AsyncUserArchive:
    """A `UserArchive` whose methods are awaited; arguments, results and errors are the same.

    Made by `AsyncArchive.user`.

    Attributes:
        sync: the `UserArchive` itself, for `SessionLock`.
    """

    def __init__(self, user: UserArchive, workers: _Workers) -> None:
        self.sync = user
        self._run = workers.run

    async def open_session(
        self, thread: str, *, fingerprint: str, settings: Mapping[str, JSON], create: bool = True
    ) -> SessionRecord:
        """See `UserArchive.open_session`."""
        call = partial(self.sync.open_session, thread, fingerprint=fingerprint, settings=settings, create=create)
        return await self._run(call)

    async def find(self, thread: str) -> SessionRecord | None:
        """See `UserArchive.find`."""
        return await self._run(partial(self.sync.find, thread))

    async def session(self, session_id: str) -> SessionRecord:
        """See `UserArchive.session`."""
        return await self._run(partial(self.sync.session, session_id))

    async def sessions(self, prefix: str = "") -> list[SessionRecord]:
        """See `UserArchive.sessions`."""
        return await self._run(partial(self.sync.sessions, prefix))

    async def append(self, session_id: str, events: Sequence[NewEvent]) -> list[Event]:
        """See `UserArchive.append`. Appends to one session that run at once come in any order; await each."""
        return await self._run(partial(self.sync.append, session_id, events))

    async def since(self, session_id: str, seq: int | None) -> tuple[SessionRecord, list[Event]]:
        """See `UserArchive.since`."""
        return await self._run(partial(self.sync.since, session_id, seq))

    async def events(self, session_id: str, start: int = 0, stop: int | None = None) -> list[Event]:
        """See `UserArchive.events`."""
        return await self._run(partial(self.sync.events, session_id, start, stop))

    async def commit_snapshot(
        self,
        session_id: str,
        *,
        expected_head: str | None,
        state: Sequence[TensorBytes],
        events: Sequence[NewEvent],
        fingerprint: str,
        passes: int,
        rounds: int,
        trigger: str,
        mode: str,
        environment: Mapping[str, JSON],
        metrics: Mapping[str, JSON],
        probe: Mapping[str, JSON] | None = None,
        expected_events: int | None = None,
    ) -> Snapshot:
        """See `UserArchive.commit_snapshot`."""
        call = partial(
            self.sync.commit_snapshot,
            session_id,
            expected_head=expected_head,
            state=state,
            events=events,
            fingerprint=fingerprint,
            passes=passes,
            rounds=rounds,
            trigger=trigger,
            mode=mode,
            environment=environment,
            metrics=metrics,
            probe=probe,
            expected_events=expected_events,
        )
        return await self._run(call)

    async def snapshots(self, session_id: str) -> list[Snapshot]:
        """See `UserArchive.snapshots`."""
        return await self._run(partial(self.sync.snapshots, session_id))

    async def ancestors(self, snapshot_id: str) -> list[Snapshot]:
        """See `UserArchive.ancestors`."""
        return await self._run(partial(self.sync.ancestors, snapshot_id))

    async def all_snapshots(self) -> list[Snapshot]:
        """See `UserArchive.all_snapshots`."""
        return await self._run(self.sync.all_snapshots)

    async def snapshot(self, snapshot_id: str) -> Snapshot:
        """See `UserArchive.snapshot`."""
        return await self._run(partial(self.sync.snapshot, snapshot_id))

    async def load_state(self, snapshot_id: str, only: Sequence[str] | None = None) -> list[TensorBytes]:
        """See `UserArchive.load_state`."""
        return await self._run(partial(self.sync.load_state, snapshot_id, only))

    async def tag(self, snapshot_id: str, tag: str | None) -> Snapshot:
        """See `UserArchive.tag`."""
        return await self._run(partial(self.sync.tag, snapshot_id, tag))

    async def fork(self, snapshot_id: str, thread: str, *, settings: Mapping[str, JSON] | None = None) -> SessionRecord:
        """See `UserArchive.fork`."""
        return await self._run(partial(self.sync.fork, snapshot_id, thread, settings=settings))

    async def rollback(self, session_id: str, snapshot_id: str, aside: str) -> SessionRecord:
        """See `UserArchive.rollback`."""
        return await self._run(partial(self.sync.rollback, session_id, snapshot_id, aside))
