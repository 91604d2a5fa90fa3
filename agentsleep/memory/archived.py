"""The archived half of a session: its history, its log, and what can be done with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from agentsleep.archive import Event, Hit, SessionRecord, Snapshot
from agentsleep.compare import StateDiff, compare
from agentsleep.errors import InputError, SnapshotNotFound
from agentsleep.memory.bisect import Bisection, Trial, bisect
from agentsleep.memory.desk import Desk
from agentsleep.memory.lineage import replay
from agentsleep.memory.restoring import Recovered, recover, state_at
from agentsleep.memory.shared import Shared
from agentsleep.sleep import check_depth
from agentsleep.state import FastWeights

SOURCES = 5
"""How many messages an answer names at most."""


class Archived:
    """What the archive holds of a session. Nothing in here changes the open window, but by way of the desk."""

    def __init__(self, shared: Shared, record: SessionRecord, desk: Desk) -> None:
        self.id, self.scope = record.id, record.scope
        self.archive = shared.archive.user(record.scope.tenant, record.scope.user)
        """The user's part of the archive."""
        self.desk = desk
        self.shared, self._archive = shared, self.archive

    def history(self) -> list[Snapshot]:
        """All snapshots that the head descends from, oldest first, itself included."""
        return self._archive.snapshots(self.id)

    def messages(self) -> list[Event]:
        """What was said, as the log has it, oldest first. A turn that a sleep fell into comes in parts; the text is
        with the last one."""
        self.desk.end_abandoned()
        return [e for e in self._archive.events(self.id) if e.kind == "tokens" and e.token_ids]

    def search(
        self, query: str, *, limit: int = 20, roles: Sequence[str] | None = None, any_word: bool = False
    ) -> list[Hit]:
        """Messages of this session that hold all words of ``query`` (``any_word``: one of them), the best first.

        The state is for reasoning; this is for proof, and for what the state no longer holds.

        Raises:
            InputError: a blank query, or a limit outside 1 to 1,000.
        """
        thread = self._archive.session(self.id).scope.thread
        return self._archive.search(query, thread=thread, limit=limit, roles=roles, any_word=any_word)

    def _sources(self, question: str, answer: str, before: int) -> tuple[Hit, ...]:
        """Messages from before seq ``before`` that share words with question and answer."""
        try:
            found = self.search(f"{question} {answer}", limit=SOURCES + 2, any_word=True)
        except InputError:  # no word in it, or too many
            return ()
        return tuple(hit for hit in found if hit.seq < before)[:SOURCES]

    def tag(self, name: str | None, snapshot: Snapshot | None = None) -> Snapshot:
        """Names a snapshot, the head by default; None takes its name away. What has a name is never pruned.

        Raises:
            SnapshotNotFound: no such snapshot, or nothing was slept on yet.
        """
        chosen = snapshot or self.desk.look().head
        if chosen is None:
            raise SnapshotNotFound(f"the session of {self.scope} has no snapshot yet; sleep() makes one")
        return self._archive.tag(chosen.id, name)

    def replay(
        self,
        start: Snapshot | None = None,
        stop: Snapshot | None = None,
        *,
        passes: int | None = None,
        rounds: int | None = None,
    ) -> FastWeights:
        """Computes the head's state again from the event log: bit-equal in an equal environment.

        Args:
            start: begin with this snapshot's state; None: with nothing, at the beginning of the log.
            stop: the state of this snapshot instead of the head's.
            passes, rounds: sleep that deep instead of as deep as it was.

        Raises:
            InputError: a snapshot is none of this session's, or ``stop`` comes before ``start``.
            SettingsError: passes or rounds below 1.
        """
        check_depth(passes or 1, rounds or 1)
        log = self._archive.events(self.id)
        for snapshot in (start, stop):
            if snapshot is not None:
                self._check_mine(snapshot)
        if start and stop and start.span[1] > stop.span[1]:
            raise InputError(f"snapshot {stop.id} comes before {start.id}; give them in the order of history()")
        with self.shared.queue:
            opened = state_at(self.shared, self._archive, start, log) if start else None
            log = log[: stop.span[1]] if stop else log
            place = start.span[1] if start else 0
            return replay(self.shared.backend, log, opened, place, passes=passes, rounds=rounds)

    def state_of(self, snapshot: Snapshot) -> FastWeights:
        """The state of a snapshot of this session: as it is stored, or computed from the log if it was pruned.

        Raises:
            InputError: it is none of this session's.  SnapshotDamaged: it is not what was stored.
        """
        self._check_mine(snapshot)
        log = self._archive.events(self.id, 0, snapshot.span[1])
        with self.shared.queue:
            return state_at(self.shared, self._archive, snapshot, log)

    def diff(self, old: Snapshot, new: Snapshot | None = None) -> StateDiff:
        """What has changed between two snapshots, by layer and head; ``new`` is the head by default."""
        before, last = self.state_of(old), new or self.desk.look().head
        assert last is not None, "a session that has a snapshot has a head"
        return compare(before, self.state_of(last))

    def bisect(
        self,
        good: Callable[[Snapshot], bool | None],
        *,
        good_before: bool = False,
        progress: Callable[[Trial], None] | None = None,
    ) -> Bisection:
        """Finds the sleep after which ``good`` no longer holds, see :func:`agentsleep.memory.bisect.bisect`."""
        return bisect(self.history(), good, good_before=good_before, progress=progress)

    def recover(self) -> Recovered:
        """Computes damaged states that the head rests on again, from the nearest intact one and the log, and stores
        them.

        Raises:
            ArchiveDamaged: the log is damaged too.
        """
        self.desk.renew()
        return recover(self.shared, self._archive, self.id)

    def _check_mine(self, snapshot: Snapshot) -> None:
        if snapshot.id not in {one.id for one in self.history()}:
            raise InputError(f"snapshot {snapshot.id} is none of {self.scope}; history() lists those that it rests on")
