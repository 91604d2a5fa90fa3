"""What the tests run in other processes: `python -m tests.memory.child COMMAND MODEL ARCHIVE THREAD …`"""

from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from agentsleep.archive import UserArchive
from agentsleep.backends import LiveWindow
from agentsleep.errors import AgentsleepError
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from tests.memory.helpers import FACT, NEVER, fill, same

torch.set_num_threads(1)


def report(memory: SleepMemory, thread: str) -> None:
    """Opens a session as a stranger would, tells what it finds, and says something."""
    with memory.session(thread, user="ada", tenant="acme", create=False) as session:
        logits = session.window.logits
        assert logits is not None
        found = {
            "fingerprint": memory.fingerprint,
            "window": session.window.ids,
            "head": session.head.id if session.head else None,
            "state": session.state.save().hex(),
            "replayed": same(session.replay(), session.state),
            "logits": logits.tolist(),
            "greedy": session.ask("who comes 2 after bob ?", remember=False, max_new_tokens=16).text,
        }
        session.add("user", "from the other process")
    print(json.dumps(found))


def hold(memory: SleepMemory, thread: str) -> None:
    """Holds a session until its input ends."""
    with memory.session(thread):
        print("held", flush=True)
        sys.stdin.read()


def add(memory: SleepMemory, thread: str, timeout: str) -> None:
    """Waits for the session, then says something."""
    print("waiting", flush=True)
    with memory.session(thread, timeout=float(timeout)) as session:
        session.add("user", FACT)
    print("added", flush=True)


def work(memory: SleepMemory, thread: str) -> None:
    """Adds, asks, streams and sleeps until it is killed; tells what was acknowledged, and only then."""
    with memory.session(thread, timeout=30.0) as session:
        for i in itertools.count(len(session.messages())):
            event = session.add("user", f"message {i}")
            told("event", event.seq, event.text)
            if i % 3 == 1:
                session.ask(f"question {i}", max_new_tokens=30, temperature=1.0, seed=i)
                told("event", session.messages()[-1].seq, str(session.messages()[-1].text))
            if i % 3 == 2:
                for _ in session.generate(stream=True, max_new_tokens=9, temperature=1.0, seed=i):
                    pass
                told("event", session.messages()[-1].seq, str(session.messages()[-1].text))
            if i % 5 == 2:
                snapshot = session.sleep(deep=i % 10 == 2, rounds=1, windows=2)
                if snapshot is not None:
                    told("snapshot", snapshot.id)


def told(*words: object) -> None:
    """One write, so that a kill cannot cut it; as JSON, for what a model says may hold anything."""
    print(json.dumps(words), flush=True)


def interrupted(memory: SleepMemory, thread: str) -> None:
    """Sleeps, for very long, until Ctrl-C; then goes on as if nothing had happened."""
    with memory.session(thread) as session:
        fill(session, 9)
        before = session.head.id if session.head else None
        print("sleeping", flush=True)
        try:
            session.sleep(passes=10**9)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        assert (session.head.id if session.head else None) == before
        session.add("user", FACT)
        session.sleep()
        print(len(session.history()), same(session.replay(), session.state), session.window_tokens, flush=True)


def die(memory: SleepMemory, thread: str, where: str) -> None:
    """Is killed at one particular place."""
    commit, append, read = UserArchive.commit_snapshot, UserArchive.append, LiveWindow.read

    def end() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def dying_commit(*args: object, **kwargs: object) -> object:
        done = commit(*args, **kwargs)  # type: ignore[arg-type]
        end()
        return done

    def dying_append(*args: object, **kwargs: object) -> object:
        done = append(*args, **kwargs)  # type: ignore[arg-type]
        end()
        return done

    def dying_read(self: LiveWindow, ids: list[int]) -> None:
        if len(self) + len(ids) == 48:  # the window is full: a sleep would be next
            end()
        read(self, ids)

    with memory.session(thread) as session:
        fill(session, 7)
        if where == "after the commit of a sleep":
            UserArchive.commit_snapshot = dying_commit  # type: ignore[method-assign,assignment]
            session.sleep()
        elif where == "in the middle of a turn":
            UserArchive.commit_snapshot = dying_commit  # type: ignore[method-assign,assignment]
            session.generate(max_new_tokens=40)
        elif where == "in the middle of a turn, at its second sleep":
            twice = iter((commit, dying_commit))
            UserArchive.commit_snapshot = lambda *a, **k: next(twice)(*a, **k)  # type: ignore[method-assign]
            session.generate(max_new_tokens=90, min_new_tokens=90, temperature=1.0, seed=11)
        elif where == "in the middle of a long message":
            UserArchive.commit_snapshot = dying_commit  # type: ignore[method-assign,assignment]
            session.add("user", "x" * 100)
        elif where == "between log and reading":
            UserArchive.append = dying_append  # type: ignore[method-assign,assignment]
            session.add("user", "x" * 100)
        elif where == "before a turn is logged":
            LiveWindow.read = dying_read  # type: ignore[method-assign,assignment]
            session.generate(max_new_tokens=40)
        elif where == "between a light and a deep sleep":
            UserArchive.commit_snapshot = dying_commit  # type: ignore[method-assign,assignment]
            session.sleep(deep=True)
        elif where == "within a deep sleep":
            twice = iter((commit, dying_commit))
            UserArchive.commit_snapshot = lambda *a, **k: next(twice)(*a, **k)  # type: ignore[method-assign]
            session.sleep(deep=True)
        raise AssertionError(f"lived on at {where!r}")


COMMANDS: dict[str, Callable[..., None]] = {
    "report": report,
    "hold": hold,
    "add": add,
    "work": work,
    "interrupted": interrupted,
    "die": die,
}


def run(command: str, model: str, archive: str, thread: str, *rest: str) -> None:
    """Runs a command on a memory of its own."""
    policy = SleepPolicy(passes=2) if command == "work" else NEVER
    with SleepMemory(Path(model), archive=Path(archive), policy=policy) as memory:
        COMMANDS[command](memory, thread, *rest)


def serve() -> None:
    """Forks for each line of its input, a JSON list of arguments: a start of Python with torch takes seconds.

    Tells the process id, and how the process ended.
    """
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            told("pid", os.getpid())
            try:
                run(*json.loads(line))
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        told("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["serve"]:
            serve()
        else:
            run(*sys.argv[1:])
    except AgentsleepError as error:
        sys.exit(f"{type(error).__name__}: {error}")
