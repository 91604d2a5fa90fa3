"""SIGKILL: at particular places, and at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsleep.memory import Session, SleepMemory
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, Trace, assert_whole, child, events, fill, kinds, stream_of

T7 = "t" * 7


class Server:
    """A process that forks for whatever is to be killed."""

    def __init__(self) -> None:
        self.process = child("serve")

    def start(self, *arguments: object) -> int:
        """Its process id."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([*map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        word, pid = self.hear()
        assert word == "pid"
        return int(pid)

    def hear(self) -> list[Any]:
        """What it, or the process that it forked, says next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        said: list[Any] = json.loads(line)
        return said

    def until_the_end(self) -> tuple[list[list[Any]], int]:
        """What is said before the forked process has ended, and how it ended."""
        said = []
        while (line := self.hear())[0] != "ended":
            said.append(line)
        return said, line[1]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    try:
        _, error = server.process.communicate("", timeout=250)
    except subprocess.TimeoutExpired:
        server.process.kill()
        raise
    assert server.process.returncode == 0, error


@pytest.mark.parametrize(
    ("where", "found", "reopened"),
    [
        ("after the commit of a sleep", T7 + "s", T7 + "s"),
        ("in the middle of a turn", T7 + "ts", T7 + "tst"),  # the turn gets its end
        ("in the middle of a turn, at its second sleep", T7 + "tsts", T7 + "tstst"),
        ("in the middle of a long message", T7 + "ts", T7 + "tsss"),  # the rest of it is read, and slept on
        ("between log and reading", T7 + "t", T7 + "tsss"),
        ("before a turn is logged", T7, T7),
        ("between a light and a deep sleep", T7 + "s", T7 + "s"),
        ("within a deep sleep", T7 + "sd", T7 + "sd"),
    ],
)
def test_killed_at_a_particular_place(
    server: Server, opened: Open, nap: Path, archive: Path, where: str, found: str, reopened: str
) -> None:
    server.start("die", nap, archive, "t", where)
    assert server.until_the_end() == ([], -signal.SIGKILL)
    memory = opened()
    (record,) = memory.sessions()
    assert "".join(event.kind[0] for event in memory.archive.user("default", "default").events(record.id)) == found
    with memory.session("t") as session:
        assert kinds(session) == reopened
        assert [m.text for m in session.messages()[:7]] == told(memory)
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


def told(memory: SleepMemory) -> list[str | None]:
    with memory.session("another") as session:
        fill(session, 7)
        return [m.text for m in session.messages()]


def kill(server: Server, opened: Open, nap: Path, archive: Path, kills: int, seed: int) -> None:
    """Each time after some words, and a moment more."""
    chance = random.Random(seed)
    said: dict[int, str] = {}
    snapshots: set[str] = set()
    for _ in range(kills):
        pid = server.start("work", nap, archive, "t")
        lines = [server.hear() for _ in range(chance.randint(1, 14))]
        time.sleep(chance.uniform(0.0, 0.1))
        os.kill(pid, signal.SIGKILL)
        rest, status = server.until_the_end()
        assert status == -signal.SIGKILL
        for kind, value, *text in [*lines, *rest]:
            if kind == "event":
                said[value] = text[0]
            else:
                snapshots.add(value)
        with opened().session("t") as session:
            check(session, said, snapshots)
    assert len(said) > 2 * kills
    assert snapshots


def check(session: Session, said: dict[int, str], snapshots: set[str]) -> None:
    log = {event.seq: event.text for event in events(session)}
    assert said.items() <= log.items()
    assert snapshots <= {one.id for one in session.history()}
    assert_whole(session)
    turns = [m for m in session.messages() if not m.data.get("open")]
    assert stream_of(session).count(session._chat.end) >= len(turns)
    assert all(m.token_ids[-1] == session._chat.end for m in turns)
    session.ask("question", remember=False, max_new_tokens=4)


def test_killed_at_any_moment(server: Server, opened: Open, nap: Path, archive: Path) -> None:
    kill(server, opened, nap, archive, kills=6, seed=1)


@pytest.mark.slow
def test_killed_at_any_moment_many_times(server: Server, opened: Open, nap: Path, archive: Path) -> None:
    kill(server, opened, nap, archive, kills=60, seed=2)


def test_a_session_that_was_never_closed(opened: Open) -> None:
    """The object is gone without a close, as after a crash within one process."""
    memory = opened()
    session = memory.session("t")
    fill(session, 9)
    session.add("user", FACT)
    trace = Trace.of(session)
    session.desk._lock.release()
    with memory.session("t") as again:
        Trace.of(again).assert_near(trace)
