"""What the tests run in other processes: `python -m tests.archive.child COMMAND DATABASE …`"""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time

from sqlalchemy import Connection

from agentsleep.archive import Archive, SessionLock, migrate
from tests.archive.helpers import opened, said, slept


def hold(archive: Archive, session_id: str) -> None:
    """Holds a session until its input ends."""
    with SessionLock(archive.user("acme", "ada"), session_id):
        print("held", flush=True)
        sys.stdin.read()


def write(archive: Archive, session_id: str) -> None:
    """Appends and sleeps until it is killed; prints what was acknowledged, and only then."""
    ada = archive.user("acme", "ada")
    with SessionLock(ada, session_id):
        for i in itertools.count(ada.session(session_id).events):
            (event,) = ada.append(session_id, [said(i, i + 1, text=f"message {i}")])
            print("event", event.seq, *event.token_ids, flush=True)
            if i % 4 == 3:
                snapshot = slept(ada, session_id, f"state {i} ".encode() * 10_000)
                print("snapshot", snapshot.id, flush=True)


def append(archive: Archive, thread: str, count: str) -> None:
    """Appends `count` events, one transaction each."""
    ada = archive.user("acme", "ada")
    session = opened(ada, thread)
    for i in range(int(count)):
        ada.append(session.id, [said(i)])
    print("done", flush=True)


def count(archive: Archive) -> None:
    """How many sessions ada has: that it opened is what matters."""
    print(len(archive.user("acme", "ada").sessions()), flush=True)


def upgrade_and_die(database: str) -> None:
    """Killed when the upgrade is made, but not yet committed."""
    real = migrate.upgrade

    def then_die(connection: Connection, found: str) -> None:
        real(connection, found)
        print("upgraded", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    migrate.upgrade = then_die
    Archive(database)


if __name__ == "__main__":
    command, database, *rest = sys.argv[1:]
    if command == "count":
        print("ready", flush=True)
        time.sleep(max(0.0, float(rest.pop()) - time.time()))  # all of them at one moment
    if command == "upgrade_and_die":
        upgrade_and_die(database)
    with Archive(database) as opened_archive:
        {"hold": hold, "write": write, "append": append, "count": count}[command](opened_archive, *rest)
