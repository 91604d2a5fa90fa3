"""SleepMemory: the one class a user must know."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from agentsleep.archive import JSON, Archive, Retention, SessionRecord, default_archive
from agentsleep.backends import Backend, load_backend
from agentsleep.chat import Chat, chat_of
from agentsleep.errors import CheckpointDamaged, InputError
from agentsleep.memory.depth import questions
from agentsleep.memory.keeping import Keeper, Tools
from agentsleep.memory.later import Schedule
from agentsleep.memory.queue import FairLock
from agentsleep.memory.residency import Residency
from agentsleep.memory.session import Session
from agentsleep.models.nap import NapConfig
from agentsleep.policy import SleepPolicy


class SleepMemory(Keeper):
    """A model that sleeps, and the archive of its states.

    Args:
        model: a checkpoint directory, a model's name on the Hugging Face hub, or a :class:`agentsleep.backends.Backend`
            that is loaded already; None takes nap-mini, which comes with the package.
        archive: a database file, an SQLAlchemy URL (SQLite or PostgreSQL), or an :class:`Archive`, which :meth:`close`
            then leaves open and which has a retention of its own; None takes the user's data folder; ":memory:" keeps
            nothing.
        policy: when to sleep.
        schedule: when a worker is asked to sleep, see :mod:`agentsleep.jobs`; None: only by whoever asks.
        retention: which states the archive keeps; by default the newest 16 of a thread, and all that have a tag. None:
            all.
        settings: fields of :class:`agentsleep.backends.SleepSettings` (``window``, ``passes``, ``feedback``, ...) that
            take precedence over those of the checkpoint.
        device, dtype: where and in which numbers the model runs, as torch names them; "auto": the checkpoint's dtype.
        resident: how many open sessions keep their window (KV cache, logits, state) in memory, the last that were used;
            the others read theirs again from the archive when they are used next. None: all.

    Raises:
        CheckpointMissing, CheckpointDamaged: the model cannot be loaded.
        UnsupportedModel: its memory would be wrong, or it has none.
        SettingsError: a probe of the policy takes more than half of a window; a setting out of its range.
        ArchiveError: the archive cannot be opened.
    """

    def __init__(
        self,
        model: str | Path | Backend | None = None,
        *,
        archive: str | Path | Archive | None = None,
        policy: SleepPolicy | None = None,
        schedule: Schedule | None = None,
        retention: Retention | None = Retention(),  # noqa: B008  # immutable
        settings: Mapping[str, Any] | None = None,
        device: str = "cpu",
        dtype: str = "auto",
        resident: int | None = 32,
    ) -> None:
        self._queue, self._residency = FairLock(), Residency(resident)
        if isinstance(model, Backend):
            self.backend, which = model, ""
        else:
            self.backend = load_backend(model, settings=settings, device=device, dtype=dtype)
            which = f" {model or 'that is shipped'}"
        try:
            ours = self.backend.config.model_type == NapConfig.model_type  # trained in our own format, and no other
            self.chat = (Chat if ours else chat_of)(self.backend.tokenizer)
        except InputError as error:
            raise CheckpointDamaged(f"the model{which} cannot speak: {error}") from error
        self.policy, self.schedule = policy or SleepPolicy(), schedule
        self.probes = questions(self.chat, self.policy.probes, self.backend.settings.window)
        self._owns_archive = not isinstance(archive, Archive)
        self.archive = (
            archive if isinstance(archive, Archive) else Archive(archive or default_archive(), retention=retention)
        )

    @property
    def residents(self) -> int:
        """Open sessions that have their window in memory."""
        return len(self._residency)

    def __enter__(self) -> SleepMemory:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the archive."""
        if self._owns_archive:
            self.archive.close()

    def session(
        self,
        thread: str = "default",
        *,
        user: str = "default",
        tenant: str = "default",
        system: str | None = None,
        tools: Tools | None = (),
        timeout: float = 0.0,
        create: bool = True,
        policy: SleepPolicy | None = None,
        settings: Mapping[str, JSON] | None = None,
    ) -> Session:
        """Opens a thread of a user, with all it remembers; a new one is made if there is none.

        Args:
            system: the system message, read again at the head of every window; None keeps the stored one.
            tools: the tools on offer, callables or :class:`Tool`, pinned likewise. By default there are none; None
                keeps the stored ones.
            timeout: seconds to wait for another writer of the session.
            create: False raises SessionNotFound instead of making a new session.
            policy: when this session sleeps; None takes the memory's policy.
            settings: kept with a new session, for whoever lists sessions; a stored one keeps what it has.

        Raises:
            SessionBusy: another writer holds it.  FingerprintMismatch: it belongs to another model.
            SessionNotFound: there is none and ``create`` is False.  SnapshotDamaged: its newest state is damaged.
            MessageTooLong: system message and tools take more than half of a window.
            SettingsError: a probe of the policy takes more than half of a window.
        """
        archive = self.archive.user(tenant, user)
        record = archive.open_session(thread, fingerprint=self.fingerprint, settings=settings or {}, create=create)
        return self._open(record, system, tools, timeout, policy)

    def sessions(self, *, user: str = "default", tenant: str = "default") -> list[SessionRecord]:
        """All threads of one user, oldest first."""
        return self.archive.user(tenant, user).sessions()
