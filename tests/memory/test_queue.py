"""The fair queue: sessions of a memory are served in the order in which they ask, streams let others pass."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from agentsleep.errors import SessionBusy
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory import caller as callers
from agentsleep.memory.queue import FairLock
from agentsleep.memory.turn import Turn
from tests.memory.helpers import FACT, assert_whole, fill, kinds


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def started(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def joined(*threads: threading.Thread) -> None:
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


@pytest.fixture
def lock() -> FairLock:
    return FairLock()


def line_up(lock: FairLock, names: str, served: list[str]) -> list[threading.Thread]:
    """Threads that come one after the other while the lock is held."""

    def wait(name: str) -> None:
        with lock:
            served.append(name)

    threads = []
    for name in names:
        before = lock.waiting
        threads.append(started(lambda name=name: wait(name)))
        until(lambda before=before: lock.waiting == before + 1)
    return threads


def test_first_come_first_served(lock: FairLock) -> None:
    served: list[str] = []
    with lock:
        threads = line_up(lock, "abcdefgh", served)
    with lock:  # who asks again comes last
        served.append("again")
    joined(*threads)
    assert served == [*"abcdefgh", "again"]
    assert lock.waiting == 0
    assert not lock.mine


def test_one_at_a_time(lock: FairLock) -> None:
    inside, most, rounds = [0], [0], [0]

    def work() -> None:
        for _ in range(50):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                rounds[0] += 1
                inside[0] -= 1

    joined(*[started(work) for _ in range(6)])
    assert (most, rounds) == ([1], [300])


def test_it_is_reentrant(lock: FairLock) -> None:
    served: list[str] = []
    with lock:
        threads = line_up(lock, "a", served)
        with lock:
            assert lock.mine
        assert lock.mine  # given back once, held still
        assert served == []
    joined(*threads)
    assert served == ["a"]


def test_without_waiting(lock: FairLock) -> None:
    got: list[bool] = []
    with lock:
        joined(started(lambda: got.append(lock.acquire(wait=False))))
        assert lock.acquire(wait=False)
        lock.release()
    assert got == [False]
    assert lock.acquire(wait=False)
    lock.release()


def test_only_its_holder_releases_it(lock: FairLock) -> None:
    with pytest.raises(RuntimeError, match="released by the thread that holds it"):
        lock.release()
    refused: list[RuntimeError] = []

    def release() -> None:
        try:
            lock.release()
        except RuntimeError as error:
            refused.append(error)

    with lock:
        joined(started(release))
        assert lock.mine
    assert len(refused) == 1


class Gate:
    """A ticket's gate whose wait is interrupted."""

    def __init__(self, real: Any) -> None:
        self.real = real

    def acquire(self, timeout: float = -1) -> bool:
        raise KeyboardInterrupt

    def release(self) -> None:
        self.real.release()


def test_an_interrupt_of_a_waiter_leaves_the_line_whole(lock: FairLock, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentsleep.memory import queue

    served: list[str] = []
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            holding.set()
            done.wait(60)

    holder = started(hold)
    holding.wait(60)
    first = line_up(lock, "ab", served)
    ticket = queue._Ticket

    def interrupted() -> Any:
        made = ticket()
        made.gate = Gate(made.gate)  # type: ignore[assignment]
        return made

    with monkeypatch.context() as patch:
        patch.setattr(queue, "_Ticket", interrupted)
        with pytest.raises(KeyboardInterrupt):
            lock.acquire()
    assert lock.waiting == 2
    later = line_up(lock, "c", served)
    done.set()
    joined(holder, *first, *later)
    assert served == ["a", "b", "c"]
    assert lock.acquire(wait=False)
    lock.release()


def test_a_caller_that_was_cancelled_leaves_the_line(lock: FairLock) -> None:
    served: list[str] = []
    caller = callers.Caller(task=object())

    def wait() -> None:
        callers.current.set(caller)
        try:
            with lock:
                served.append("never")
        except callers.Withdrawn:
            served.append("withdrawn")

    with lock:
        waiter = started(wait)
        until(lambda: lock.waiting == 1)
        others = line_up(lock, "b", served)
        caller.cancelled.set()
        joined(waiter)
        assert served == ["withdrawn"]
    joined(*others)
    assert served == ["withdrawn", "b"]


def test_a_child_process_does_not_wait_for_threads_of_its_parent(lock: FairLock) -> None:
    holding, done = threading.Event(), threading.Event()

    def hold() -> None:
        with suppress(RuntimeError), lock:  # in the child there is no such thread
            holding.set()
            done.wait(60)

    holder = started(hold)
    holding.wait(60)
    lock._after_fork()  # what the child does
    assert lock.acquire(wait=False)
    lock._after_fork()
    assert lock.mine
    lock.release()
    done.set()
    holder.join(60)


# Sessions of one memory


@pytest.fixture
def pair(memory: SleepMemory) -> Iterator[tuple[Session, Session]]:
    with memory.session("a") as one, memory.session("b") as other:
        yield one, other


def test_another_session_goes_between_two_tokens_of_a_stream(pair: tuple[Session, Session]) -> None:
    """It waits for one token, not for the turn; and it is not refused."""
    one, other = pair
    with one.generate(stream=True, max_new_tokens=40, temperature=1.0, seed=1) as stream:
        next(stream)
        other.add("user", FACT)  # the same thread even: the model is free between tokens
        joined(started(lambda: other.ask("bob ?", max_new_tokens=2)))
        written = one.tokens
        list(stream)
        assert one.tokens > written
    for session in pair:
        assert_whole(session)


def test_a_turn_gets_in_while_a_stream_runs_without_a_pause(
    memory: SleepMemory, pair: tuple[Session, Session], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python's own lock would let the streaming thread have it again and again."""
    one, other = pair
    order: list[str] = []
    step = Turn.step
    running = threading.Event()

    def slow(turn: Turn) -> int | None:
        order.append("token")
        running.set()
        time.sleep(0.01)
        return step(turn)

    monkeypatch.setattr(Turn, "step", slow)
    streaming = started(lambda: list(one.generate(stream=True, max_new_tokens=40, temperature=1.0, seed=3)))
    running.wait(60)
    for i in range(3):
        before = len(order)
        other.add("tool", FACT)
        order.append(f"add {i}")
        # A token under way, the next one maybe before we ask, and one while this thread gets to its note.
        assert len(order) - before <= 6
    joined(streaming)
    assert order.index("add 0") < len(order) - 1
    assert one.messages()[-1].role == "assistant"


def test_sessions_are_served_in_the_order_in_which_they_asked(memory: SleepMemory) -> None:
    served: list[str] = []
    sessions = {name: memory.session(name) for name in "abcde"}
    threads = []
    with memory._queue:
        for i, (name, session) in enumerate(sessions.items()):

            def work(name: str = name, session: Session = session) -> None:
                with session.desk.using():
                    served.append(name)

            threads.append(started(work))
            until(lambda i=i: memory._queue.waiting == i + 1)
    joined(*threads)
    assert served == [*"abcde"]
    for session in sessions.values():
        session.close()


def test_an_interrupt_while_a_session_waits_for_the_model(
    memory: SleepMemory, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 2)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with session.generate(stream=True, max_new_tokens=8, temperature=1.0, seed=1) as stream:
        next(stream)
        for use in (lambda: next(stream), stream.close):
            with monkeypatch.context() as patch:
                patch.setattr(FairLock, "__enter__", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    use()
        assert kinds(session) == "tt"
    assert kinds(session) == "ttt"  # it was still there to be closed
    session.add("user", FACT)
    assert_whole(session)


def test_who_has_the_model_is_not_made_to_wait_for_another_session(
    memory: SleepMemory, pair: tuple[Session, Session]
) -> None:
    """Else two threads could wait for each other: here a callback uses a session whose holder waits for the model."""
    one, other = pair
    waiting: list[threading.Thread] = []
    refused: list[SessionBusy] = []

    def allowed(batch: int, ids: Any) -> list[int]:
        if not waiting:
            waiting.append(started(lambda: other.add("user", FACT)))
            until(lambda: memory._queue.waiting == 1)
            try:
                other.stats()
            except SessionBusy as error:
                refused.append(error)
        return list(range(8))

    one.generate(max_new_tokens=3, prefix_allowed_tokens_fn=allowed)
    joined(*waiting)
    assert "in the middle of a turn of another session" in str(refused[0])
    assert kinds(other) == "t"
    for session in pair:
        assert_whole(session)
