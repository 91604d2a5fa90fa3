"""A session is reopened by a new process, replayed from its log, and an earlier state of it is forked.

    python examples/fork_and_restore.py

Offline, seconds. The first process writes and ends; the second one, which this script starts, has only the archive.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from agentsleep import Session, SleepMemory

MORNING = ("bob hands over to alice .", "alice hands over to dave .")
EVENING = ("dave hands over to erin .", "erin hands over to bob .")
QUESTIONS = ("who comes 1 after bob ?", "who comes 1 after dave ?")


def write(archive: Path) -> None:
    """Two sleeps, hence two snapshots."""
    with SleepMemory(archive=archive) as memory, memory.session("rota") as session:
        for part in (MORNING, EVENING):
            for fact in part:
                session.add("tool", fact)
            snapshot = session.sleep()
            assert snapshot is not None
            session.archive.tag(snapshot.id, "evening" if part is EVENING else "morning")
        show("the session, in the process that wrote it", session)


def restore(archive: Path) -> None:
    """In another process: the same session, its replay, and a fork of its first snapshot."""
    with SleepMemory(archive=archive) as memory, memory.session("rota", create=False) as session:
        show("the session, reopened by another process", session)
        apart = session.replay().diff(session.state)
        print(f"replayed from the log: largest difference {max(apart.values()):g}\n")
        for snapshot in session.history():
            print(
                f"snapshot {snapshot.id[:8]}  {snapshot.tag}  parent {(snapshot.parent or 'none')[:8]}  {snapshot.mode}"
            )
        with memory.fork(session.history()[0], "what-if") as branch:
            show("\na fork of the morning, which knows nothing of the evening", branch)


def show(title: str, session: Session) -> None:
    """Asks without leaving a trace."""
    print(f"{title} ({session.scope.thread}, {session.tokens} tokens read)")
    for question in QUESTIONS:
        print(f"  {question:<26} {session.ask(question, remember=False, max_new_tokens=8)}")
    print()


def main() -> None:
    """Writes here, restores there."""
    if len(sys.argv) > 1:
        restore(Path(sys.argv[1]))
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "memory.db"
        write(archive)
        sys.stdout.flush()
        subprocess.run([sys.executable, __file__, str(archive)], check=True)


if __name__ == "__main__":
    main()
