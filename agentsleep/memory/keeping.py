"""What a memory does with whole threads: fork, roll back, try, forget, rebuild."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

from agentsleep.archive import JSON, Archive, SessionLock, SessionRecord, Snapshot, UserArchive
from agentsleep.backends import Backend
from agentsleep.chat import ChatFormat
from agentsleep.errors import FingerprintMismatch, InputError, SessionNotFound, SnapshotNotFound
from agentsleep.memory.depth import questions
from agentsleep.memory.later import Schedule
from agentsleep.memory.past.branching import branch
from agentsleep.memory.past.forgetting import Forgotten, forget, forget_everything
from agentsleep.memory.past.rebuilding import rebuild
from agentsleep.memory.past.scratch import Progress, scratch
from agentsleep.memory.past.trials import Comparison, compare_policies, trial
from agentsleep.memory.probing import Prober
from agentsleep.memory.queue import FairLock
from agentsleep.memory.residency import Residency
from agentsleep.memory.restoring import Recovered, recover, revive
from agentsleep.memory.session import Session
from agentsleep.memory.shared import Shared
from agentsleep.memory.toolbox import Tool, Toolbox
from agentsleep.memory.transfer import Exported, Which, export_thread, import_thread
from agentsleep.policy import SleepPolicy

Tools: TypeAlias = "Sequence[Tool | Callable[..., Any]] | Toolbox"


class Keeper:
    """The half of :class:`SleepMemory` that works on archived threads."""

    backend: Backend
    chat: ChatFormat
    archive: Archive
    policy: SleepPolicy
    probes: tuple[list[int], ...]
    schedule: Schedule | None
    _queue: FairLock
    _residency: Residency

    @property
    def fingerprint(self) -> str:
        """Of the model: only it can use the states that it wrote."""
        return self.backend.fingerprint

    @cached_property
    def prober(self) -> Prober:
        """What restored states are asked with."""
        return Prober(self.backend, self.chat)

    @property
    def shared(self) -> Shared:
        """What its sessions work with."""
        return Shared(
            backend=self.backend,
            chat=self.chat,
            archive=self.archive,
            policy=self.policy,
            probes=self.probes,
            prober=self.prober,
            queue=self._queue,
            residency=self._residency,
            said=self.schedule.said if self.schedule else None,
        )

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
            SnapshotDamaged: its state is not what was stored; no thread is made.
            FingerprintMismatch: another model wrote it.  MessageTooLong: the tools take more than half of a window.
        """
        self._check_ours(snapshot)
        archive = self.archive.user(snapshot.tenant, snapshot.user)
        name = _free(archive, f"{self._thread_of(snapshot)[:200]}@{snapshot.id[:8]}") if thread is None else thread
        revive(self.shared, archive, snapshot)
        return self._open(archive.fork(snapshot.id, name), None, tools, timeout)

    def branch(
        self,
        session: Session,
        stop: int,
        thread: str | None = None,
        *,
        settings: Mapping[str, JSON] | None = None,
        policy: SleepPolicy | None = None,
        timeout: float = 0.0,
    ) -> Session:
        """A new session of the same user that has heard what ``session`` had heard before event ``stop`` of its log,
        and knows nothing that came later. It begins as a fork of the deepest snapshot before that place; what was said
        since then is read again, so that its state and the tokens of its window are those of a session that went no
        further, bit for bit; its logits are, but for rounding.

        Args:
            stop: a seq, as :meth:`Session.messages` tells them; 0 begins from nothing.
            thread: its name; by default one that is free, after the thread it came from.
            settings: kept with the new session; None takes over those of ``session``.
            policy: when it sleeps; by default the memory's.

        Raises:
            InputError: there is no such place, or a turn goes on there; or the thread exists already.
            SnapshotDamaged: the state that it begins from is not what was stored.
        """
        archive = session.archive
        source = archive.session(session.id)
        kept = source.settings if settings is None else settings

        def make(base: Snapshot | None) -> SessionRecord:
            name = thread or _free(archive, f"{source.scope.thread[:200]}@{base.id[:8] if base else 'start'}")
            if base is not None:
                return archive.fork(base.id, name, settings=kept)
            if archive.find(name) is not None:
                raise InputError(f"there is a session for {archive.named(name)} already; branch into another thread")
            return archive.open_session(name, fingerprint=self.fingerprint, settings=kept)

        def opened(record: SessionRecord) -> Session:
            return self._open(record, None, None, timeout, policy)

        return branch(self.shared, archive, source, stop, make, opened)

    def scratch(self, policy: SleepPolicy | None = None) -> AbstractContextManager[Session]:
        """A session in memory, which begins with nothing and leaves no trace: a context manager."""
        return scratch(self.shared, self.archive.user("default", "default"), (), None, policy)

    def rollback(self, session: Session, snapshot: Snapshot, aside: str | None = None) -> Session:
        """Takes a thread back to one of its snapshots, and opens it there; ``session`` is closed.

        Args:
            aside: the thread under which what came after it is kept; by default one that is free, after the thread.

        Raises:
            SnapshotNotFound: the session does not descend from it.  InputError: there is a thread ``aside`` already.
        """
        archive, thread = session.archive, session.scope.thread
        revive(self.shared, archive, snapshot)
        head = session.head
        name = aside or _free(archive, f"{thread[:200]}~{(head.id if head else snapshot.id)[:8]}")
        session.close()
        record = archive.rollback(session.id, snapshot.id, name)
        return self._open(record, None, None, 0.0)

    def recover(self, thread: str = "default", *, user: str = "default", tenant: str = "default") -> Recovered:
        """Mends a thread whose newest state is damaged, so that it cannot be opened, see :meth:`Session.recover`.

        Raises:
            SessionNotFound: there is no such thread.  ArchiveDamaged: its log is damaged too.
            FingerprintMismatch: it belongs to another model.  SessionBusy: it is open.
        """
        archive = self.archive.user(tenant, user)
        record = self._existing(archive, thread)
        # Asked with another model, every state would seem to be damaged.
        archive.open_session(thread, fingerprint=self.fingerprint, settings={}, create=False)
        with SessionLock(archive, record.id):
            return recover(self.shared, archive, record.id)

    def trial(
        self, session: Session, policy: SleepPolicy, start: Snapshot | None = None, progress: Progress | None = None
    ) -> AbstractContextManager[Session]:
        """The session as it would be, had it slept by this policy since ``start``: a context manager that gives a
        session in memory, which can be asked like any other and leaves no trace.

        Raises:
            InputError: ``start`` is none of the session's, or a turn was being written when it was made.
        """
        return trial(self.shared, session, policy, start, progress)

    def compare_policies(
        self,
        session: Session,
        a: SleepPolicy,
        b: SleepPolicy,
        *,
        start: Snapshot | None = None,
        questions: Sequence[str] = (),
        max_new_tokens: int = 64,
    ) -> Comparison:
        """Two policies from one snapshot on: both read what was said since, and are asked the same questions."""
        return compare_policies(self.shared, session, a, b, start, questions, max_new_tokens)

    def forget(
        self,
        where: Session | str | None,
        messages: Collection[int] | None = None,
        *,
        user: str = "default",
        tenant: str = "default",
        span: tuple[int, int] | None = None,
        phrases: Sequence[str] = (),
        cascade: bool = False,
        progress: Progress | None = None,
    ) -> Forgotten:
        """Removes texts and every state that has seen them, forks included, and reads again what remains, so that each
        thread equals one that never read them. An error or a crash leaves all as it was.

        Args:
            where: an open session, whose policy then holds for what is read again, or the name of a thread; None
                forgets the whole user.
            messages: seqs of messages, as :meth:`Session.messages` tells them; neither these nor ``span``: the thread.
            user, tenant: whose thread it is, where ``where`` is no session.
            span: all messages with start ≤ seq < stop.
            phrases: further texts by which later messages that repeat it are found.
            cascade: whether those go too; otherwise they are listed.
            progress: called with steps done and steps in all, for each thread that is read again.

        Raises:
            InputError: no such messages.  SessionBusy: a thread that is to be read again is open elsewhere.
            FingerprintMismatch: such a thread belongs to another model.  SleepFailed: a sleep was not usable.
        """
        archive = where.archive if isinstance(where, Session) else self.archive.user(tenant, user)
        thread = where.scope.thread if isinstance(where, Session) else where
        if thread is None:
            if messages is not None or span is not None:
                raise InputError("messages belong to a thread; name it, or leave them out to forget the whole user")
            return forget_everything(archive)
        record = self._existing(archive, thread)
        seqs = None if messages is None and span is None else {*(messages or ())}
        if span is not None:
            log = archive.events(record.id, *span)
            seqs = {*(seqs or ()), *(event.seq for event in log if event.kind == "tokens")}
        if seqs is not None and not seqs:
            raise InputError(f"there is no message to forget in {span if span else 'an empty list'}")
        options: dict[str, Any] = {"phrases": phrases, "cascade": cascade, "progress": progress}
        if not isinstance(where, Session):
            return forget(self.shared, archive, record.id, seqs, **options)
        with where.desk.using():
            where.desk.renew()
            return forget(where.shared, archive, record.id, seqs, held=(where.id,), **options)

    def rebuild(
        self,
        thread: str = "default",
        *,
        user: str = "default",
        tenant: str = "default",
        into: str | None = None,
        timeout: float = 0.0,
        progress: Progress | None = None,
    ) -> Session:
        """Reads a thread that another model wrote again under this one, into a thread of its own: changing the model
        does not lose the memory. Called again after it broke off, it goes on where it was.

        Args:
            into: the new thread; by default the old one's name and the first characters of this model's fingerprint.

        Raises:
            SessionNotFound: there is no such thread.  InputError: ``into`` holds something else.
        """
        archive = self.archive.user(tenant, user)
        source = self._existing(archive, thread)
        name = into or f"{thread[:200]}@{self.fingerprint[:8]}"
        record = archive.open_session(name, fingerprint=self.fingerprint, settings={})
        session = self._open(record, None, None, timeout)
        try:
            rebuild(session, source, progress)
        except BaseException:
            session.close()
            raise
        return session

    def export(
        self,
        where: Session | str,
        target: str | Path,
        *,
        user: str = "default",
        tenant: str = "default",
        text: bool = True,
        states: Which = "stored",
        force: bool = False,
        progress: Progress | None = None,
    ) -> Exported:
        """Writes a thread into one file, see :func:`agentsleep.memory.transfer.export_thread`.

        Args:
            where: an open session, or the name of a thread.
            text: False leaves out all that was said.  states: "head" takes the newest alone.
            force: overwrites the file.

        Raises:
            SessionNotFound: no such thread.  InputError: the file is there already.  SnapshotDamaged: a state is not
                what was stored.
        """
        archive = where.archive if isinstance(where, Session) else self.archive.user(tenant, user)
        thread = where.scope.thread if isinstance(where, Session) else where
        return export_thread(archive, thread, target, text=text, states=states, force=force, progress=progress)

    def import_thread(
        self,
        source: str | Path,
        *,
        thread: str | None = None,
        user: str = "default",
        tenant: str = "default",
        into_tenant: str | None = None,
        into_user: str | None = None,
        progress: Progress | None = None,
    ) -> SessionRecord:
        """Reads a thread from a file that :meth:`export` wrote, see
        :func:`agentsleep.memory.transfer.import_thread`.

        Args:
            thread: another name for it.
            into_tenant, into_user: makes it theirs, whoever's it was; without them it must be that of ``user``.

        Raises:
            InputError: the file is no export, or damaged; or it is another user's; or there is such a thread already.
            FingerprintMismatch: another model wrote it.  SnapshotDamaged: its newest state does not speak as it did.
        """
        archive = self.archive.user(tenant, user)
        return import_thread(
            archive,
            source,
            model=self,
            thread=thread,
            into_tenant=into_tenant,
            into_user=into_user,
            progress=progress,
        )

    # Helpers

    def _open(
        self,
        record: SessionRecord,
        system: str | None,
        tools: Tools | None,
        timeout: float,
        policy: SleepPolicy | None = None,
    ) -> Session:
        box = tools if isinstance(tools, Toolbox) else None if tools is None else Toolbox(tools)
        schemas = None if box is None else box.schemas
        shared = self.shared
        if policy is not None:
            probes = questions(self.chat, policy.probes, self.backend.settings.window)
            shared = replace(shared, policy=policy, probes=probes)
        return Session(shared, record, system=system, tools=schemas, timeout=timeout)

    def _existing(self, archive: UserArchive, thread: str) -> SessionRecord:
        record = archive.find(thread)
        if record is None:
            raise SessionNotFound(f"no session for {archive.named(thread)} in {self.archive!r}; sessions() lists them")
        return record

    def _check_ours(self, snapshot: Snapshot) -> None:
        if snapshot.fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"snapshot {snapshot.id} belongs to model {snapshot.fingerprint[:12]}, this memory runs "
                f"{self.fingerprint[:12]}; fork it with the model that wrote it, or rebuild its thread under this one"
            )

    def _thread_of(self, snapshot: Snapshot) -> str:
        try:
            return self.archive.user(snapshot.tenant, snapshot.user).session(snapshot.session_id).scope.thread
        except SessionNotFound:
            raise SnapshotNotFound(
                f"snapshot {snapshot.id} lies in another archive than {self.archive!r}; fork it there"
            ) from None


def _free(archive: UserArchive, thread: str) -> str:
    """This name, or one after it, that no thread of the user has yet; found without a look at all of them."""
    return thread if archive.find(thread) is None else f"{thread}-{uuid.uuid4().hex[:12]}"
