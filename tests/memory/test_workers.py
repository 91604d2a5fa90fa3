"""Worker threads: what a call held is let go of before its result is there."""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from agentsleep.memory import AsyncSleepMemory, SleepMemory
from agentsleep.memory.workers import Workers
from tests.memory.helpers import FACT, assert_whole


class Held:
    """What a call holds, such as a stream."""

    def __call__(self) -> str:
        return "done"


@pytest.fixture
def stalled(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A thread that has told its result does not go on before the test says so."""
    go, tell = threading.Event(), Future.set_result

    def slowly(future: Future[Any], result: Any) -> None:
        tell(future, result)
        if threading.current_thread().name.startswith("agentsleep"):
            assert go.wait(60)

    monkeypatch.setattr(Future, "set_result", slowly)
    yield go
    go.set()


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 200))


@pytest.mark.parametrize("how", ["call", "step", "finish"])
def test_what_the_function_holds_is_gone_when_its_result_is_there(stalled: threading.Event, how: str) -> None:
    async def main() -> None:
        workers, held = Workers(1), Held()
        gone = weakref.ref(held)
        submit: Callable[[Callable[[], str]], Coroutine[Any, Any, str]] = getattr(workers, how)
        told = submit(held)
        del held
        assert await told == "done"
        assert gone() is None
        stalled.set()

    run(main())


def test_it_is_gone_whenever_the_threads_are_switched() -> None:
    async def main() -> None:
        workers = Workers(2)
        for _ in range(500):
            held = Held()
            gone = weakref.ref(held)
            told = workers.step(held)
            del held
            await told
            assert gone() is None

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        run(main())
    finally:
        sys.setswitchinterval(before)


def test_whoever_leaves_a_stream_can_use_the_session_at_once(memory: SleepMemory, stalled: threading.Event) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            stalled.clear()
            async for _ in session.stream(max_new_tokens=50, temperature=1.0, seed=7):
                break
            await session.add("user", FACT)
            turn, said = await session.messages()
            assert (turn.data["cut"], said.text) == (True, FACT)
            stalled.set()
            assert_whole(session.sync)

    run(main())


def test_lent_and_run(memory: SleepMemory) -> None:
    """A session that was opened without asyncio, and a function that calls it in a thread."""

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared:
            with memory.session("t") as session:
                lent = shared.lend(session)
                assert lent.sync is session
                await lent.add("user", FACT)
                assert await shared.run(lambda: session.messages()[0].text) == FACT
                name = await shared.run(lambda: threading.current_thread().name)
                assert name.startswith("agentsleep")
                with pytest.raises(ZeroDivisionError):
                    await shared.run(lambda: 1 // 0)

    run(main())


def test_park_and_branch_for_asyncio(memory: SleepMemory) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            await session.add("user", FACT)
            await session.park()
            async with shared.branch(session.sync, 1, "branch") as branch:
                assert [m.text for m in await branch.messages()] == [FACT]
                await branch.add("user", FACT)
            await session.add("user", "noted")
            assert len(await session.messages()) == 2

    run(main())
