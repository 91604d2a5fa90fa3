"""SIGKILL: at particular places, and at any moment."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from agentsleep.memory import SleepMemory
from agentsleep.memory.session import Session
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, Trace, assert_whole, child, events, fill, kinds, stream_of

T7 = "t" * 7


@pytest.mark.parametrize(
    ("where", "found", "reopened"),
    [
        ("after the commit of a sleep", T7 + "s", T7 + "s"),
        ("in the middle of a turn", T7 + "ts", T7 + "tst"),  # the turn gets its end
        ("in the middle of a turn, at its second sleep", T7 + "tsts", T7 + "tstst"),
        ("in the middle of a long message", T7 + "ts", T7 + "tss"),  # what was heard is slept on, and the rest is read
        ("between log and reading", T7 + "t", T7 + "tss"),
        ("before a turn is logged", T7, T7),
        ("between a light and a deep sleep", T7 + "s", T7 + "s"),
        ("within a deep sleep", T7 + "sd", T7 + "sd"),
    ],
)
def test_killed_at_a_particular_place(
    opened: Open, nap: Path, archive: Path, where: str, found: str, reopened: str
) -> None:
    dying = child("die", nap, archive, "t", where)
    out, error = dying.communicate(timeout=250)
    assert (out, dying.returncode) == ("ready\n", -signal.SIGKILL), error
    memory = opened()
    (record,) = memory.sessions()
    assert letters(memory, record.id) == found
    with memory.session("t") as session:
        assert kinds(session) == reopened
        assert [m.text for m in session.messages()[:7]] == [m.text for m in told(memory)]
        assert_whole(session)
        if "turn" in where and reopened != found:
            last = session.messages()[-1]
            assert last.token_ids == (memory.chat.end,)
            assert last.data == {"generated": True, "cut": True}
            written = [token for m in session.messages()[7:] for token in m.token_ids]
            assert written.count(memory.chat.end) == 1
            assert memory.chat.parse(written[1:-1]).text == last.text != ""
        fill(session, 3)
        session.sleep(deep=True)
        assert_whole(session)
        trace = Trace.of(session)
    with opened().session("t") as session:
        Trace.of(session).assert_near(trace)


def letters(memory: SleepMemory, session_id: str) -> str:
    return "".join(event.kind[0] for event in memory.archive.events(session_id))


def told(memory: SleepMemory) -> list[object]:
    with memory.session("another") as session:
        fill(session, 7)
        return list(session.messages())


def kill(opened: Open, nap: Path, archive: Path, kills: int, seed: int) -> None:
    delays = random.Random(seed)
    said: dict[int, str] = {}
    snapshots: list[str] = []
    for _ in range(kills):
        worker = child("work", nap, archive, "t")
        assert worker.stdout is not None
        lines = [worker.stdout.readline()]
        time.sleep(delays.uniform(0.0, 0.6))
        worker.send_signal(signal.SIGKILL)
        rest, error = worker.communicate(timeout=250)
        assert worker.returncode == -signal.SIGKILL, error
        for line in [*lines, *rest.splitlines(keepends=True)]:
            if not line.endswith("\n"):
                continue  # killed while it spoke: that was not yet said
            kind, *values = line.split(maxsplit=2)
            if kind == "event":
                said[int(values[0])] = values[1].strip() if len(values) > 1 else ""
            else:
                snapshots += values
        with opened().session("t") as session:
            check(session, said, snapshots)
    assert len(said) > 2 * kills
    assert snapshots


def check(session: Session, said: dict[int, str], snapshots: list[str]) -> None:
    log = {event.seq: event for event in events(session)}
    for seq, text in said.items():
        logged = log[seq].text or ""
        assert (logged if log[seq].role == "user" else logged.encode().hex()) == text
    history = session.history()
    assert set(snapshots) <= {one.id for one in history}
    assert_whole(session)
    ends = stream_of(session).count(session._chat.end)
    assert ends >= len([m for m in session.messages() if not m.data.get("open")])
    session.ask("question", remember=False, max_new_tokens=4)


def test_killed_at_any_moment(opened: Open, nap: Path, archive: Path) -> None:
    kill(opened, nap, archive, kills=2, seed=1)


@pytest.mark.slow
def test_killed_at_any_moment_many_times(opened: Open, nap: Path, archive: Path) -> None:
    kill(opened, nap, archive, kills=40, seed=2)


def test_a_session_that_was_never_closed(opened: Open) -> None:
    """The object is gone without a close, as after a crash within one process."""
    memory = opened()
    session = memory.session("t")
    fill(session, 9)
    session.add("user", FACT)
    trace = Trace.of(session)
    session._desk._lock.release()
    with memory.session("t") as again:
        Trace.of(again).assert_near(trace)
