"""The sessions behind LangChain's threads: which of them a list of messages continues, and who is using it."""

from __future__ import annotations

import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypedDict
from weakref import WeakKeyDictionary, ref

from agentsleep.archive import Event, Scope, SessionRecord, UserArchive
from agentsleep.errors import SessionBusy, SessionNotFound
from agentsleep.memory import Position, Session, SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep.alignment import NOTHING, Fit, Line, fit
from langchain_agentsleep.messages import Listed, Logged, logged

MESSAGE_ID = "agentsleep-"
"""Ids of messages that a session wrote begin so; the session's id follows."""
BRANCH_OF = "branch_of"
"""In the settings of a session: the LangChain thread that it serves under another name."""
_OPEN = 256  # branches whose sessions stay open; the memory's own `resident` says how many keep their windows


class Handle(TypedDict):
    """Where an agent's memory stands: small, and kept in its state, where tensors have no place.

    session: its id.  snapshot: the newest archived state; None before the first sleep.
    position: events in the session's log.
    """

    session: str
    snapshot: str | None
    position: int


@dataclass
class Branch:
    """A session of a thread, and what is known of its log."""

    record: SessionRecord
    session: Session | None = None
    policy: SleepPolicy | None = None
    said: list[Logged] = field(default_factory=list)
    slept: int = 0
    using: threading.Lock = field(default_factory=threading.Lock)
    _tail: list[Event] = field(default_factory=list)  # the last event that was looked at, and the turn it may belong to
    _seen: int = 0

    def refresh(self, archive: UserArchive) -> None:
        """Reads what the log holds besides what was seen of it; all of it where that has changed."""
        events = archive.events(self.record.id, max(0, self._seen - 1))
        if self._seen and (not events or events[0] != self._tail[-1]):
            self.said, self.slept, self._tail, self._seen = [], 0, [], 0
            events = archive.events(self.record.id)
        elif self._seen:
            events = events[1:]
        if events:
            whole = [*self._tail, *events]
            fresh = logged(whole)
            first = whole[0].seq
            self.said = [one for one in self.said if one.start < first] + fresh
            self._seen = events[-1].seq + 1
            self._tail = _unfinished(whole)
        self.slept = _slept(events, self.slept)

    @property
    def line(self) -> Line:
        """For alignment."""
        return Line(self.record.scope.thread, tuple(self.said), self.slept)

    def position(self, stands: int) -> int:
        """The seq at which the log goes on behind its first ``stands`` messages."""
        return self.said[stands - 1].stop if stands else 0


def _unfinished(events: Sequence[Event]) -> list[Event]:
    """The last event, and what stands before it of the same message."""
    start = len(events) - 1
    while start > 0:
        about: Any = events[start].data.get("metadata") or {}
        part = (about.get("langchain") or {}).get("part", 0)
        before = events[start - 1]
        if not (part or events[start].kind != "tokens" or before.data.get("open") or events[start].data.get("open")):
            break
        start -= 1
    return list(events[start:])


def _slept(events: Sequence[Event], before: int) -> int:
    """Tokens of the log that are consolidated."""
    stops = [event.data["stop"] for event in events if event.kind != "tokens"]
    return int(stops[-1]) if stops and isinstance(stops[-1], int) else before


@dataclass(frozen=True)
class Turn:
    """A session in the hands of one call, which has read the list.

    known: tokens of its log that did not have to be read, not even again.
    """

    session: Session
    known: int


def handle_at(session: Session, place: Position) -> Handle:
    """The handle of a session that stands there."""
    return Handle(session=session.id, snapshot=place.head, position=place.events)


def handle_of(session: Session) -> Handle:
    """Where a session stands now."""
    return handle_at(session, session.position())


class Threads:
    """The threads of one memory, in this process. All calls may come from any thread of execution."""

    def __init__(self, memory: SleepMemory) -> None:
        self._memory = ref(memory)  # weak: these are kept for as long as the memory is
        self._lock = threading.Lock()
        self._families: dict[Scope, Family] = {}
        self._open: OrderedDict[str, Branch] = OrderedDict()

    @property
    def memory(self) -> SleepMemory:
        """Whose threads they are."""
        memory = self._memory()
        assert memory is not None, "whoever calls holds the memory"
        return memory

    def family(self, scope: Scope) -> Family:
        """The sessions of a thread."""
        with self._lock:
            return self._families.setdefault(scope, Family(self, scope))

    def used(self, branch: Branch) -> None:
        """Closes the session that was not used for longest, where too many are open."""
        with self._lock:
            self._open[branch.record.id] = branch
            self._open.move_to_end(branch.record.id)
            surplus = list(self._open.items())[: max(0, len(self._open) - _OPEN)]
        self._shut(surplus)

    def close(self) -> None:
        """Closes all sessions that nobody is using; the memory stays open."""
        with self._lock:
            branches = list(self._open.items())
        self._shut(branches)

    def _shut(self, branches: Sequence[tuple[str, Branch]]) -> None:
        for key, branch in branches:
            if not branch.using.acquire(blocking=False):
                continue
            try:
                close(branch)
            finally:
                branch.using.release()
            with self._lock:
                if self._open.get(key) is branch:
                    del self._open[key]
                for family in list(self._families.values()):
                    if family.let_go(key):
                        del self._families[family.scope]


def close(branch: Branch) -> None:
    """Closes the session of a branch; it is opened again when it is used next."""
    session, branch.session = branch.session, None
    if session is not None:
        session.close()


class Family:
    """The sessions of one thread: the first one has its name, the others are branches."""

    def __init__(self, threads: Threads, scope: Scope) -> None:
        self._threads, self.scope = threads, scope
        self._archive = threads.memory.archive.user(scope.tenant, scope.user)
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
        branch, found, cold = self._chosen(messages, handle, policy, timeout)
        try:
            if self._parts(branch, found):
                branch, cold = self._branch(branch, branch.position(found.stands), policy, timeout), True
            session = self._session(branch, policy, timeout)
            try:
                place = session.position()
                known = place.slept_on if cold else place.tokens + place.pinned_tokens
                prepare(session)
                read(session, messages[found.length :], answered)
                yield Turn(session, known)
            finally:
                if branch.session is session:
                    _park(branch)
        finally:
            branch.using.release()
            self._threads.used(branch)

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
                    _park(branch)
        finally:
            branch.using.release()
            self._threads.used(branch)

    def consolidated(self, handle: Handle) -> set[str]:
        """Ids of the messages of a session that an archived state holds to their last token."""
        with self._deciding:
            branch = self._named(handle)
            if branch is None:
                return set()
            branch.refresh(self._archive)
            line = branch.line
            return {one.id for one in line.said[: line.consolidated] if one.id is not None}

    def let_go(self, session_id: str) -> bool:
        """Forgets what is known of a session, which is then looked up again. Whether no other one is open."""
        known = self._branches.pop(session_id, None) is not None
        return known and all(one.session is None for one in list(self._branches.values()))

    # Which session it is

    def _chosen(
        self, messages: Sequence[Listed], handle: Handle | None, policy: SleepPolicy | None, timeout: float
    ) -> tuple[Branch, Fit, bool]:
        """The branch that the list continues, in the caller's hands; where; and whether its session had to be opened.

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
                opened.position()  # waits for other processes
                with self._deciding:
                    branch.refresh(self._archive)
                if branch.said == said:
                    return branch, found, cold
                _park(branch)
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
            named.refresh(self._archive)
            branches = [named]
            mark = (0, sum(one.stop <= handle["position"] for one in named.said))
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
                if branch is not None and self._mine(branch.record):
                    branch.refresh(self._archive)
                    if one.id in branch.line.places:
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
        """A session of the user; None if the archive has none of this id."""
        try:
            return self._of(self._archive.session(session_id))
        except SessionNotFound:
            return None

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
        record = self._archive.open_session(name, fingerprint=self._threads.memory.fingerprint, settings=settings)
        return self._of(record)

    def _branch(self, source: Branch, stop: int, policy: SleepPolicy | None, timeout: float) -> Branch:
        """A branch of a session in the caller's hands, which stays in them instead of the session."""
        thread = self.scope.thread
        try:
            session = self._threads.memory.branch(
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
                _park(source)
            raise
        if self._mine(source.record):
            _park(source)
        else:
            close(source)  # that thread has it open for itself
        branch = Branch(record, session, policy)
        branch.using.acquire()
        branch.refresh(self._archive)
        with self._deciding:
            self._branches[record.id] = branch
        source.using.release()
        if source.session is not None:
            self._threads.used(source)
        return branch

    def _session(self, branch: Branch, policy: SleepPolicy | None, timeout: float) -> Session:
        if branch.session is not None and branch.policy != policy:
            close(branch)
        if branch.session is None:
            scope = branch.record.scope
            branch.session = self._threads.memory.session(
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


def read(session: Session, messages: Sequence[Listed], answered: bool) -> None:
    """Has a session read messages.

    Raises:
        As Session.add.
    """
    for place, one in enumerate(messages):
        follows = messages[place + 1].role == "assistant" if place + 1 < len(messages) else answered
        asked = follows and one.role in ("user", "tool")  # so that it sleeps where it slept when it gave that answer
        if not one.calls:
            session.add(one.role, one.text, asked=asked, metadata=one.metadata())
            continue
        for part, call in enumerate(one.calls):
            metadata = one.metadata(part, len(one.calls))
            session.add("assistant", one.text, calls=[call], metadata=metadata)


def _park(branch: Branch) -> None:
    """Other processes may write now. A session that cannot be parked is closed."""
    try:
        if branch.session is not None:
            branch.session.park()
    except BaseException:
        close(branch)
        raise


def _prefix(thread: str) -> str:
    return f"{thread[:200]}@"


def _name(thread: str) -> str:
    return f"{_prefix(thread)}{uuid.uuid4().hex[:12]}"


_threads: WeakKeyDictionary[SleepMemory, Threads] = WeakKeyDictionary()
_making = threading.Lock()


def threads_of(memory: SleepMemory) -> Threads:
    """The threads of a memory; the same for whoever asks."""
    with _making:
        found = _threads.get(memory)
        if found is None:
            found = _threads[memory] = Threads(memory)
        return found
