"""A crash between the commit of a snapshot and the checkpoint: nothing is lost, and nothing is read twice.

``python -m tests.test_crash`` is the process that is killed; it forks for each run.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from tests.agents import LOOK, Actor, agent_of, assert_same, handle_in, opened_at, told
from tests.talk import FACTS, NEVER, Open, assert_whole, config, heard

from agentsleep.memory import SleepMemory
from langchain_agentsleep import SleepMiddleware

ROOT = Path(__file__).parents[1]
TALK = [FACTS[0], LOOK, FACTS[1]]
PUTS = 21
"""Checkpoints of an undisturbed run, see :func:`test_an_undisturbed_run`."""
Tell = Callable[[int, str], None]


def agent_with(memory: SleepMemory, saver: Any) -> Any:
    """It sleeps in the middle of its second turn, and behind each one."""
    sleepy = SleepMiddleware(memory, trigger=("messages", 3), keep=("messages", 1))
    return agent_of(Actor(memory), sleepy, saver=saver)


def drive(agent: Any, thread: str, done: int, durability: Any, tell: Tell) -> None:
    """Goes on where a crash has left a conversation: a run that had begun is done to its end; one that had not begins
    again, with the message's own id."""
    for number in range(done, len(TALK)):
        said, past = HumanMessage(TALK[number], id=f"{thread} {number}"), agent.get_state_history(config(thread))
        begun = any(said.id == one.id for state in past for one in state.values.get("messages", []))
        found = agent.invoke(None if begun else {"messages": [said]}, config(thread), durability=durability)
        tell(number, found["messages"][-1].text)


class Counting:
    """Calls ``at`` before a put of that number."""

    puts, number, at = 0, 0, staticmethod(lambda: None)

    def put(self, *args: Any, **options: Any) -> Any:
        self.puts += 1
        if self.puts == self.number:
            self.at()
        return super().put(*args, **options)  # type: ignore[misc]


class InMemory(Counting, InMemorySaver):
    """In this process."""


class InFile(Counting, SqliteSaver):
    """In a file."""


def compare(memory: SleepMemory, agent: Any, thread: str, whole: SleepMemory, undisturbed: Any) -> None:
    """A conversation that was broken off with one that was not."""
    ours, theirs = (one.get_state(config(name)).values for one, name in ((agent, thread), (undisturbed, "t")))
    assert [one.text for one in ours["messages"]] == [one.text for one in theirs["messages"]]
    with (
        opened_at(memory, handle_in(agent, thread)) as session,
        opened_at(whole, handle_in(undisturbed), NEVER) as plain,
    ):
        assert told(session) == told(plain)
        assert [one.mode for one in session.history()] == [one.mode for one in plain.history()]
        assert_same(session, plain)
        assert_whole(session)
        known = [one.id for one in heard(memory, session.scope.thread) if one.id is not None]
        assert len(known) == len(set(known)), "each message once"


# In this process


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Sleeps only when it must."""
    return opened(window=160)


@pytest.fixture
def undisturbed(opened: Open) -> tuple[SleepMemory, Any, list[str]]:
    """A run that nothing breaks off."""
    memory, answers = opened(where=":memory:", window=160), []
    agent = agent_with(memory, InMemory())
    drive(agent, "t", 0, "sync", lambda number, text: answers.append(text))
    return memory, agent, answers


def test_an_undisturbed_run(undisturbed: tuple[SleepMemory, Any, list[str]]) -> None:
    memory, agent, _ = undisturbed
    assert agent.checkpointer.puts == PUTS
    with opened_at(memory, handle_in(agent)) as session:
        assert [one.trigger for one in session.history()].count("asked") == len(TALK)
        assert "policy" in [one.trigger for one in session.history()]


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_a_checkpoint_that_cannot_be_written(
    memory: SleepMemory, undisturbed: tuple[SleepMemory, Any, list[str]], durability: str
) -> None:
    """Every other one, in a thread of its own."""
    whole, other, expected = undisturbed

    def full() -> None:
        raise OSError("no space left")

    for number in range(1, PUTS + 1, 2 if durability == "sync" else 5):
        saver = InMemory()
        saver.number, saver.at = number, full  # type: ignore[assignment]
        agent, thread, answers = agent_with(memory, saver), f"thread {number}", dict[int, str]()
        with pytest.raises(OSError, match="no space"):
            drive(agent, thread, 0, durability, answers.__setitem__)
        drive(agent, thread, len(answers), durability, answers.__setitem__)
        assert list(answers.values()) == expected, number
        compare(memory, agent, thread, whole, other)


# In another one


class Server:
    """A process that forks for whatever is to be killed."""

    def __init__(self, nap: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.test_crash", str(nap)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object) -> tuple[list[tuple[int, str]], int]:
        """The answers that were told, and how the run ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([*map(str, arguments)]) + "\n")
        self.process.stdin.flush()
        said = []
        while True:
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            number, text = json.loads(line)
            if number is None:
                return said, text
            said.append((number, text))


@pytest.fixture(scope="module")
def server(nap: Path) -> Iterator[Server]:
    server = Server(nap)
    yield server
    _, error = server.process.communicate("", timeout=120)
    assert server.process.returncode == 0, error


@pytest.mark.parametrize("durability", ["sync", "async"])
def test_killed_before_a_checkpoint(
    server: Server,
    opened: Open,
    undisturbed: tuple[SleepMemory, Any, list[str]],
    archive: Path,
    tmp_path: Path,
    durability: str,
) -> None:
    """Again and again, each process a few checkpoints further."""
    whole, other, expected = undisturbed
    checkpoints, answers, kills = tmp_path / "threads.db", dict[int, str](), 0
    for step in [4, 5, 6, 5, 4, 5, 0]:
        said, status = server.run(archive, checkpoints, len(answers), step, durability)
        answers |= dict(said)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    assert kills >= 3
    assert list(answers.values()) == expected
    memory = opened(window=160)
    with SqliteSaver.from_conn_string(str(checkpoints)) as saver:
        compare(memory, agent_with(memory, saver), "t", whole, other)


def work(nap: str, archive: str, checkpoints: str, done: str, number: str, durability: str) -> None:
    """Goes on with the conversation until it is killed."""
    memory = SleepMemory(nap, archive=archive, policy=NEVER, settings={"window": 160})
    with InFile.from_conn_string(checkpoints) as saver:
        assert isinstance(saver, InFile)
        saver.number = int(number)
        saver.at = lambda: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        drive(agent_with(memory, saver), "t", int(done), durability, told_to_parent)
    memory.close()


def told_to_parent(number: int | None, text: str | int) -> None:
    """One write, so that a kill cannot cut it."""
    print(json.dumps([number, text]), flush=True)


def serve(nap: str) -> None:
    """A fork for each line of the input."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(nap, *json.loads(line))
                code = 0
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        told_to_parent(None, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    serve(sys.argv[1])
