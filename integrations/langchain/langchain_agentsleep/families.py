"""The sessions of one LangChain thread: which of them a list of messages continues, and who is using it."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from agentsleep.archive import Scope, SessionRecord
from agentsleep.errors import SessionBusy, SessionNotFound
from agentsleep.memory import Position, Session, SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep.alignment import NOTHING, Fit, Line, fit, to_be_asked
from langchain_agentsleep.branches import Branch, Handle, close, park, read
from langchain_agentsleep.messages import Listed

MESSAGE_ID = "agentsleep-"
"""Ids of messages that a session wrote begin so; the session's id follows."""
BRANCH_OF = "branch_of"
"""In the settings of a session: the LangChain thread that it serves under another name."""


@dataclass(frozen=True)
class Turn:
    """A session in the hands of one call, which has read the list.

    known: tokens of its log that did not have to be read, not even again.
    """

    session: Session
    known: int


class Family:
    """The sessions of one thread: the first one has its name, the others are branches.

    Args:
        memory: gives the memory, which this does not keep alive.  used: told of each branch that was used.
    """

    def __init__(self, memory: Callable[[], SleepMemory], scope: Scope, used: Callable[[Branch], None]) -> None:
        self._memory, self.scope, self._used = memory, scope, used
        self._archive = memory().archive.user(scope.tenant, scope.user)
        self._deciding = threading.Lock()
        self._branches: dict[str, Branch] = {}

    @contextmanager
    def turn(
        self,
        messages: Sequence[Listed],
        *,
        handle: Handle | None = None,
        timeout: float,
        policy: SleepPolicy | None = None,
        answered: bool = True,
        prepare: Callable[[Session], None] = lambda session: None,
    ) -> Iterator[Turn]:
        """A session that has heard the messages of the list, and nothing behind them, in the caller's hands.

        Args:
            timeout: seconds to wait for whoever else is using it, be it in another process.
            policy: when it sleeps; None: as the memory's.
            answered: an answer is to follow, see :meth:`agentsleep.memory.Session.add`.
            prepare: called before the new messages are read.

        Raises:
            SessionBusy: somebody else is using it.  AmbiguousHistory: the list fits in more than one place.
            As Session.add.
        """
        branch, found, place, cold = self._chosen(messages, handle, policy, timeout)
        try:
            if self._parts(branch, found):
                found = to_be_asked(branch.line, found, messages) if answered else found
                branch, cold = self._branch(branch, branch.position(found.stands, handle), policy, timeout), True
            session = self._session(branch, policy, timeout)
            try:
                place = session.position() if cold else place
                known = place.slept_on if cold else place.tokens + place.pinned_tokens
                prepare(session)
                read(session, messages[found.length :], answered)
                yield Turn(session, known)
            finally:
                if branch.session is session:
                    park(branch)
        finally:
            branch.using.release()
            self._used(branch)

    @contextmanager
    def use(self, handle: Handle | None, timeout: float) -> Iterator[Session | None]:
        """The session that a handle names, or the thread's own, in the caller's hands; None if there is none."""
        deadline = time.monotonic() + timeout
        branch = self._named(handle) or self._own()
        if branch is None:
            yield None
            return
        self._acquire(branch, deadline, timeout)
        try:
            session = self._session(branch, branch.policy, timeout)
            try:
                yield session
            finally:
                if branch.session is session:
                    park(branch)
        finally:
            branch.using.release()
            self._used(branch)

    def consolidated(self, handle: Handle, messages: Sequence[Listed] = ()) -> set[str]:
        """Ids of the messages of a session that an archived state holds to their last token, and of those of a list
        that say the same at the same place: the result of a tool that ran again has another id."""
        with self._deciding:
            branch = self._named(handle)
            if branch is None:
                return set()
            line = branch.line
            slept = line.said[: line.consolidated]
            pairs = zip(slept[_start(line, messages) :], messages, strict=False)
            again = {said.id for heard, said in pairs if said.id is not None and heard.key == said.key}
            return again | {one.id for one in slept if one.id is not None}

    def let_go(self, session_id: str) -> bool:
        """Forgets what is known of a session, which is then looked up again. Whether no other one is open."""
        known = self._branches.pop(session_id, None) is not None
        return known and all(one.session is None for one in list(self._branches.values()))

    # Which session it is

    def _chosen(
        self, messages: Sequence[Listed], handle: Handle | None, policy: SleepPolicy | None, timeout: float
    ) -> tuple[Branch, Fit, Position, bool]:
        """The branch that the list continues, in the caller's hands; where; where its session stands, and whether it
        had to be opened.

        Whoever else is using it may write as long as it does so. When it is done the list may fit elsewhere.
        """
        deadline = time.monotonic() + timeout
        while True:
            with self._deciding:
                branch, found = self._decide(messages, handle)
                free = branch.using.acquire(blocking=False)
            if not free:
                self._acquire(branch, deadline, timeout)
                branch.using.release()
                continue
            try:
                cold, said = branch.session is None, branch.said
                opened = self._session(branch, branch.policy if self._parts(branch, found) else policy, timeout)
                place = opened.position()  # waits for other processes
                if place.events != branch.seen:
                    with self._deciding:
                        branch.refresh(self._archive)
                if branch.said == said:
                    return branch, found, place, cold
                park(branch)
            except BaseException:
                branch.using.release()
                raise
            branch.using.release()

    def _parts(self, branch: Branch, found: Fit) -> bool:
        """Whether the list parts from the branch, or the branch is another thread's."""
        return found.stands < len(branch.said) or not self._mine(branch.record)

    def _acquire(self, branch: Branch, deadline: float, timeout: float) -> None:
        if not branch.using.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise SessionBusy(
                f"another call of this process is using {self.scope}; waited {timeout:g} s: wait longer (timeout=), or "
                "give each conversation a thread_id of its own"
            )

    def _decide(self, messages: Sequence[Listed], handle: Handle | None) -> tuple[Branch, Fit]:
        named = self._named(handle)
        mark: tuple[int, int] | None = None
        if named is not None and handle is not None:
            branches = [named]
            mark = (0, named.stood(handle))
        else:
            branches = self._candidates(messages)
        found = fit([one.line for one in branches], messages, mark)
        if found.line is not None:
            return branches[found.line], found
        unused = next((one for one in branches if not one.said), None)
        return unused or self._new(), NOTHING

    def _candidates(self, messages: Sequence[Listed]) -> list[Branch]:
        """The session that wrote the last message of the list that one of ours wrote; else all of the thread's."""
        for one in reversed(messages):
            if one.id is not None and one.id.startswith(MESSAGE_ID):
                branch = self._known(one.id.removeprefix(MESSAGE_ID).partition("-")[0])
                if branch is not None and self._mine(branch.record) and one.id in branch.line.places:
                    return [branch]
        thread = self.scope.thread
        records = [one for one in self._archive.sessions(_prefix(thread)) if one.settings.get(BRANCH_OF) == thread]
        own = self._archive.find(thread)
        found = [self._of(record) for record in ([own] if own else []) + records]
        for branch in found:
            branch.refresh(self._archive)
        return found

    def _named(self, handle: Handle | None) -> Branch | None:
        """The session of a handle; where a rollback has given its thread to another one since then, that one."""
        named = None if handle is None else self._known(handle["session"])
        if named is None or self._mine(named.record):
            return named
        own = self._own()
        origin = None if own is None else own.record.forked_from
        return own if origin in {one.id for one in self._archive.snapshots(named.record.id)} else named

    def _own(self) -> Branch | None:
        record = self._archive.find(self.scope.thread)
        return None if record is None else self._of(record)

    def _known(self, session_id: str) -> Branch | None:
        """A session of the user, refreshed; None if the archive has none of this id."""
        known = self._branches.get(session_id)
        try:
            record, events = self._archive.since(session_id, known.next if known else 0)
        except SessionNotFound:
            return None
        branch = self._of(record)
        branch.take(self._archive, record, events)
        return branch

    def _mine(self, record: SessionRecord) -> bool:
        """Whether it is of this thread. Of another one, whose state was copied into this one, a branch is made."""
        return self.scope.thread in (record.scope.thread, record.settings.get(BRANCH_OF))

    def _of(self, record: SessionRecord) -> Branch:
        branch = self._branches.setdefault(record.id, Branch(record))
        if branch.session is not None and record.scope.thread != branch.record.scope.thread:
            close(branch)  # a rollback has given its thread to another session
        branch.record = record
        return branch

    # Sessions

    def _new(self) -> Branch:
        """A session that has heard nothing."""
        thread = self.scope.thread
        settings = {} if self._archive.find(thread) is None else {BRANCH_OF: thread}
        name = _name(thread) if settings else thread
        record = self._archive.open_session(name, fingerprint=self._memory().fingerprint, settings=settings)
        return self._of(record)

    def _branch(self, source: Branch, stop: int, policy: SleepPolicy | None, timeout: float) -> Branch:
        """A branch of a session in the caller's hands, which stays in them instead of the session."""
        thread = self.scope.thread
        try:
            session = self._memory().branch(
                self._session(source, source.policy, timeout),
                stop,
                _name(thread),
                settings={BRANCH_OF: thread},
                policy=policy,
                timeout=timeout,
            )
            record = self._archive.session(session.id)
        except BaseException:
            if source.session is not None:
                park(source)
            raise
        if self._mine(source.record):
            park(source)
        else:
            close(source)  # that thread has it open for itself
        branch = Branch(record, session, policy)
        branch.using.acquire()
        branch.refresh(self._archive)
        with self._deciding:
            self._branches[record.id] = branch
        source.using.release()
        if source.session is not None:
            self._used(source)
        return branch

    def _session(self, branch: Branch, policy: SleepPolicy | None, timeout: float) -> Session:
        if branch.session is not None and branch.policy != policy:
            close(branch)
        if branch.session is None:
            scope = branch.record.scope
            branch.session = self._memory().session(
                scope.thread,
                user=scope.user,
                tenant=scope.tenant,
                tools=None,
                timeout=timeout,
                create=False,
                policy=policy,
            )
            branch.policy = policy
        return branch.session


def _start(line: Line, messages: Sequence[Listed]) -> int:
    """The message of a line that a list begins with; the line's end where it begins with none."""
    places = ((place, line.places.get(one.id or "")) for place, one in enumerate(messages))
    start = next((found - place for place, found in places if found is not None), -1)
    return start if start >= 0 else len(line.said)


def _prefix(thread: str) -> str:
    return f"{thread[:200]}@"


def _name(thread: str) -> str:
    return f"{_prefix(thread)}{uuid.uuid4().hex[:12]}"
