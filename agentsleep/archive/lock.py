"""One writer a session: a lock that dies with its holder, and that says who holds it."""

from __future__ import annotations

import json
import math
import os
import socket
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from agentsleep.archive.postgres import PostgresDatabase
from agentsleep.archive.user import UserArchive
from agentsleep.errors import ArchiveError, SessionBusy, SettingsError

_POLL_S = 0.02

# Who holds what within this process: (database, session) → where it was taken. The operating system's lock would do
# between processes, but a database in memory has no file, and a second thread deserves an answer that names it.
_held: dict[tuple[str, str], str] = {}
_turn = threading.Condition()


def _after_fork() -> None:
    # A child holds nothing; its parent's locks are seen through the files.
    global _turn
    _held.clear()
    _turn = threading.Condition()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class SessionLock:
    """The right to write one session: `with SessionLock(archive, session_id): …`

    Held by one object at a time, over all threads and processes that use the same database. The operating system
    (SQLite: a lock file) or the server (PostgreSQL: an advisory lock) releases it when its process ends, however it
    ends. Release is idempotent and may come from another thread.

    Args:
        timeout: seconds to wait for another writer; 0 does not wait.

    Raises:
        SettingsError: `timeout` is negative or no finite number.

    On entering (or `acquire`):
        SessionBusy: another writer holds the session; the message names it.
        SessionNotFound: the archive has no such session.
        ArchiveError: the lock file cannot be made.
    """

    def __init__(self, archive: UserArchive, session_id: str, timeout: float = 0.0) -> None:
        if not (math.isfinite(timeout) and timeout >= 0):
            raise SettingsError(f"timeout must be a number of seconds, 0 or more, got {timeout!r}")
        self.session_id = session_id
        self.timeout = timeout
        self._archive = archive
        self._database = archive.database
        self._key = (self._database.name, session_id)
        self._held_by: int | None = None
        self._known = False
        self._line = 0
        self._file: FileLock | None = None
        self._info: Path | None = None
        if (path := self._database.path) is not None:
            self._folder = path.with_name(path.name + ".locks")

    @property
    def held(self) -> bool:
        """Whether this object holds the session now."""
        if isinstance(self._database, PostgresDatabase) and not self._database.keeps_locks(self._line):
            return False  # the connection broke, and the server gave all of its locks to others
        return self._held_by == os.getpid()

    def acquire(self) -> None:
        """What `with` does on entering."""
        if not self._known:
            self._archive.session(self.session_id)  # an id from outside never becomes a file name unless it is ours
            self._known = True
        deadline = time.monotonic() + self.timeout
        with _turn:
            while (place := _held.get(self._key)) is not None:
                if not _turn.wait(deadline - time.monotonic()) and self._key in _held:
                    raise self._busy(f"{place} of this process (pid {os.getpid()})")
            _held[self._key] = f"thread {threading.current_thread().name!r}"
        try:
            if isinstance(self._database, PostgresDatabase):
                self._acquire_advisory(self._database, deadline)
            elif self._database.path is not None:
                self._acquire_file(max(0.0, deadline - time.monotonic()))
            self._held_by = os.getpid()
        finally:
            if not self.held:
                self._leave()

    def release(self) -> None:
        """What `with` does on leaving; does nothing if the lock is not held."""
        if self._held_by != os.getpid():
            return
        self._held_by = None
        try:
            if isinstance(self._database, PostgresDatabase):
                self._database.unlock(self.session_id, self._line)
            elif self._file is not None and self._info is not None:
                with suppress(OSError):
                    self._info.unlink()
                self._file.release()
        finally:
            self._leave()

    def __enter__(self) -> SessionLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _leave(self) -> None:
        with _turn:
            _held.pop(self._key, None)
            _turn.notify_all()

    def _acquire_advisory(self, database: PostgresDatabase, deadline: float) -> None:
        while not (line := database.try_lock(self.session_id)):
            if time.monotonic() >= deadline:
                raise self._busy(database.holder(self.session_id))
            time.sleep(_POLL_S)
        self._line = line

    def _acquire_file(self, timeout: float) -> None:
        info = self._folder / f"{self.session_id}.json"
        lock = FileLock(self._folder / f"{self.session_id}.lock", thread_local=False)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=timeout, poll_interval=_POLL_S)
        except Timeout:
            raise self._busy(_holder(info)) from None
        except OSError as error:
            raise ArchiveError(
                f"the lock {lock.lock_file} cannot be taken: {error}; check that you may write to its folder"
            ) from error
        self._file, self._info = lock, info
        # Only the message of SessionBusy depends on it: a disk too full for it does not stop a writer here.
        with suppress(OSError):
            temporary = info.with_suffix(f".{os.getpid()}")
            since = datetime.now(UTC).isoformat(timespec="seconds")
            temporary.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}))
            temporary.replace(info)

    def _busy(self, holder: str) -> SessionBusy:
        return SessionBusy(
            f"session {self.session_id} is being written by {holder}; waited {self.timeout:g} s; "
            "wait longer (timeout=seconds), close the other writer, or fork the session"
        )


def _holder(info: Path) -> str:
    """Who holds a lock, by the note beside it; the note comes a moment after the lock."""
    for _ in range(10):
        try:
            note = json.loads(info.read_text())
            return f"process {note['pid']} on {note['host']} since {note['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            time.sleep(_POLL_S)
    return "another process"
