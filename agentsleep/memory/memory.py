"""SleepMemory: the one class a user must know."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

from agentsleep.archive import Archive, Scope, SessionRecord, Snapshot, default_archive
from agentsleep.backends import load_backend
from agentsleep.chat import Chat, ChatFormat, chat_of
from agentsleep.errors import CheckpointDamaged, FingerprintMismatch, InputError, SessionNotFound, SnapshotNotFound
from agentsleep.memory.depth import questions
from agentsleep.memory.session import Session
from agentsleep.memory.shared import Shared
from agentsleep.memory.toolbox import Tool, Toolbox
from agentsleep.models.nap import NapConfig
from agentsleep.policy import SleepPolicy

Tools: TypeAlias = "Sequence[Tool | Callable[..., Any]] | Toolbox"


class SleepMemory:
    """A model that sleeps, and the archive of its states.

    Args:
        model: a checkpoint directory, or a model's name on the Hugging Face hub; None takes nap-mini, which comes with
            the package.
        archive: a database file or SQLAlchemy URL; None takes the user's data folder; ":memory:" keeps nothing.
        policy: when to sleep.
        settings: fields of :class:`agentsleep.backends.SleepSettings` (``window``, ``passes``, ``feedback``, ...) that
            take precedence over those of the checkpoint.
        device, dtype: where and in which numbers the model runs, as torch names them; "auto": the checkpoint's dtype.

    Raises:
        CheckpointMissing, CheckpointDamaged: the model cannot be loaded.
        UnsupportedModel: its memory would be wrong, or it has none.
        SettingsError: a probe of the policy takes more than half of a window; a setting out of its range.
        ArchiveError: the archive cannot be opened.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        archive: str | Path | None = None,
        policy: SleepPolicy | None = None,
        settings: Mapping[str, Any] | None = None,
        device: str = "cpu",
        dtype: str = "auto",
    ) -> None:
        self.backend = load_backend(model, settings=settings, device=device, dtype=dtype)
        try:
            ours = self.backend.config.model_type == NapConfig.model_type  # trained in our own format, and no other
            self.chat: ChatFormat = (Chat if ours else chat_of)(self.backend.tokenizer)
        except InputError as error:
            raise CheckpointDamaged(f"the model {model or 'that is shipped'} cannot speak: {error}") from error
        self.policy = policy or SleepPolicy()
        self.probes = questions(self.chat, self.policy.probes, self.backend.settings.window)
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
        tools: Tools = (),
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
            SessionNotFound: there is none and ``create`` is False.  SnapshotDamaged: its newest state is damaged.
            MessageTooLong: system message and tools take more than half of a window.
        """
        scope = Scope(tenant=tenant, user=user, thread=thread)
        record = self.archive.open_session(scope, fingerprint=self.fingerprint, settings={}, create=create)
        return self._open(record, system, tools, timeout)

    def fork(
        self,
        snapshot: Snapshot,
        thread: str | None = None,
        *,
        tools: Tools = (),
        timeout: float = 0.0,
    ) -> Session:
        """A new session of the same user that goes on from an archived state and knows nothing that came later.

        Args:
            thread: its name; by default one that is free, after the thread it came from.

        Raises:
            SnapshotNotFound: the archive has no such snapshot.  InputError: the thread exists already.
            FingerprintMismatch: another model wrote it.  MessageTooLong: the tools take more than half of a window.
        """
        if snapshot.fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"snapshot {snapshot.id} belongs to model {snapshot.fingerprint[:12]}, this memory runs "
                f"{self.fingerprint[:12]}; fork it with the model that wrote it"
            )
        try:
            origin = self.archive.session(snapshot.session_id).scope
        except SessionNotFound:
            raise SnapshotNotFound(
                f"snapshot {snapshot.id} lies in another archive than {self.archive!r}; fork it there"
            ) from None
        scope = self._free(origin, snapshot) if thread is None else replace(origin, thread=thread)
        return self._open(self.archive.fork(snapshot.id, scope), None, tools, timeout)

    def _free(self, origin: Scope, snapshot: Snapshot) -> Scope:
        """A thread of the same user that does not exist yet, found without a look at all of them."""
        scope = replace(origin, thread=f"{origin.thread[:200]}@{snapshot.id[:8]}")
        try:
            self.archive.open_session(scope, fingerprint=self.fingerprint, settings={}, create=False)
        except SessionNotFound:
            return scope
        except FingerprintMismatch:
            pass  # it exists all the same
        return replace(scope, thread=f"{scope.thread}-{uuid.uuid4().hex[:12]}")

    def sessions(self, *, user: str = "default", tenant: str = "default") -> list[SessionRecord]:
        """All threads of one user, oldest first."""
        return self.archive.sessions(tenant, user)

    @property
    def _shared(self) -> Shared:
        return Shared(
            backend=self.backend, chat=self.chat, archive=self.archive, policy=self.policy, probes=self.probes
        )

    def _open(self, record: SessionRecord, system: str | None, tools: Tools, timeout: float) -> Session:
        box = tools if isinstance(tools, Toolbox) else Toolbox(tools)
        return Session(self._shared, record, system=system, tools=box.schemas, timeout=timeout)
