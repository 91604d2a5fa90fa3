"""Facts are read and slept on; when they are gone from the window, questions are asked of what is left.

    python examples/quickstart.py

Offline, seconds. The archive lies in a temporary folder; leave ``archive=`` out to keep yours.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

from agentsleep import Session, SleepMemory
from agentsleep.tasks import rota


def main(seed: int = 0) -> None:
    """Twelve people who hand over to each other, told in random order."""
    episode = rota.sample_episode(np.random.default_rng(seed))
    first = episode.cycle[0]
    with (
        tempfile.TemporaryDirectory() as folder,
        SleepMemory(archive=Path(folder) / "memory.db") as memory,
        memory.session("rota", system=rota.SYSTEM) as session,
    ):
        for number, person in enumerate(episode.order, 1):
            session.add("tool", rota.fact(person, episode.successor(person)))
            if number % 4 == 0:
                session.sleep()  # light: this window; a window that fills up is slept on without being asked
        stats = session.stats()
        print(
            f"{stats.tokens} tokens were read, {stats.window_tokens} are in the window ({stats.pinned_tokens} pinned)"
        )
        print(f"{stats.snapshots} snapshots; the fast weights take {stats.state_bytes:,} bytes")
        print("\nafter light sleep:")
        _ask(session, episode, first)
        session.sleep(deep=True, rounds=1)  # between tasks: the archived windows are read once more
        print("\nafter deep sleep:")
        _ask(session, episode, first)


def _ask(session: Session, episode: rota.Episode, person: str) -> None:
    for depth in range(1, 7):
        question = episode.ask(depth, person)
        answer = session.ask(question.text, remember=False, max_new_tokens=8)  # asked of a fork: leaves no trace
        verdict = "right" if answer.text == question.answer else f"wrong, it is {question.answer}"
        print(f"  {question.text:<28} {answer.text[:24]:<12} {verdict}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
