"""The async API: the loop never waits, cancellation leaves nothing half done, sessions take turns."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import ContextVar
from itertools import pairwise
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from agentsleep.errors import EmptyMessage, InputError, SessionBusy, SessionClosed, SettingsError, SleepFailed
from agentsleep.memory import Answer, AsyncSession, AsyncSleepMemory, Session, SleepMemory, Stream
from agentsleep.memory.aio import MemoryOptions
from agentsleep.memory.turn import Turn
from agentsleep.memory.window import OpenWindow
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, NEVER, assert_whole, events, kinds

WARM: dict[str, Any] = {"temperature": 1.0, "seed": 7}
GAP = 1.0  # seconds: a generous bound for a loop on cores that others use; each call below takes longer


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 200))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def cancelled(task: asyncio.Task[Any]) -> asyncio.CancelledError:
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens are written a hundredth of a second apart; counts them."""
    steps, step = [0], Turn.step

    def slowly(turn: Turn) -> int | None:
        time.sleep(0.01)
        steps[0] += 1
        return step(turn)

    monkeypatch.setattr(Turn, "step", slowly)
    return steps


class Held:
    """The model in the hands of another thread."""

    def __init__(self, memory: SleepMemory) -> None:
        self._memory, self._taken, self._done = memory, threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._hold, daemon=True)

    def _hold(self) -> None:
        with self._memory._queue:
            self._taken.set()
            self._done.wait(60)

    def __enter__(self) -> Held:
        self._thread.start()
        self._taken.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(60)

    async def waiting(self, count: int) -> None:
        await until(lambda: self._memory._queue.waiting == count)


# What it offers


def test_everything_public_has_its_async_form() -> None:
    """But for what does no work, or is a tool of the inside: ``session.sync`` has it."""
    for ours, theirs, more in (
        (AsyncSession, Session, {"stream"}),
        (AsyncSleepMemory, SleepMemory, {"open", "run", "lend"}),
    ):
        public = {name for name in dir(theirs) if not name.startswith("_")}
        public -= (
            {"fingerprint", "residents", "prober", "shared", "trial", "scratch"} if theirs is SleepMemory else set()
        )
        here = {name for name in vars(ours) if not name.startswith("_")}
        assert here - more - {"sync"} == public
        assert more <= here


def test_options_are_those_of_the_memory() -> None:
    options = [*inspect.signature(SleepMemory.__init__).parameters][2:]
    assert [*get_type_hints(MemoryOptions)] == options


def test_names_and_docstrings_are_kept() -> None:
    assert AsyncSession.add.__name__ == "add"
    assert AsyncSession.add.__doc__ == Session.add.__doc__
    assert inspect.iscoroutinefunction(AsyncSession.add)
    assert AsyncSleepMemory.session.__doc__ == SleepMemory.session.__doc__


def test_it_says_what_the_sync_one_says(nap: Path, archive: Path, opened: Open) -> None:
    async def main() -> tuple[list[Any], str]:
        async with AsyncSleepMemory(nap, archive=archive, policy=NEVER) as memory:
            async with memory.session("t", user="ada", system="the build is fine .") as session:
                event = await session.add("tool", FACT)
                answer = await session.ask("bob ?", max_new_tokens=5, **WARM)
                aside = await session.ask("bob ?", remember=False, max_new_tokens=5, **WARM)
                pieces = [piece async for piece in session.stream(max_new_tokens=9, **WARM)]
                turn = await session.generate(max_new_tokens=5, **WARM)
                snapshot = await session.sleep()
                await session.pin(system="")
                stats = await session.stats()
                assert (await session.window()).ids == []
                assert await session.head() == snapshot == (await session.history())[-1]
                assert (stats.window_tokens, stats.tokens) == (await session.window_tokens(), await session.tokens())
                assert (await session.state()).norm() == (await session.replay()).norm() == stats.norm
                assert event.text in [m.text for m in await session.messages()]
                assert session.scope.user == "ada"
            assert [record.id for record in await memory.sessions(user="ada")] == [session.id]
            assert snapshot is not None
            async with memory.fork(snapshot, "again") as fork:
                assert await fork.head() == (await fork.history())[-1]
            return [answer, aside, turn], "".join(pieces)

    said: list[Any] = []

    async def keep() -> None:
        said.append(await main())

    run(keep())
    memory = opened(where=":memory:")
    with memory.session("t", user="ada", system="the build is fine .") as session:
        session.add("tool", FACT)
        answers: list[Answer] = [session.ask("bob ?", max_new_tokens=5, **WARM)]
        answers.append(session.ask("bob ?", remember=False, max_new_tokens=5, **WARM))
        text = "".join(session.generate(stream=True, max_new_tokens=9, **WARM))
        answers.append(session.generate(max_new_tokens=5, **WARM))
    assert said == [(answers, text)]
    with opened().session("t", user="ada", create=False) as session:
        assert_whole(session)


def test_it_can_be_awaited_and_shared(memory: SleepMemory) -> None:
    async def main() -> None:
        shared = AsyncSleepMemory(memory)
        session = await shared.session("t")
        assert isinstance(session.sync, Session)
        with pytest.raises(SessionBusy):
            await shared.session("t")
        await session.close()
        await session.close()
        with pytest.raises(SessionClosed):
            await session.add("user", FACT)
        await shared.close()

    run(main())
    memory.session("t").close()  # it is still open


def test_what_is_refused(memory: SleepMemory, nap: Path) -> None:
    with pytest.raises(SettingsError, match="threads is 0"):
        AsyncSleepMemory(memory, threads=0)
    with pytest.raises(InputError, match="device given with a SleepMemory"):
        AsyncSleepMemory(memory, device="cpu")
    unopened = AsyncSleepMemory(nap, archive=":memory:")
    with pytest.raises(InputError, match="not open yet"):
        unopened.sync  # noqa: B018
    run(unopened.close())


def test_exceptions_pass_unchanged(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    failure = SleepFailed("as it was raised")

    def fail(*_: object, **__: object) -> None:
        raise failure

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            with pytest.raises(EmptyMessage):
                await session.add("user", " ")
            with pytest.raises(SettingsError, match="max_new_tokens"):
                session.stream(max_new_tokens=0)
            await session.add("user", FACT)
            with monkeypatch.context() as patch:
                patch.setattr(OpenWindow, "sleep", fail)
                with pytest.raises(SleepFailed) as caught:
                    await session.sleep()
                assert caught.value is failure
            assert await session.sleep() is not None

    run(main())


def test_context_variables_come_along(memory: SleepMemory) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen: list[str] = []

    def allowed(batch: int, ids: object) -> list[int]:
        seen.append(tenant.get())
        return list(range(8))

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            tenant.set("acme")
            await session.generate(max_new_tokens=1, prefix_allowed_tokens_fn=allowed)
            async for _ in session.stream(max_new_tokens=1, prefix_allowed_tokens_fn=allowed):
                pass

    run(main())
    assert set(seen) == {"acme"}


# The loop


def test_the_loop_goes_on_while_the_model_works(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call takes longer than the longest gap that is allowed between two ticks."""
    gaps: list[float] = []

    def lasting(name: str) -> None:
        method = getattr(OpenWindow, name)

        def slowly(*args: Any, **kwargs: Any) -> Any:
            time.sleep(1.5 * GAP)
            return method(*args, **kwargs)

        monkeypatch.setattr(OpenWindow, name, slowly)

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            for name in ("hear", "write", "sleep", "end_turn"):
                lasting(name)
            ticker = asyncio.create_task(tick())
            for call in (
                session.add("user", FACT),
                session.ask("bob ?", max_new_tokens=3),
                session.sleep(),
                anext(session.stream(max_new_tokens=2, **WARM)),
            ):
                began = time.monotonic()
                await call
                assert time.monotonic() - began > GAP
            ticker.cancel()

    run(main())
    assert max(gaps) < GAP


# Cancellation


@pytest.mark.parametrize("how", ["ask", "generate", "stream"])
def test_a_turn_that_is_cancelled_stops_at_the_next_token(memory: SleepMemory, slow: list[int], how: str) -> None:
    async def streamed(session: AsyncSession) -> None:
        async for _ in session.stream(max_new_tokens=4000, **WARM):
            pass

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            turns: dict[str, Callable[[], Awaitable[object]]] = {
                "ask": lambda: session.ask("bob ?", max_new_tokens=4000, **WARM),
                "generate": lambda: session.generate(max_new_tokens=4000, **WARM),
                "stream": lambda: streamed(session),
            }
            task = asyncio.ensure_future(turns[how]())
            await until(lambda: slow[0] >= 5)
            before = slow[0]
            await cancelled(task)
            assert slow[0] <= before + 3
            last = (await session.messages())[-1]
            assert (last.role, last.data["generated"], last.data["cut"]) == ("assistant", True, True)
            await session.add("user", FACT)  # and it goes on
            assert_whole(session.sync)

    run(main())


@pytest.mark.parametrize("how", ["add", "sleep"])
def test_what_has_begun_is_finished_before_the_cancellation_goes_on(
    memory: SleepMemory, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    begun, go = threading.Event(), threading.Event()
    name = {"add": "hear", "sleep": "sleep"}[how]
    method = getattr(OpenWindow, name)

    def slowly(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert go.wait(60)
        return method(*args, **kwargs)

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            await session.add("user", FACT)
            monkeypatch.setattr(OpenWindow, name, slowly)
            call = session.add("tool", FACT) if how == "add" else session.sleep()
            task = asyncio.create_task(call)  # type: ignore[arg-type,var-annotated]
            await until(begun.is_set)
            task.cancel()
            await asyncio.sleep(0.05)
            task.cancel()  # however often
            await asyncio.sleep(0.05)
            assert not task.done()
            go.set()
            await cancelled(task)
            assert kinds(session.sync) == {"add": "tt", "sleep": "ts"}[how]
            await session.add("user", FACT)
            assert_whole(session.sync)

    run(main())


def test_a_failure_behind_a_cancellation_is_told(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()

    def fail(*_: object, **__: object) -> None:
        begun.set()
        go.wait(60)
        raise SleepFailed("too bad")

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            await session.add("user", FACT)
            with monkeypatch.context() as patch:
                patch.setattr(OpenWindow, "sleep", fail)
                task = asyncio.create_task(session.sleep())
                await until(begun.is_set)
                task.cancel()
                go.set()
                assert isinstance((await cancelled(task)).__cause__, SleepFailed)
            assert await session.sleep() is not None

    run(main())


def test_a_call_that_waits_for_the_model_is_withdrawn(memory: SleepMemory) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            await session.add("user", FACT)
            for call in (
                lambda: session.add("tool", FACT),
                lambda: session.ask("bob ?"),
                lambda: session.sleep(),
                lambda: anext(session.stream()),
            ):
                with Held(memory) as held:
                    task: asyncio.Task[Any] = asyncio.ensure_future(call())  # type: ignore[assignment]
                    await held.waiting(1)
                    behind = asyncio.create_task(session.stats())  # at the session's own door
                    await asyncio.sleep(0.05)
                    await cancelled(behind)
                    await cancelled(task)
                    assert memory._queue.waiting == 0
            with Held(memory), pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1):
                    await session.add("tool", FACT)
            assert kinds(session.sync) == "t"
            assert_whole(session.sync)

    run(main())


def test_a_stream_that_is_cancelled_while_it_waits_for_the_model(memory: SleepMemory) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            stream = session.stream(max_new_tokens=50, **WARM)
            await anext(stream)
            with Held(memory) as held:
                task = asyncio.ensure_future(anext(stream))
                await held.waiting(1)
                task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (await session.messages())[-1].data["cut"] is True
            assert stream.answer is not None
            with pytest.raises(StopAsyncIteration):
                await anext(stream)
            assert_whole(session.sync)

    run(main())


def test_a_session_whose_opening_is_cancelled_is_not_held(memory: SleepMemory) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared:
            with Held(memory) as held:
                task = asyncio.ensure_future(shared.session("t"))
                await held.waiting(1)
                await cancelled(task)
            async with shared.session("t") as session:
                await session.add("user", FACT)

    run(main())


def test_an_opening_that_came_too_late_is_closed(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go = threading.Event(), threading.Event()
    pin = Session.pin

    def slowly(*args: Any, **kwargs: Any) -> None:
        pin(*args, **kwargs)
        begun.set()
        assert go.wait(60)

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared:
            with monkeypatch.context() as patch:
                patch.setattr(Session, "pin", slowly)
                task = asyncio.ensure_future(shared.session("t"))
                await until(begun.is_set)
                task.cancel()
                go.set()
                await cancelled(task)
            async with shared.session("t") as session:
                await session.add("user", FACT)

    run(main())


# Streams, and several at once


def test_sessions_take_turns(memory: SleepMemory, slow: list[int]) -> None:
    async def main() -> None:
        order: list[str] = []

        async def write(session: AsyncSession, name: str) -> None:
            async for _ in session.stream(max_new_tokens=30, temperature=1.0, seed=3):
                order.append(name)

        shared = AsyncSleepMemory(memory)
        async with shared.session("a") as one, shared.session("b") as other, shared.session("c") as third:
            writing = asyncio.gather(write(one, "a"), write(other, "b"))
            await until(lambda: len(order) > 2)
            await third.add("user", FACT)
            order.append("c")
            await writing
            for session in (one, other, third):
                assert_whole(session.sync)
        assert order.index("c") < len(order) - 2
        changes = sum(a != b for a, b in pairwise(order))
        assert changes >= len(order) // 4

    run(main())


def test_calls_that_wait_for_a_stream_leave_it_threads_to_end(memory: SleepMemory) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory, threads=2) as shared, shared.session("t", timeout=60.0) as session:
            stream = session.stream(max_new_tokens=10, **WARM)
            await anext(stream)
            adds = [asyncio.create_task(session.add("user", f"bob {i}")) for i in range(6)]
            await asyncio.sleep(0.1)
            assert not any(task.done() for task in adds)
            async for _ in stream:
                pass
            await asyncio.gather(*adds)
            assert kinds(session.sync) == "ttttttt"

    run(main())


def test_a_task_is_not_made_to_wait_for_its_own_stream(memory: SleepMemory) -> None:
    """Whichever thread its calls happen to run in."""

    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t", timeout=100.0) as session:
            stream = session.stream(max_new_tokens=10, **WARM)
            await anext(stream)
            for _ in range(4):
                with pytest.raises(SessionBusy, match="writing a turn to a stream"):
                    await asyncio.wait_for(session.add("user", FACT), None)
            await stream.close()
            await session.add("user", FACT)
            assert kinds(session.sync) == "tt"

    run(main())


def test_closing_during_a_stream(memory: SleepMemory) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared:
            async with shared.session("t") as session:
                async with session.stream(max_new_tokens=20, **WARM) as stream:
                    await anext(stream)
                assert stream.answer is not None
                assert (await session.messages())[-1].data["cut"] is True
                stream = session.stream(max_new_tokens=20, **WARM)
                await anext(stream)
            with pytest.raises(SessionClosed):
                await anext(stream)
            await stream.close()
            async with shared.session("t") as session:
                assert [m.data.get("cut") for m in await session.messages()] == [True, True]
                assert_whole(session.sync)

    run(main())


def test_a_stream_is_closed_while_its_next_token_is_written(memory: SleepMemory, slow: list[int]) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t") as session:
            stream = session.stream(max_new_tokens=40, **WARM)
            await anext(stream)
            step = asyncio.ensure_future(anext(stream, None))
            await asyncio.sleep(0)
            await stream.close()
            await step
            assert await anext(stream, None) is None
            assert kinds(session.sync) == "t"
            assert_whole(session.sync)

    run(main())


def test_a_loop_that_is_left_ends_its_stream(memory: SleepMemory) -> None:
    async def main() -> None:
        async with AsyncSleepMemory(memory) as shared, shared.session("t", timeout=20) as session:
            async for _ in session.stream(max_new_tokens=20, **WARM):
                break
            await session.add("user", FACT)
            assert [event.role for event in events(session.sync)] == ["assistant", "user"]
            assert isinstance(session.stream().sync, Stream)

    run(main())
