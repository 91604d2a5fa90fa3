"""What only a memory in SQL can do: look back, compare two policies, take a day back, and forget for good.

    python examples/change_of_mind.py

Offline, seconds, on the shipped model and a database that is thrown away.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from agentsleep import Session, SleepMemory, SleepPolicy

MONDAY = ("bob hands over to alice .", "alice hands over to dave .", "dave hands over to carol .")
TUESDAY = ("carol hands over to erin .", "my number is 5550199 .", "erin hands over to frank .")
QUESTION = "who comes 3 after bob ?"


def day(session: Session, facts: tuple[str, ...], name: str) -> None:
    """Hears the facts of a day and sleeps on them."""
    for fact in facts:
        session.add("tool", fact)
    session.sleep()
    session.tag(name)


def main() -> None:
    """One session, and what can be done with it afterwards."""
    with tempfile.TemporaryDirectory() as folder, SleepMemory(archive=Path(folder) / "memory.db") as memory:
        session = memory.session("rota")
        day(session, MONDAY, "monday")
        day(session, TUESDAY, "tuesday")
        monday, tuesday = session.history()

        print("what tuesday changed, by layer:")
        for layer in session.diff(monday, tuesday).layers:
            print(f"  {layer.label}: {layer.total.relative:.2f} of its norm")

        print("\nthe same days, slept on after every other message, four passes or one:")
        policies = [SleepPolicy(trigger=("messages", 2), passes=passes) for passes in (4, 1)]
        found = memory.compare_policies(session, *policies, questions=[QUESTION], max_new_tokens=8)
        for side in (found.a, found.b):
            print(f"  {side.passes} passes in {side.sleeps} sleeps: {QUESTION} {side.answers[0]}")

        number = next(event for event in session.messages() if event.text and "5550199" in event.text)
        report = memory.forget(session, [number.seq])
        print(f"\nforgotten: {report.messages} message and {report.snapshots} state that had seen it")
        for event in session.messages():
            print(f"  still there: {event.text}")

        session = memory.rollback(session, monday, aside="rota, as it was on tuesday")
        print(f"\nback to {session.head.tag if session.head else None}; threads:")
        for record in memory.sessions():
            print(f"  {record.scope.thread}: {record.tokens} tokens read")
        session.close()


if __name__ == "__main__":
    main()
