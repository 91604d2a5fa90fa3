"""SleepMemory: the one class a user must know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from agentsleep.archive import Archive, Scope, SessionRecord, Snapshot, default_archive
from agentsleep.backends import load_backend
from agentsleep.chat import Chat
from agentsleep.errors import FingerprintMismatch
from agentsleep.memory.session import Session
from agentsleep.memory.toolbox import Tool, Toolbox
from agentsleep.policy import SleepPolicy


class SleepMemory:
    """A model that sleeps, and the archive of its states.

    Args:
        model: a checkpoint directory; None takes nap-mini, which comes with the package.
        archive: a database file or SQLAlchemy URL; None takes the user's data folder; ":memory:" keeps nothing.
        policy: when to sleep.

    Raises:
        CheckpointMissing, CheckpointDamaged: the model cannot be loaded.
        ArchiveError: the archive cannot be opened.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        archive: str | Path | None = None,
        policy: SleepPolicy | None = None,
    ) -> None:
        self.backend = load_backend(model)
        self.chat = Chat(self.backend.tokenizer)
        self.policy = policy or SleepPolicy()
        self.archive = Archive(default_archive() if archive is None else archive)

    @property
    def fingerprint(self) -> str:
        """Of the model: only it can use the states that it wrote."""
        return self.backend.fingerprint

    def __enter__(self) -> SleepMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the archive."""
        self.archive.close()

    def session(
        self,
        thread: str = "default",
        *,
        user: str = "default",
        tenant: str = "default",
        system: str | None = None,
        tools: Sequence[Tool] | Toolbox = (),
        timeout: float = 0.0,
        create: bool = True,
    ) -> Session:
        """Opens a thread of a user, with all it remembers; a new one is made if there is none.

        Args:
            system: the system message, read again at the head of every window; None keeps the stored one.
            tools: the tools on offer, callables or :class:`Tool`, pinned likewise. None are offered by default.
            timeout: seconds to wait for another writer of the session.
            create: False raises SessionNotFound instead of making a new session.

        Raises:
            SessionBusy: another writer holds it.  FingerprintMismatch: it belongs to another model.
            SnapshotDamaged: its newest state is damaged.
        """
        scope = Scope(tenant=tenant, user=user, thread=thread)
        record = self.archive.open_session(scope, fingerprint=self.fingerprint, settings={}, create=create)
        return self._open(record, system, tools, timeout)

    def fork(
        self,
        snapshot: Snapshot,
        thread: str | None = None,
        *,
        tools: Sequence[Tool] | Toolbox = (),
        timeout: float = 0.0,
    ) -> Session:
        """A new session of the same user that goes on from an archived state and knows nothing that came later.

        Args:
            thread: its name; by default one that is free, after the thread it came from.

        Raises:
            SnapshotNotFound: the archive has no such snapshot.  InputError: the thread exists already.
        """
        origin = self.archive.session(snapshot.session_id).scope
        taken = {record.scope.thread for record in self.sessions(user=origin.user, tenant=origin.tenant)}
        name = thread or f"{origin.thread}@{snapshot.id[:8]}"
        number = 2
        while thread is None and name in taken:
            name, number = f"{origin.thread}@{snapshot.id[:8]}-{number}", number + 1
        if snapshot.fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"snapshot {snapshot.id} belongs to model {snapshot.fingerprint[:12]}, this memory runs "
                f"{self.fingerprint[:12]}; fork it with the model that wrote it"
            )
        record = self.archive.fork(snapshot.id, Scope(tenant=origin.tenant, user=origin.user, thread=name))
        return self._open(record, None, tools, timeout)

    def sessions(self, *, user: str = "default", tenant: str = "default") -> list[SessionRecord]:
        """All threads of one user, oldest first."""
        return self.archive.sessions(tenant, user)

    def _open(
        self, record: SessionRecord, system: str | None, tools: Sequence[Tool] | Toolbox, timeout: float
    ) -> Session:
        box = tools if isinstance(tools, Toolbox) else Toolbox(tools)
        return Session(self, record, system=system, tools=box.schemas, timeout=timeout)
