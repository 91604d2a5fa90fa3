"""Threads: one session serves them one after the other, several sessions run side by side."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Sequence

import pytest

from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from agentsleep.tasks import rota
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, assert_whole, fill, same


def together(works: Sequence[Callable[[], object]]) -> None:
    """Runs them in threads that start at once; raises what one of them raised."""
    failed: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        try:
            start.wait()
            work()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as Python lets them."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("restless")
def test_threads_that_share_a_session_are_served_one_after_the_other(memory: SleepMemory) -> None:
    with memory.session() as session:

        def talk(name: str) -> Callable[[], None]:
            def work() -> None:
                for i in range(5):
                    session.add("tool", f"{name} {i}")
                    session.ask(f"{name} asks {i}", max_new_tokens=4, temperature=1.0, seed=i)
                    session.ask("bob ?", remember=False, max_new_tokens=3)
                    session.stats()
                session.sleep()

            return work

        together([talk("ada"), talk("bob"), talk("carol")])
        messages = session.messages()
        for name in ("ada", "bob", "carol"):
            theirs = [m.text for m in messages if m.text and m.text.startswith(name) and m.role == "tool"]
            assert theirs == [f"{name} {i}" for i in range(5)]
        for i, message in enumerate(messages):
            if message.role == "user":  # the answer stands behind its question, whoever else was talking
                assert messages[i + 1].role == "assistant"
        assert len([m for m in messages if m.role == "user"]) == 15
        assert_whole(session)


def test_sessions_side_by_side_come_to_the_states_that_they_come_to_alone(opened: Open) -> None:
    def live(memory: SleepMemory, thread: str) -> FastWeights:
        with memory.session(thread) as session:
            for i in range(3):
                fill(session, 3 + len(thread))
                session.ask(rota.question(1 + i, thread), max_new_tokens=6, temperature=1.0, seed=i)
            session.sleep(deep=True, rounds=1)
            assert_whole(session)
            return session.state

    names = ["bob", "alice", "heidi", "oscar"]
    memory = opened(SleepPolicy(passes=3))
    found: dict[str, FastWeights] = {}
    together([lambda name=name: found.update({name: live(memory, name)}) for name in names])  # type: ignore[misc]
    alone = opened(SleepPolicy(passes=3), where=":memory:")
    for name in names:
        assert same(found[name], live(alone, name))


def test_a_session_may_be_closed_by_another_thread(memory: SleepMemory) -> None:
    session = memory.session()
    session.add("user", FACT)
    together([session.close])
    memory.session().close()
