"""SleepMemory and Session for asyncio: the same calls in worker threads, so that the event loop never waits for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial, update_wrapper
from pathlib import Path
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypedDict, TypeVar, Unpack

from agentsleep.archive import Archive, Retention, Snapshot
from agentsleep.backends import LiveWindow
from agentsleep.errors import InputError
from agentsleep.memory.later import Schedule
from agentsleep.memory.memory import SleepMemory
from agentsleep.memory.session import Session
from agentsleep.memory.stream import Stream
from agentsleep.memory.values import Answer
from agentsleep.memory.workers import Workers
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights

P = ParamSpec("P")
R = TypeVar("R")


class MemoryOptions(TypedDict, total=False):
    """The keyword arguments of :class:`SleepMemory`."""

    archive: str | Path | Archive | None
    policy: SleepPolicy | None
    schedule: Schedule | None
    retention: Retention | None
    settings: Mapping[str, Any] | None
    device: str
    dtype: str
    resident: int | None


class AsyncStream(AsyncIterator[str]):
    """The text of a turn as it is written: ``async for piece in session.stream()``. See :class:`Stream`.

    A task that is cancelled in the middle of it leaves a turn that is marked as cut. One that breaks out of the loop
    ends the turn at once with ``async with session.stream() as stream``, or ``await stream.close()``; else it ends when
    the session is used next.
    """

    def __init__(self, workers: Workers, stream: Stream) -> None:
        self.sync = stream
        self._workers, self._begun = workers, False

    @property
    def answer(self) -> Answer | None:
        """The whole turn, once it is over."""
        return self.sync.answer

    async def __anext__(self) -> str:
        # The first one waits for another stream of the session to end.
        run = self._workers.step if self._begun else self._workers.call
        try:
            piece = await run(lambda: next(self.sync, None))
        except asyncio.CancelledError:
            await self.close()
            raise
        if piece is None:
            raise StopAsyncIteration
        self._begun = True
        return piece

    async def close(self) -> None:
        """Ends the turn here. What was written of it stays in the session, marked as cut."""
        await self._workers.finish(self.sync.close)

    async def __aenter__(self) -> AsyncStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


def threaded(
    method: Callable[Concatenate[Session, P], R],
) -> Callable[Concatenate[AsyncSession, P], Coroutine[Any, Any, R]]:
    """The async form of a session's method: ``name = threaded(Session.name)``."""

    async def call(self: AsyncSession, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return await self._workers.call(lambda: method(self.sync, *args, **kwargs))

    update_wrapper(call, method)  # its name and docstring
    return call


class AsyncSession:
    """A :class:`Session` whose calls are awaited; what is a property there is a method here. Exceptions are the same.

    A task that is cancelled while its call waits for its turn has done nothing. Once begun, ``generate`` and ``ask``
    stop at the next token and keep what was written, marked as cut; other calls finish before CancelledError goes on
    (a failure of theirs is its ``__cause__``). The session stays usable either way.
    """

    def __init__(self, workers: Workers, session: Session) -> None:
        self.sync = session
        """The session itself."""
        self.id, self.scope = session.id, session.scope
        self._workers = workers

    async def __aenter__(self) -> AsyncSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """As :meth:`Session.close`; it is finished also where the task is cancelled."""
        await self._workers.finish(self.sync.close)

    pin = threaded(Session.pin)
    add = threaded(Session.add)
    sleep = threaded(Session.sleep)
    replay = threaded(Session.replay)
    history = threaded(Session.history)
    messages = threaded(Session.messages)
    stats = threaded(Session.stats)
    search = threaded(Session.search)
    tag = threaded(Session.tag)
    state_of = threaded(Session.state_of)
    diff = threaded(Session.diff)
    park = threaded(Session.park)
    position = threaded(Session.position)
    bisect = threaded(Session.bisect)
    recover = threaded(Session.recover)

    async def window(self) -> LiveWindow:
        """The open window."""
        return await self._workers.call(lambda: self.sync.window)

    async def head(self) -> Snapshot | None:
        """The newest snapshot."""
        return await self._workers.call(lambda: self.sync.head)

    async def state(self) -> FastWeights:
        """The fast weights that the open window started from."""
        return await self._workers.call(lambda: self.sync.state)

    async def window_tokens(self) -> int:
        """Tokens in the open window, those pinned at its head included."""
        return await self._workers.call(lambda: self.sync.window_tokens)

    async def tokens(self) -> int:
        """Tokens ever said in this session."""
        return await self._workers.call(lambda: self.sync.tokens)

    async def ask(self, text: str, *, remember: bool = True, max_new_tokens: int = 64, **options: Any) -> Answer:
        """Asks the user's question and returns the answer; options as of :meth:`Session.ask`."""
        options |= {"remember": remember, "max_new_tokens": max_new_tokens}
        return await self._workers.call(lambda: self.sync.ask(text, **options))

    async def generate(self, *, max_new_tokens: int = 64, **options: Any) -> Answer:
        """Writes the assistant's next turn; options as of :meth:`Session.generate`, but for ``stream``."""
        return await self._workers.call(
            lambda: self.sync.generate(stream=False, max_new_tokens=max_new_tokens, **options)
        )

    def stream(self, *, max_new_tokens: int = 64, **options: Any) -> AsyncStream:
        """The same as an async iterator of text; nothing happens before its first piece is awaited."""
        return AsyncStream(self._workers, self.sync.generate(stream=True, max_new_tokens=max_new_tokens, **options))


class Opening(Awaitable[AsyncSession], AbstractAsyncContextManager[AsyncSession]):
    """A session to be opened: ``await`` it, or ``async with`` it, which closes it again."""

    def __init__(self, opened: Callable[[], Coroutine[Any, Any, AsyncSession]]) -> None:
        self._opened = opened

    def __await__(self) -> Generator[Any, Any, AsyncSession]:
        return self._opened().__await__()

    async def __aenter__(self) -> AsyncSession:
        self._session = await self._opened()
        return self._session

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()


def opening(
    method: Callable[Concatenate[SleepMemory, P], Session],
) -> Callable[Concatenate[AsyncSleepMemory, P], Opening]:
    """The async form of a memory's method that opens a session."""

    def opens(self: AsyncSleepMemory, /, *args: P.args, **kwargs: P.kwargs) -> Opening:
        async def opened() -> AsyncSession:
            memory = await self.open()
            session = await self._workers.call(lambda: method(memory, *args, **kwargs), Session.close)
            return AsyncSession(self._workers, session)

        return Opening(opened)

    update_wrapper(opens, method)
    return opens


def working(
    method: Callable[Concatenate[SleepMemory, P], R],
) -> Callable[Concatenate[AsyncSleepMemory, P], Coroutine[Any, Any, R]]:
    """The async form of a memory's other methods. The sessions that they take are sync ones: ``session.sync``."""

    async def call(self: AsyncSleepMemory, /, *args: P.args, **kwargs: P.kwargs) -> R:
        memory = await self.open()
        return await self._workers.call(lambda: method(memory, *args, **kwargs))

    update_wrapper(call, method)
    return call


class AsyncSleepMemory:
    """A :class:`SleepMemory` for asyncio: ``async with AsyncSleepMemory(...) as memory``, which loads the model.

    Args:
        model: as of SleepMemory; or a SleepMemory, which is then shared, and left open.
        threads: calls that are under way at once, those that wait for the model or for a stream's end included; further
            ones wait in the event loop. Steps of streams have as many of their own.
        options: as of SleepMemory.

    Raises:
        SettingsError: threads below 1.  InputError: options for a SleepMemory that is there already.
    """

    def __init__(
        self, model: str | Path | SleepMemory | None = None, *, threads: int = 32, **options: Unpack[MemoryOptions]
    ) -> None:
        self._workers, self._opening = Workers(threads), asyncio.Lock()
        self._shared = isinstance(model, SleepMemory)
        self._memory: SleepMemory | None = None
        if isinstance(model, SleepMemory):
            if options:
                raise InputError(f"{', '.join(options)} given with a SleepMemory; give them where that one is made")
            self._memory = model
        else:
            self._make = partial(SleepMemory, model, **options)

    @property
    def sync(self) -> SleepMemory:
        """The memory itself.

        Raises:
            InputError: it is not open yet.
        """
        if self._memory is None:
            raise InputError("this memory is not open yet; use it in `async with`, or await its open() first")
        return self._memory

    async def open(self) -> SleepMemory:
        """Loads the model and opens the archive, unless that was done. ``async with`` and ``session`` do it as well.

        Raises:
            As SleepMemory.
        """
        async with self._opening:
            if self._memory is None:
                self._memory = await self._workers.call(self._make, SleepMemory.close)
            return self._memory

    async def close(self) -> None:
        """Lets go of the archive, but of that of a SleepMemory which was given."""
        if self._memory is not None and not self._shared:
            await self._workers.finish(self._memory.close)

    async def __aenter__(self) -> AsyncSleepMemory:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(
        self, function: Callable[[], R], undo: Callable[[R], object] | None = None, *, always: bool = False
    ) -> R:
        """Has a function run in one of the threads of this memory, where it may call sessions; its result, or what it
        raised. Where the task is cancelled, it is withdrawn if it has not begun, else waited for.

        Args:
            undo: is given a result that came too late.  always: it is not withdrawn.
        """
        if always:
            return await self._workers.finish(function)
        return await self._workers.call(function, undo)

    def lend(self, session: Session) -> AsyncSession:
        """A session that is open already, for asyncio."""
        return AsyncSession(self._workers, session)

    session = opening(SleepMemory.session)
    fork = opening(SleepMemory.fork)
    branch = opening(SleepMemory.branch)

    rollback = opening(SleepMemory.rollback)
    sessions = working(SleepMemory.sessions)
    rebuild = opening(SleepMemory.rebuild)
    recover = working(SleepMemory.recover)
    forget = working(SleepMemory.forget)
    compare_policies = working(SleepMemory.compare_policies)
    export = working(SleepMemory.export)
    import_thread = working(SleepMemory.import_thread)
