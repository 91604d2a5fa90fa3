"""The lock files beside an SQLite file."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from agentsleep.archive import SessionLock, UserArchive
from agentsleep.errors import ArchiveError, SessionBusy, SessionNotFound
from tests.archive.helpers import child, opened


@pytest.fixture
def where(path: Path) -> str:
    return str(path)


@pytest.mark.parametrize("name", ["nobody", "../../escape", "", "a/b"])
def test_only_sessions_that_exist_are_locked(ada: UserArchive, path: Path, name: str) -> None:
    lock = SessionLock(ada, name)
    with pytest.raises(SessionNotFound):
        lock.acquire()
    assert not path.with_name(path.name + ".locks").exists()


def test_a_folder_that_cannot_be_made(ada: UserArchive, path: Path) -> None:
    session = opened(ada)
    blocker = path.with_name(path.name + ".locks")
    blocker.write_text("not a folder")
    with pytest.raises(ArchiveError, match="cannot be taken"):
        SessionLock(ada, session.id).acquire()
    blocker.unlink()
    with SessionLock(ada, session.id):  # the failure left nothing held
        pass


def test_the_note_beside_the_lock_names_the_holder(ada: UserArchive, path: Path) -> None:
    session = opened(ada)
    note = path.with_name(path.name + ".locks") / f"{session.id}.json"
    holder = child("hold", path, session.id)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SessionBusy, match=f"process {holder.pid} on .* since 20"):
            SessionLock(ada, session.id, timeout=1).acquire()
        # Nobody knows the holder without its note, but the lock stands.
        assert json.loads(note.read_text())["pid"] == holder.pid
        note.write_text("{")
        with pytest.raises(SessionBusy, match="another process"):
            SessionLock(ada, session.id).acquire()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with SessionLock(ada, session.id):
            assert json.loads(note.read_text())["pid"] == os.getpid()
        assert not note.exists()
    finally:
        holder.kill()
        holder.communicate()
