"""Ctrl-C, wherever it falls: the old state stays in place, what was said is kept, the session goes on."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentsleep.archive import UserArchive, rows
from agentsleep.backends import Backend, LiveWindow
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory import sleeping as window_module
from agentsleep.memory.decoding import Sampling
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, Trace, assert_whole, child, events, fill, kinds, rig, says

Call = Callable[..., Any]


def interrupting(call: Call, when: str, skip: int = 0) -> Call:
    """``call``, with Ctrl-C before or after it; after ``skip`` calls that go well."""
    left = [skip]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            return call(*args, **kwargs)
        if when == "after":
            call(*args, **kwargs)
        raise KeyboardInterrupt

    return interrupted


def interrupt(
    patch: pytest.MonkeyPatch, owner: Any, name: str, when: str, act: Callable[[], object], skip: int = 0
) -> None:
    with patch.context() as inner:
        inner.setattr(owner, name, interrupting(getattr(owner, name), when, skip))
        with pytest.raises(KeyboardInterrupt):
            act()


@pytest.mark.parametrize(
    ("owner", "name", "when", "slept"),
    [
        (Backend, "consolidate", "before", False),
        (Backend, "consolidate", "after", False),
        (UserArchive, "commit_snapshot", "before", False),
        (rows, "move_head", "before", False),  # within the transaction: all of it or nothing
        (rows, "move_head", "after", False),
        (UserArchive, "commit_snapshot", "after", True),  # stored, but the call did not return: the head has moved
        (LiveWindow, "__init__", "before", True),
    ],
)
def test_during_a_sleep(
    session: Session, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: str, slept: bool
) -> None:
    fill(session, 2)
    session.sleep()
    fill(session, 5)
    before = Trace.of(session)
    interrupt(monkeypatch, owner, name, when, session.sleep)
    if slept:
        assert kinds(session) == "tts" + "ttttts"
        assert session.head is not None
        assert session.head.parent == before.head
    else:
        Trace.of(session).assert_near(before)
    assert_whole(session)
    session.add("user", FACT)
    session.sleep()
    assert_whole(session)


def test_during_a_deep_sleep(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(session, 9)
    interrupt(monkeypatch, window_module, "deep", "after", lambda: session.sleep(deep=True))
    assert kinds(session) == "t" * 9 + "ss"
    assert_whole(session)
    interrupt(monkeypatch, UserArchive, "commit_snapshot", "after", lambda: session.sleep(deep=True))
    assert kinds(session) == "t" * 9 + "ssd"
    assert_whole(session)


@pytest.mark.parametrize(
    ("owner", "name", "when", "kept"),
    [
        (UserArchive, "append", "before", False),
        (UserArchive, "append", "after", True),
        (LiveWindow, "read", "before", True),
        (LiveWindow, "read", "after", True),
        (Backend, "consolidate", "before", True),
        (UserArchive, "commit_snapshot", "before", True),
        (UserArchive, "commit_snapshot", "after", True),
    ],
)
def test_while_a_message_is_heard(
    session: Session, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, when: str, kept: bool
) -> None:
    """A message that makes the window sleep, twice."""
    fill(session, 7)
    text = "x" * 90
    interrupt(monkeypatch, owner, name, when, lambda: session.add("user", text))
    assert [m.text for m in session.messages()[7:]] == ([text] if kept else [])
    session.add("user", FACT)
    assert_whole(session)
    assert kinds(session).count("s") == (2 if kept else 0) + (not kept and session.tokens > 48)


@pytest.mark.parametrize("skip", range(9))
def test_while_a_turn_is_written(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch, skip: int
) -> None:
    """Between any two of its tokens; the seventh falls behind a sleep."""
    fill(session, 7)
    spoken = says(memory, "bob alice bob alice bob alice bob alice bob alice")
    script = iter([*spoken[:skip]])

    def pick(*anything: object) -> int:
        token = next(script, None)
        if token is None:
            raise KeyboardInterrupt
        return token

    with monkeypatch.context() as patch:
        patch.setattr(Sampling, "pick", pick)
        with pytest.raises(KeyboardInterrupt):
            session.generate()
    parts = session.messages()[7:]
    written = [token for part in parts for token in part.token_ids]
    assert written == [*memory.chat.prompt(), *spoken[:skip], memory.chat.end]
    assert parts[-1].text == " ".join(["bob", "alice"][i % 2] for i in range(skip))
    assert parts[-1].data == {"generated": True, "cut": True}
    session.add("user", FACT)
    assert_whole(session)


@pytest.mark.parametrize(
    ("owner", "name", "when", "parts"),
    [
        (LiveWindow, "read", "before", [6, 0]),  # of the next window's head
        (Backend, "consolidate", "before", [6]),
        (Backend, "consolidate", "after", [6]),
        (UserArchive, "commit_snapshot", "before", [6]),
        (UserArchive, "commit_snapshot", "after", [6, 0]),
        (LiveWindow, "__init__", "before", [6, 0]),
    ],
)
def test_during_a_sleep_in_the_middle_of_a_turn(
    session: Session,
    memory: SleepMemory,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    when: str,
    parts: list[int],
) -> None:
    """What was written stands in the log once, whether or not the sleep had been stored."""
    fill(session, 7)
    spoken = says(memory, "bob alice " * 9)
    rig(monkeypatch, spoken)
    skip = 6 if name == "read" else 0
    interrupt(monkeypatch, owner, name, when, session.generate, skip)
    said = session.messages()[7:]
    assert [len(part.token_ids) for part in said] == [*parts[:-1], parts[-1] + 1]
    written = [token for part in said for token in part.token_ids]
    assert written == [*memory.chat.prompt(), *spoken[:5], memory.chat.end]
    assert said[-1].text == "bob alice bob alice bob"
    assert said[-1].data == {"generated": True, "cut": True}
    assert_whole(session)


@pytest.mark.parametrize(("when", "kept"), [("before", []), ("after", ["bob"])])
def test_while_a_turn_is_logged(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch, when: str, kept: list[str]
) -> None:
    """It was not acknowledged: it is there whole, or not at all."""
    spoken = says(memory, "bob")
    rig(monkeypatch, spoken)
    interrupt(monkeypatch, UserArchive, "append", when, session.generate)
    assert [m.text for m in session.messages()] == kept
    session.add("user", FACT)
    assert_whole(session)


def test_while_a_turn_that_a_sleep_fell_into_is_logged(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first part is in the log and needs an end."""
    fill(session, 7)
    spoken = says(memory, "bob alice " * 4)
    rig(monkeypatch, spoken)
    interrupt(monkeypatch, UserArchive, "append", "before", session.generate)
    assert session.window_tokens == 1
    assert kinds(session) == "t" * 8 + "st"
    last = events(session)[-1]
    assert last.token_ids == (memory.chat.end,)
    assert (last.text, last.data) == ("bob alice bob alice bob", {"generated": True, "cut": True})
    assert_whole(session)


def test_while_a_window_is_read_again(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(session, 8)
    session.pin(system="z" * 15)  # the window holds more than now fits: it is read in parts, with sleeps in between
    interrupt(monkeypatch, UserArchive, "commit_snapshot", "before", lambda: session.window)
    assert kinds(session) == "t" * 8 + "p"
    interrupt(monkeypatch, LiveWindow, "read", "after", lambda: session.window, 1)
    assert_whole(session)
    assert kinds(session) == "t" * 8 + "ps"


def test_an_interrupted_opening_does_not_hold_the_session(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = opened()
    with memory.session("t") as session:
        fill(session, 3)
    interrupt(monkeypatch, LiveWindow, "read", "before", lambda: memory.session("t"))
    with memory.session("t") as session:
        assert_whole(session)


def test_a_real_ctrl_c_during_a_real_sleep(nap: Path, opened: Open, archive: Path) -> None:
    sleeper = child("interrupted", nap, archive, "t")
    assert sleeper.stdout is not None
    assert sleeper.stdout.readline() == "sleeping\n"
    with pytest.raises(subprocess.TimeoutExpired):
        sleeper.wait(0.3)  # it does sleep
    sleeper.send_signal(signal.SIGINT)
    out, error = sleeper.communicate(timeout=250)
    assert (out, sleeper.returncode) == ("interrupted\n2 True 0\n", 0), error
    with opened().session("t") as session:
        assert kinds(session) == "t" * 9 + "sts"
        assert_whole(session)
