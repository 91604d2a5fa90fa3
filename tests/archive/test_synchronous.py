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

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import os, signal, sys
from agentsleep.archive import Archive, NewEvent, Scope
archive = Archive(sys.argv[1], synchronous=sys.argv[2])
session = archive.open_session(Scope(tenant="acme", user="ada", thread="t"), fingerprint="f" * 64, settings={})
for i in range(50):
    archive.append(session.id, [NewEvent(kind="tokens", role="user", token_ids=(i,), text=str(i))])
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("chosen", "level"), [({}, 2), ({"synchronous": "FULL"}, 2), ({"synchronous": "NORMAL"}, 1)])
def test_the_setting_holds_on_every_connection(path: Path, chosen: dict[str, Any], level: int) -> None:
    with Archive(path, **chosen) as archive:
        opened(archive)
        with archive._db.reading() as first, archive._db.reading() as second:
            for tx in (first, second):
                assert tx.scalar(text("PRAGMA synchronous")) == level
                assert tx.scalar(text("PRAGMA journal_mode")) == "wal"


@pytest.mark.parametrize("wrong", ["OFF", "normal", "", None, 1, "NORMAL; DROP TABLE sessions"])
def test_another_setting_is_refused_before_the_file_is_made(path: Path, wrong: Any) -> None:
    with pytest.raises(SettingsError, match="it must be one of"):
        Archive(path, synchronous=wrong)
    assert not path.exists()


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_a_killed_process_takes_nothing_back(path: Path, synchronous: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(path), synchronous], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    with Archive(path) as archive:
        (session,) = archive.sessions("acme", "ada")
        assert [event.text for event in archive.events(session.id)] == [str(i) for i in range(50)]
