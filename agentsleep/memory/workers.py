"""Threads that run the calls of tasks of an event loop, and what becomes of a call whose task is cancelled."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TypeVar

from agentsleep.errors import SettingsError
from agentsleep.memory import caller

R = TypeVar("R")


class Workers:
    """Threads that run one memory's calls.

    Steps and ends of streams have threads of their own: a call may wait for a stream to end, so calls that took every
    thread would wait for ever.
    """

    def __init__(self, threads: int) -> None:
        if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
            raise SettingsError(f"threads is {threads!r}; it is a whole number of at least 1")
        self._calls = ThreadPoolExecutor(threads, "agentsleep call")
        self._steps = ThreadPoolExecutor(threads, "agentsleep step")

    async def call(self, function: Callable[[], R], undo: Callable[[R], object] | None = None) -> R:
        """The result, or what was raised. Where the task is cancelled, the call is withdrawn if it has not begun, else
        waited for.

        Args:
            undo: is given a result that came too late.
        """
        return await self._run(self._calls, function, True, undo)

    async def step(self, function: Callable[[], R]) -> R:
        """The same for what no other session or stream can hold up for longer than its computation takes."""
        return await self._run(self._steps, function, True)

    async def finish(self, function: Callable[[], R]) -> R:
        """The same for what is not to be withdrawn: the end of a stream or of a session."""
        return await self._run(self._steps, function, False)

    async def _run(
        self, pool: Executor, function: Callable[[], R], withdraw: bool, undo: Callable[[R], object] | None = None
    ) -> R:
        task = asyncio.current_task()
        whose = caller.Caller(task=task and weakref.ref(task))  # weak: the task's frames hold what is kept here
        context = copy_context()
        context.run(caller.current.set, whose)
        # Popped, so that the thread lets go of it before the result is there: what the function holds, such as a stream
        # that its reader then leaves, would else live on for a moment that the reader cannot wait for.
        todo = [function]
        del function
        job = pool.submit(context.run, lambda: todo.pop()())
        future = asyncio.wrap_future(job)
        cancelled: asyncio.CancelledError | None = None
        failure: BaseException | None = None
        try:
            while not future.done():
                try:
                    await asyncio.wait([future])
                except asyncio.CancelledError as error:
                    cancelled = error
                    if withdraw:
                        whose.cancelled.set()
                        job.cancel()
            if cancelled is None:
                return future.result()
            if not future.cancelled():
                failure = future.exception()
                if failure is None and undo is not None:
                    await self.finish(partial(undo, future.result()))
            raise cancelled from (failure if isinstance(failure, Exception) else None)
        finally:
            del cancelled, failure  # they hold this frame
