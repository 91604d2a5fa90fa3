"""The agent's part: it looks everybody up with its tool, hears small talk in between, and sleeps when it must."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from agentsleep.archive import Snapshot
from agentsleep.demo.table import RotaTable
from agentsleep.demo.watching import Status, Watcher
from agentsleep.errors import ToolError
from agentsleep.memory import Agent, Session, SleepMemory
from agentsleep.tasks import rota

MOST_CALLS = 2  # in one turn; one is right


@dataclass
class Conversation:
    """What came of it.

    called: the people whom the agent looked up by itself, with the right call.
    handed: those whose fact it was given as a tool's message because it did not.
    """

    thread: str
    passes: int
    called: list[str] = field(default_factory=list)
    handed: list[str] = field(default_factory=list)
    tokens: int = 0
    snapshots: list[Snapshot] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "thread": self.thread,
            "passes": self.passes,
            "tokens": self.tokens,
            "tool_calls": {"wanted": len(self.called) + len(self.handed), "right": len(self.called)},
            "handed": self.handed,
            "snapshots": [snapshot_record(snapshot) for snapshot in self.snapshots],
        }


def snapshot_record(snapshot: Snapshot) -> dict[str, Any]:
    """What the demonstration tells of a snapshot, as JSON."""
    return {
        "id": snapshot.id,
        "parent": snapshot.parent,
        "mode": snapshot.mode,
        "trigger": snapshot.trigger,
        "passes": snapshot.passes,
        "rounds": snapshot.rounds,
        "tokens": snapshot.tokens,
        "state_bytes": snapshot.state_bytes,
        "ms": snapshot.metrics["ms"],
    }


def converse(
    memory: SleepMemory,
    thread: str,
    passes: int,
    episode: rota.Episode,
    table: RotaTable,
    watcher: Watcher,
    *,
    pace: float = 0.0,
) -> Conversation:
    """Runs the agent in a new thread until it has seen the whole rota and slept on it, its tools withdrawn.

    Args:
        pace: seconds to wait after each turn, for someone who watches.
    """
    result = Conversation(thread, passes)
    with memory.session(thread, system=rota.SYSTEM) as session:
        agent = Agent(session, [table.look_up], max_steps=MOST_CALLS)
        show = _reporter(session, f"{thread}: passes {passes}", watcher, pace)
        for person in episode.order:
            for text in episode.talk.get(person, ()):
                _turn(agent, text)
                show()
            before = len(table.asked)
            _turn(agent, rota.request(person))
            if table.asked[before:] == [person]:
                result.called.append(person)
            else:
                result.handed.append(person)
                if person not in table.asked[before:]:
                    session.add("tool", table.read(person))
            show()
        session.pin(tools=[])
        session.sleep()
        show()
        result.tokens, result.snapshots = session.tokens, session.history()
    return result


def _turn(agent: Agent, text: str) -> None:
    with suppress(ToolError):  # it went on calling; the log holds what it said
        agent.run(text)


def _reporter(session: Session, title: str, watcher: Watcher, pace: float) -> Callable[[], None]:
    """Tells the watcher what has happened since it was called last."""
    seen_events, seen_snapshots = 0, 0

    def show() -> None:
        nonlocal seen_events, seen_snapshots
        messages, history, stats = session.messages(), session.history(), session.stats()
        watcher.status(
            Status(
                title=title,
                window_tokens=stats.window_tokens,
                capacity=stats.window_capacity,
                tokens=stats.tokens,
                snapshots=len(history),
                turn=tuple((m.role or "", m.text or "…") for m in messages[seen_events:]),
                slept=tuple(history[seen_snapshots:]),
            )
        )
        seen_events, seen_snapshots = len(messages), len(history)
        if pace:
            time.sleep(pace)

    return show


def told_in(session: Session, people: Sequence[str]) -> list[str]:
    """Those of ``people`` whose fact stands in a session's log as a tool's message, in the order of ``people``."""
    told = {message.text for message in session.messages() if message.role == "tool"}
    return [person for person in people if any(text and text.startswith(f"{person} hands over to ") for text in told)]
