"""What the tests run in other processes: `python -m tests.archive.child COMMAND DATABASE …`"""

from __future__ import annotations

import itertools
import sys

from agentsleep.archive import Archive, SessionLock
from tests.archive.helpers import opened, said, slept


def hold(archive: Archive, session_id: str) -> None:
    """Holds a session until its input ends."""
    with SessionLock(archive, session_id):
        print("held", flush=True)
        sys.stdin.read()


def write(archive: Archive, session_id: str) -> None:
    """Appends and sleeps until it is killed; prints what was acknowledged, and only then."""
    with SessionLock(archive, session_id):
        for i in itertools.count(archive.session(session_id).events):
            (event,) = archive.append(session_id, [said(i, i + 1, text=f"message {i}")])
            print("event", event.seq, *event.token_ids, flush=True)
            if i % 4 == 3:
                snapshot = slept(archive, session_id, f"state {i} ".encode() * 10_000)
                print("snapshot", snapshot.id, flush=True)


def append(archive: Archive, thread: str, count: str) -> None:
    """Appends `count` events, one transaction each."""
    session = opened(archive, thread)
    for i in range(int(count)):
        archive.append(session.id, [said(i)])
    print("done", flush=True)


if __name__ == "__main__":
    command, database, *rest = sys.argv[1:]
    with Archive(database) as opened_archive:
        {"hold": hold, "write": write, "append": append}[command](opened_archive, *rest)
