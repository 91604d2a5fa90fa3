"""What a commit waits for, and that a process that is killed takes nothing back under either setting."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from agentsleep.archive import Archive
from agentsleep.errors import SettingsError
from tests.archive.helpers import opened
from tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import os, signal, sys
from agentsleep.archive import Archive, NewEvent
archive = Archive(sys.argv[1], synchronous=sys.argv[2])
ada = archive.user("acme", "ada")
session = ada.open_session("t", fingerprint="f" * 64, settings={})
for i in range(50):
    ada.append(session.id, [NewEvent(kind="tokens", role="user", token_ids=(i,), text=str(i))])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("chosen", "level"), [({}, 2), ({"synchronous": "FULL"}, 2), ({"synchronous": "NORMAL"}, 1)])
def test_the_setting_holds_on_every_connection(path: Path, chosen: dict[str, Any], level: int) -> None:
    with Archive(path, **chosen) as archive:
        opened(archive.user("acme", "ada"))
        with archive.database.reading() as first, archive.database.reading() as second:
            for tx in (first, second):
                assert tx.scalar(text("PRAGMA synchronous")) == level
                assert tx.scalar(text("PRAGMA journal_mode")) == "wal"


@pytest.mark.parametrize(("chosen", "level"), [("FULL", "on"), ("NORMAL", "off")])
def test_the_setting_holds_on_the_servers_connections(
    own_postgres: str, postgres_server: PostgresServer, chosen: Any, level: str
) -> None:
    # The server of the tests waits for no disk: its database is told to, for FULL leaves a server's own setting alone.
    with postgres_server.connect(own_postgres, autocommit=True) as admin:
        admin.execute(f"ALTER DATABASE {own_postgres} SET synchronous_commit = on")
    with Archive(postgres_server.url(own_postgres), synchronous=chosen) as archive:
        for begin in (archive.database.reading, archive.database.writing):
            with begin() as tx:
                assert tx.scalar(text("SHOW synchronous_commit")) == level


@pytest.mark.parametrize("wrong", ["OFF", "normal", "", None, 1, "NORMAL; DROP TABLE sessions"])
def test_another_setting_is_refused_before_the_file_is_made(path: Path, wrong: Any) -> None:
    with pytest.raises(SettingsError, match="it must be one of"):
        Archive(path, synchronous=wrong)
    assert not path.exists()


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_a_killed_process_takes_nothing_back(where: str, synchronous: str) -> None:
    done = subprocess.run([sys.executable, "-c", CHILD, where, synchronous], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Archive(where) as archive:
        ada = archive.user("acme", "ada")
        (session,) = ada.sessions()
        assert [event.text for event in ada.events(session.id)] == [str(i) for i in range(50)]
