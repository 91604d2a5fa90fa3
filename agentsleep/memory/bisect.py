"""Which sleep was it: the first snapshot of a lineage that a predicate no longer holds for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agentsleep.archive import Snapshot
from agentsleep.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One call of the predicate.

    good: what it returned; None: it could not tell.
    left: how many snapshots may still be the first bad one after it; at most about log2(left) calls are to come.
    """

    snapshot: Snapshot
    good: bool | None
    left: int


@dataclass(frozen=True, kw_only=True)
class Bisection:
    """What a bisection found.

    candidates: the snapshots that may be the first bad one, oldest first. The last of them is bad, the others could not
        be told; one alone is the answer.
    last_good: the snapshot just before them; None where they begin the lineage.
    trials: every call of the predicate, in the order of the calls.
    """

    candidates: tuple[Snapshot, ...]
    last_good: Snapshot | None
    trials: tuple[Trial, ...]

    @property
    def first_bad(self) -> Snapshot | None:
        """The first bad snapshot; None where snapshots that could not be told leave several candidates."""
        return self.candidates[0] if len(self.candidates) == 1 else None


def bisect(
    snapshots: Sequence[Snapshot],
    good: Callable[[Snapshot], bool | None],
    *,
    good_before: bool = False,
    progress: Callable[[Trial], None] | None = None,
) -> Bisection:
    """Finds the first snapshot for which ``good`` returns False, in O(log n) calls.

    The newest snapshot is asked first and must be bad, then the oldest, which must be good. Where the answers change
    more than once in between, what is found is one of the places at which good turns bad.

    Args:
        snapshots: a lineage, oldest first, such as ``session.history()``; some may be left out.
        good: True, False, or None where it cannot tell; then another one nearby is asked.
        good_before: it is known to hold before the first snapshot. The oldest then need not be good, and may be the
            answer.
        progress: called after each call of ``good``.

    Raises:
        InputError: no snapshots; not one lineage, oldest first; the newest is good; the oldest is bad; one of the two
            cannot be told; ``good`` returned something else than True, False or None.
        Exception: whatever ``good`` or ``progress`` raises, with a note of what had been found by then.
    """
    _check_lineage(snapshots)
    search = _Search(snapshots, good, progress)
    search.check_ends(good_before)
    search.run()
    return search.result()


class _Search:
    """low: index of the newest snapshot known as good, -1 before the first.  high: of the oldest known as bad."""

    def __init__(
        self,
        snapshots: Sequence[Snapshot],
        good: Callable[[Snapshot], bool | None],
        progress: Callable[[Trial], None] | None,
    ) -> None:
        self.snapshots, self.good, self.progress = snapshots, good, progress
        self.low, self.high = -1, len(snapshots)
        self.unclear: set[int] = set()
        self.trials: list[Trial] = []

    def check_ends(self, good_before: bool) -> None:
        """Asks the newest, and the oldest unless it is known what was before."""
        newest, oldest = self.snapshots[-1], self.snapshots[0]
        verdict = self.ask(len(self.snapshots) - 1)
        if verdict is None:
            raise InputError(
                f"the predicate cannot tell whether the newest snapshot {_short(newest)} is good; leave it out, "
                "snapshots[:-1], so that the last one is known to be bad"
            )
        if verdict:
            raise InputError(
                f"the newest snapshot {_short(newest)} is good: there is nothing to find; check the predicate, or go "
                "on to newer snapshots"
            )
        if good_before:
            return
        verdict = False if len(self.snapshots) == 1 else self.ask(0)
        if verdict is None:
            raise InputError(
                f"the predicate cannot tell whether the oldest snapshot {_short(oldest)} is good; begin with one that "
                "is, or pass good_before=True if it held before the first"
            )
        if not verdict:
            raise InputError(
                f"the oldest snapshot {_short(oldest)} is bad already. If the predicate held before it, this is the "
                "first bad one: pass good_before=True. If it began to hold later, begin with a snapshot that is good"
            )

    def run(self) -> None:
        """Asks about the middle of what is open until nothing is."""
        while (index := self.middle()) is not None:
            self.ask(index)

    def middle(self) -> int | None:
        """The snapshot nearest to the middle that has not been asked yet."""
        centre = (self.low + self.high) // 2
        for away in range(self.high - self.low):
            for index in (centre - away, centre + away):
                if self.low < index < self.high and index not in self.unclear:
                    return index
        return None

    def ask(self, index: int) -> bool | None:
        """The predicate's word on a snapshot, kept, and told. Calls may have cost much: what breaks off here carries a
        note of them."""
        try:
            return self._ask(index)
        except BaseException as error:
            if self.trials:
                error.add_note(self.so_far())
            raise

    def _ask(self, index: int) -> bool | None:
        snapshot = self.snapshots[index]
        verdict: object = self.good(snapshot)
        if verdict is None:
            self.unclear.add(index)
        elif verdict is True:
            self.low = index
        elif verdict is False:
            self.high = index
        else:
            raise InputError(
                f"the predicate returned {verdict!r:.80} for snapshot {_short(snapshot)}; it must return True, False, "
                "or None where it cannot tell: wrap the result in bool(...)"
            )
        # Before the newest is known to be bad, `high` lies behind it.
        left = min(self.high, len(self.snapshots) - 1) - self.low
        trial = Trial(snapshot=snapshot, good=verdict, left=left)
        self.trials.append(trial)
        if self.progress is not None:
            self.progress(trial)
        return verdict

    def result(self) -> Bisection:
        """What is known once nothing more can be asked."""
        return Bisection(
            candidates=tuple(self.snapshots[self.low + 1 : self.high + 1]),
            last_good=self.snapshots[self.low] if self.low >= 0 else None,
            trials=tuple(self.trials),
        )

    def so_far(self) -> str:
        """The trials in a line, for whoever has to go on without a result."""
        words = {True: "good", False: "bad", None: "cannot tell"}
        told = ", ".join(f"{_short(trial.snapshot)} {words[trial.good]}" for trial in self.trials)
        return f"bisect, by then: {told}; snapshots still in question: {self.trials[-1].left}"


def _check_lineage(snapshots: Sequence[Snapshot]) -> None:
    """Raises InputError unless these can be snapshots of one lineage, oldest first."""
    if not snapshots:
        raise InputError("there are no snapshots to bisect; give a lineage, such as session.history()")
    places = {snapshot.id: place for place, snapshot in enumerate(snapshots)}
    children: dict[str, Snapshot] = {}
    for place, snapshot in enumerate(snapshots):
        if places[snapshot.id] != place:
            raise InputError(f"snapshot {_short(snapshot)} is given twice; give each of a lineage once")
        if snapshot.parent is None:
            continue
        if places.get(snapshot.parent, -1) >= place:
            raise InputError(
                f"snapshot {_short(snapshot)} comes before its parent {snapshot.parent[:8]}; give the lineage oldest "
                "first, as session.history() does"
            )
        sibling = children.setdefault(snapshot.parent, snapshot)
        if sibling is not snapshot:
            raise InputError(
                f"snapshots {_short(sibling)} and {_short(snapshot)} are on two branches from {snapshot.parent[:8]}; "
                "give the lineage of one session"
            )


def _short(snapshot: Snapshot) -> str:
    return snapshot.id[:8]
