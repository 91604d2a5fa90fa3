"""Forgetting: texts and every state that has seen them go, and what remains is read again as if they had never been."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from agentsleep.archive import (
    Event,
    Line,
    Regrowth,
    SessionLock,
    SessionRecord,
    UserArchive,
    forget_user,
    regrow,
)
from agentsleep.errors import FingerprintMismatch, InputError
from agentsleep.memory.past.branching import base_of
from agentsleep.memory.past.scratch import Progress, reread, scratch
from agentsleep.memory.past.script import script
from agentsleep.memory.shared import Shared

Place = tuple[str, int]
"""A message: the id of the session that owns it, and its seq."""


@dataclass(frozen=True, kw_only=True)
class Repeat:
    """A message that says again what is forgotten."""

    thread: str
    seq: int
    role: str | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Forgotten:
    """What forgetting did.

    messages, snapshots: how many were removed.  threads: removed as a whole.  rebuilt: threads that were read again.
    state_bytes: of states that are gone.
    repeats: later messages that say it again; they are gone too if that was asked for (``cascade``).
    out_of_reach: copies that this library cannot remove, such as backups.
    """

    messages: int
    snapshots: int
    threads: tuple[str, ...]
    rebuilt: tuple[str, ...]
    state_bytes: int
    repeats: tuple[Repeat, ...]
    out_of_reach: tuple[str, ...]


class Family:
    """A user's sessions and how they descend from each other."""

    def __init__(self, archive: UserArchive) -> None:
        self.archive = archive
        self.sessions = {one.id: one for one in archive.sessions()}
        self.snapshots = {one.id: one for one in archive.all_snapshots()}
        self._own: dict[str, list[Event]] = {}

    def line(self, session_id: str) -> list[tuple[str, int, int]]:
        """The sessions whose events make up a log, itself first: id, and from and up to which seq it gives them."""
        found, stop = [], self.sessions[session_id].events
        while True:
            origin = self.sessions[session_id].forked_from
            start = self.snapshots[origin].span[1] if origin else 0
            if start < stop:
                found.append((session_id, start, stop))
            if origin is None:
                return found
            session_id, stop = self.snapshots[origin].session_id, min(stop, start)

    def own(self, session_id: str) -> list[Event]:
        """The events of a session that it did not inherit."""
        if session_id not in self._own:
            mine = [(start, stop) for owner, start, stop in self.line(session_id) if owner == session_id]
            self._own[session_id] = self.archive.events(session_id, *mine[0]) if mine else []
        return self._own[session_id]

    def copies(self, places: Collection[Place], whole: Collection[str] = ()) -> set[Place]:
        """The same messages where other sessions of the same model have them as their own: a fork that was read again
        holds what it once inherited. Nothing else is of the same moment, role and text.

        Args:
            whole: sessions that go as a whole. Of them only what was first said there counts: what is older than the
                session came from elsewhere, and stays there.
        """
        keys, models = set(), set()
        for owner, seqs in _by_session(places).items():
            session = self.sessions[owner]
            models.add(session.fingerprint)
            for event in self.own(owner):
                counts = owner not in whole or event.created >= session.created
                if event.seq in seqs and counts and _is_message(event):
                    keys.add((event.created, event.role, event.text))
        found = set()
        for one in self.sessions.values():
            same = [e.seq for e in self.own(one.id) if (e.created, e.role, e.text) in keys and _is_message(e)]
            if same and one.fingerprint in models and one.id not in whole:
                found |= {self.owner(one.id, seq) for seq in whole_turns(self.archive, one.id, same)}
        return found

    def owner(self, session_id: str, seq: int) -> Place:
        """Whose event it is, and its seq. Raises InputError where the log has none."""
        for owner, start, stop in self.line(session_id):
            if start <= seq < stop:
                return owner, seq
        raise InputError(f"the log of session {session_id} has no event {seq}; messages() tells their seqs")

    def first(self, session_id: str, gone: Collection[Place]) -> int | None:
        """The first of these events in a session's log."""
        seen = [
            seq
            for owner, start, stop in self.line(session_id)
            for whose, seq in gone
            if whose == owner and start <= seq < stop
        ]
        return min(seen, default=None)

    def touched(self, gone: Collection[Place]) -> set[Place]:
        """These events, and where each log that has one of them is to be read again from: what lies between is read
        again too, which forks from in between have to follow."""
        touched = {*gone}
        while True:
            places = set()
            for one in self.sessions:
                first = self.first(one, touched)
                if first is not None:
                    base = base_of(self.archive, one, first)
                    places.add(self.owner(one, base.span[1] if base else 0))
            if places <= touched:
                return touched
            touched |= places

    def condemned(self, gone: Collection[Place], threads: Collection[str]) -> list[str]:
        """Snapshots that have seen these events, or belong to these sessions, children before their parents."""
        found = [
            one
            for one in self.snapshots.values()
            if one.session_id in threads
            or ((first := self.first(one.session_id, gone)) is not None and first < one.span[1])
        ]
        return [one.id for one in sorted(found, key=lambda one: -one.span[1])]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What forgetting comes to. gone: the messages.  touched: where logs change.  threads: ids of sessions that go.
    affected: ids of all sessions that change.  condemned: ids of snapshots that go.  repeats: see :class:`Forgotten`.
    """

    gone: set[Place]
    touched: set[Place]
    threads: tuple[str, ...]
    affected: tuple[str, ...]
    condemned: list[str]
    repeats: tuple[Repeat, ...]


def planned(
    family: Family, session_id: str, seqs: Collection[int] | None, phrases: Sequence[str], cascade: bool
) -> Plan:
    """What :func:`forget` would do; changes nothing. Raises InputError where there are no such messages."""
    threads = (session_id,) if seqs is None else ()
    chosen = [e.seq for e in family.own(session_id)] if seqs is None else whole_turns(family.archive, session_id, seqs)
    gone = {family.owner(session_id, seq) for seq in chosen}
    gone |= family.copies(gone, threads)
    repeats = repeated(family, gone, phrases)
    if cascade:
        for repeat, owner in repeats:
            gone |= {family.owner(owner, seq) for seq in whole_turns(family.archive, owner, [repeat.seq])}
        gone |= family.copies(gone, threads)
    touched = family.touched(gone)
    return Plan(
        gone=gone,
        touched=touched,
        threads=threads,
        affected=tuple(one for one in family.sessions if one in threads or family.first(one, touched) is not None),
        condemned=family.condemned(touched, threads),
        repeats=tuple(repeat for repeat, _owner in repeats),
    )


def forget(
    shared: Shared,
    archive: UserArchive,
    session_id: str,
    seqs: Collection[int] | None,
    *,
    phrases: Sequence[str] = (),
    cascade: bool = False,
    held: Collection[str] = (),
    progress: Progress | None = None,
) -> Forgotten:
    """Forgets messages of a session, or, with ``seqs`` None, the whole thread; forks forget them too.

    What remains of each session is read again from the snapshot before, under the memory's policy, so that it equals a
    session that never read them. Everything is worked out first and then replaced in one transaction: an error, or a
    crash, leaves all as it was.

    Args:
        phrases: further texts by which repeats are found.
        cascade: whether messages that repeat what is forgotten go too.
        held: sessions whose lock the caller holds.

    Raises:
        InputError: no such messages.  SessionBusy: a session that is to be read again is in use.
        FingerprintMismatch: such a session belongs to another model.  SleepFailed: a sleep was not usable.
    """
    family = Family(archive)
    plan = planned(family, session_id, seqs, phrases, cascade)
    thread, affected = plan.threads, [family.sessions[one] for one in plan.affected]
    with ExitStack() as locks:
        for one in affected:
            if one.id not in held:
                locks.enter_context(SessionLock(archive, one.id))
            if one.fingerprint != shared.backend.fingerprint and one.id not in thread:
                raise FingerprintMismatch(
                    f"thread {one.scope.thread!r} has seen what is to be forgotten, and belongs to model "
                    f"{one.fingerprint[:12]}; forget with that model at hand, or forget the whole thread"
                )
        # What the locks now keep as it is may have moved since it was first looked at.
        affected = [archive.session(one.id) for one in affected]
        regrowths = [_regrown(shared, family, one, plan, progress) for one in affected]
        freed = regrow(archive, regrowths, plan.condemned, len(plan.gone))
        names = tuple(one.scope.thread for one in affected if one.id not in thread)
    return Forgotten(
        messages=len(plan.gone),
        snapshots=len(plan.condemned),
        threads=tuple(family.sessions[one].scope.thread for one in thread),
        rebuilt=names,
        state_bytes=freed,
        repeats=plan.repeats,
        out_of_reach=tuple(archive.database.purge()),
    )


def forget_everything(archive: UserArchive) -> Forgotten:
    """Forgets a user: threads, states, texts, and the key of their hashes.

    Raises:
        SessionBusy: a session of the user is in use.
    """
    threads = archive.sessions()
    with ExitStack() as locks:
        for one in threads:
            locks.enter_context(SessionLock(archive, one.id))
        size = sum(one.state_bytes for one in archive.all_snapshots() if one.status == "stored")
        _sessions, events, snapshots = forget_user(archive)
    return Forgotten(
        messages=events,
        snapshots=snapshots,
        threads=tuple(one.scope.thread for one in threads),
        rebuilt=(),
        state_bytes=size,
        repeats=(),
        out_of_reach=tuple(archive.database.purge()),
    )


def whole_turns(archive: UserArchive, session_id: str, seqs: Collection[int]) -> set[int]:
    """These messages; of a turn that lies in the log in parts, all of them.

    Raises:
        InputError: one of them is no message.
    """
    log = {event.seq: event for event in archive.events(session_id)}
    turns: dict[int, list[int]] = {}
    parts: list[int] = []
    for event in log.values():
        if event.kind == "tokens" and event.data.get("generated"):
            parts.append(event.seq)
            if not event.data.get("open"):
                turns.update(dict.fromkeys(parts, parts))
                parts = []
    for seq in seqs:
        if seq not in log or log[seq].kind != "tokens":
            what = "a sleep" if seq in log else "nothing"
            raise InputError(f"event {seq} of session {session_id} is {what}; messages() tells the seqs of messages")
    return {part for seq in seqs for part in turns.get(seq, [seq])}


def repeated(family: Family, gone: Collection[Place], phrases: Sequence[str]) -> list[tuple[Repeat, str]]:
    """Messages of the user, in any thread, that say what is forgotten, or a phrase, again; with their owners."""
    texts, earliest = [_plain(phrase) for phrase in phrases], None
    for one in family.sessions:
        for event in family.own(one):
            if (one, event.seq) in gone:
                texts += [_plain(event.text)] if event.text else []
                earliest = min(earliest or event.created, event.created)
    texts = [text for text in texts if text]
    found = []
    for one in family.sessions:
        for event in family.own(one):
            if (one, event.seq) in gone or not event.text or earliest is None or event.created < earliest:
                continue
            if any(text in _plain(event.text) for text in texts):
                thread = family.sessions[one].scope.thread
                found.append((Repeat(thread=thread, seq=event.seq, role=event.role, text=event.text), one))
    return found


def _by_session(places: Collection[Place]) -> dict[str, set[int]]:
    found: dict[str, set[int]] = {}
    for owner, seq in places:
        found.setdefault(owner, set()).add(seq)
    return found


def _is_message(event: Event) -> bool:
    """Whether it is one, or the end of one: of a turn in parts, the last one tells its text."""
    return event.kind == "tokens" and not event.data.get("open")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _regrown(
    shared: Shared,
    family: Family,
    session: SessionRecord,
    plan: Plan,
    progress: Progress | None,
) -> Regrowth:
    """What becomes of a session."""
    kept = Regrowth(
        session_id=session.id, base=None, expected_head=session.head, expected_events=session.events, line=None
    )
    if session.id in plan.threads:
        return kept
    first = family.first(session.id, plan.touched)
    assert first is not None
    archive = family.archive
    log = archive.events(session.id)
    base = base_of(archive, session.id, first)
    place = base.span[1] if base else 0
    lost = {seq for seq in range(place, len(log)) if family.owner(session.id, seq) in plan.gone}
    with scratch(shared, archive, log[:place], base) as again:
        reread(again, script(log[place:], lost), progress, behind=place if base else None)
        events = again.archive.events(again.id, place)
        made = [one for one in again.archive.snapshots(again.id) if base is None or one.id != base.id]
        states = {one.id: again.archive.load_state(one.id) for one in made if one.status == "stored"}
        snapshots = [replace(one, tenant=archive.tenant, user=archive.name) for one in made]
    return replace(kept, base=base, line=Line(events=events, snapshots=snapshots, states=states))
