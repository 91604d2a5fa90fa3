"""Residency: open windows are bounded in number and memory, those in use stay, the others come back as they were."""

from __future__ import annotations

import gc
import os
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from torch import Tensor

from agentsleep.backends import LiveWindow
from agentsleep.errors import SessionClosed, SettingsError
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.residency import Residency
from agentsleep.tasks import rota
from tests.memory.helpers import FACT, NEVER, Trace, assert_near, assert_whole, fill

BYTES = 16 * 1024  # that an open session may take without its window: objects, lock, its rows in the archive's caches


class Sleeper:
    def __init__(self, *, busy: bool = False) -> None:
        self.busy, self.gone = busy, False

    def let_go(self) -> bool:
        self.gone = not self.busy
        return self.gone


def test_the_least_recently_used_goes_first() -> None:
    residency = Residency(2)
    a, b, c = Sleeper(), Sleeper(), Sleeper()
    for one in (a, b, a, c):
        residency.admit(one)
    assert (a.gone, b.gone, c.gone) == (False, True, False)
    assert len(residency) == 2
    residency.leave(a)
    residency.leave(a)
    assert len(residency) == 1


def test_one_in_use_stays_and_goes_later() -> None:
    residency = Residency(1)
    a, b, c = Sleeper(busy=True), Sleeper(busy=True), Sleeper()
    for one in (a, b, c):
        residency.admit(one)
    assert len(residency) == 3
    a.busy = b.busy = False
    residency.admit(c)
    assert (a.gone, b.gone, c.gone, len(residency)) == (True, True, False, 1)


def test_none_keeps_all_and_nobody_is_kept_by_being_counted() -> None:
    residency = Residency(None)
    sleepers = [Sleeper() for _ in range(100)]
    for one in sleepers:
        residency.admit(one)
    assert len(residency) == 100
    del sleepers, one
    gc.collect()
    assert len(residency) == 0


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "8"])
def test_a_limit_that_is_none(limit: object, nap: Path) -> None:
    with pytest.raises(SettingsError, match=r"resident is .*whole number of at least 1, or None"):
        SleepMemory(nap, archive=":memory:", resident=limit)  # type: ignore[arg-type]


def windows() -> int:
    """Live windows in this process, whatever anybody counts."""
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # lazy attributes of torch
        return sum(type(one) is LiveWindow for one in gc.get_objects())


def crowd(memory: SleepMemory, sessions: list[Session], upto: int) -> None:
    for i in range(len(sessions), upto):
        sessions.append(memory.session(f"thread {i}"))
        sessions[-1].add("tool", rota.fact(rota.NAMES[i % 40], rota.NAMES[(i // 40) % 40]))


def logits_of(session: Session) -> Tensor:
    logits = session.window.logits
    assert logits is not None
    return logits.clone()


def check_crowd(memory: SleepMemory, sessions: list[Session], limit: int) -> None:
    """All of them, in an order in which none is at hand."""
    before = windows()
    for i, session in enumerate(sessions):
        session.ask(f"{i} ?", max_new_tokens=1, remember=False)
        assert [m.text for m in session.messages()] == [rota.fact(rota.NAMES[i % 40], rota.NAMES[(i // 40) % 40])]
        assert session.window.ids == list(session.messages()[0].token_ids)
        assert memory.residents <= limit
    assert windows() <= before


def test_sessions_beyond_the_limit_are_built_again(nap: Path) -> None:
    base = windows()
    with SleepMemory(nap, archive=":memory:", policy=NEVER, resident=4) as memory:
        sessions: list[Session] = []
        crowd(memory, sessions, 4)
        before = [Trace.of(session) for session in sessions]
        crowd(memory, sessions, 24)
        assert memory.residents == windows() - base == 4
        for session, trace in zip(sessions, before, strict=False):
            Trace.of(session).assert_near(trace)
        check_crowd(memory, sessions, 4)
        for session in sessions:
            session.close()
        assert memory.residents == 0


@pytest.mark.slow
def test_a_thousand_sessions(nap: Path) -> None:
    """Memory grows by what a session takes without its window: less than 16 KiB each. With its window, that of this
    smallest of models, it would be twice as much."""
    base, rss = windows(), psutil.Process(os.getpid()).memory_info
    with SleepMemory(nap, archive=":memory:", policy=NEVER, resident=8) as memory:
        sessions: list[Session] = []
        crowd(memory, sessions, 100)
        before = {i: logits_of(sessions[i]) for i in range(0, 100, 9)}
        gc.collect()
        at_100 = rss().rss
        crowd(memory, sessions, 1000)
        assert memory.residents == windows() - base == 8
        grown = rss().rss - at_100
        assert grown <= 900 * BYTES, f"{grown / 900:.0f} bytes a session"
        for i, logits in before.items():
            assert_near(sessions[i].window.logits, logits)
        for i in range(0, 1000, 7):
            assert len(sessions[i].window.ids) == sessions[i].tokens
            assert memory.residents <= 8
        for session in sessions:
            session.close()


def test_a_stream_keeps_its_window(nap: Path) -> None:
    with SleepMemory(nap, archive=":memory:", policy=NEVER, resident=1) as memory:
        one, other = memory.session("a"), memory.session("b")
        fill(one, 2)
        stream = one.generate(stream=True, max_new_tokens=6, temperature=1.0, seed=2)
        pieces = [next(stream)]
        window = one.window
        other.add("user", FACT)
        assert memory.residents == 2
        assert one.window is window
        pieces += stream
        other.add("user", FACT)  # now it can go
        assert memory.residents == 1
        assert one.messages()[-1].text == "".join(pieces)
        assert one.window is not window
        assert_whole(one)
        one.close()
        other.close()


def test_a_session_in_use_keeps_its_window(nap: Path) -> None:
    """Also where the same thread, in a callback of a turn, uses another session."""
    with SleepMemory(nap, archive=":memory:", policy=NEVER, resident=1) as memory:
        one, other = memory.session("a"), memory.session("b")

        def allowed(batch: int, ids: object) -> list[int]:
            other.add("user", FACT)
            assert memory.residents == 2
            return list(range(8))

        one.generate(max_new_tokens=2, prefix_allowed_tokens_fn=allowed)
        for session in (one, other):
            assert_whole(session)
            session.close()


def test_a_closed_session_is_not_counted(nap: Path) -> None:
    with SleepMemory(nap, archive=":memory:", policy=NEVER, resident=2) as memory:
        kept, evicted = memory.session("a"), memory.session("b")
        for one in (evicted, kept):
            one.add("user", FACT)
        evicted.close()
        assert memory.residents == 1
        assert evicted.tokens == kept.tokens  # as it was left
        kept.close()
        again = memory.session("b")
        others = [memory.session(name) for name in "cd"]
        for one in others:
            one.add("user", FACT)
        again.close()
        with pytest.raises(SessionClosed):
            again.tokens  # noqa: B018


def test_threads_over_few_windows(nap: Path) -> None:
    with SleepMemory(nap, archive=":memory:", policy=NEVER, resident=2) as memory:
        sessions = [memory.session(f"{i}") for i in range(6)]
        failed: list[BaseException] = []

        def work(session: Session, other: Session) -> Callable[[], None]:
            def run() -> None:
                try:
                    for i in range(3):
                        session.add("tool", FACT)
                        other.stats()
                        list(session.generate(stream=True, max_new_tokens=3, temperature=1.0, seed=i))
                except BaseException as error:
                    failed.append(error)

            return run

        threads = [
            threading.Thread(target=work(session, sessions[i - 1]), daemon=True) for i, session in enumerate(sessions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        assert failed == []
        for session in sessions:
            assert_whole(session)
            session.close()
