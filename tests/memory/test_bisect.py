"""Which sleep was it: found in few calls, honest where it cannot be told, refused where there is nothing to find."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.archive import Snapshot
from agentsleep.errors import InputError
from agentsleep.memory.bisect import Bisection, Trial, bisect


def lineage(length: int) -> list[Snapshot]:
    """Snapshots of one session, oldest first; ids begin with their place."""
    return [
        Snapshot(
            id=f"{place:04d}{'0' * 28}",
            tenant="t",
            user="u",
            session_id="s",
            parent=f"{place - 1:04d}{'0' * 28}" if place else None,
            fingerprint="f",
            passes=2,
            rounds=1,
            span=(place, place + 1),
            tokens=10 * (place + 1),
            trigger="asked",
            mode="light",
            environment={},
            metrics={},
            probe={},
            status="stored",
            state_digest="d",
            state_bytes=64,
            created=datetime(2026, 1, 1, tzinfo=UTC) + timedelta(hours=place),
            tag=None,
        )
        for place in range(length)
    ]


def place(snapshot: Snapshot) -> int:
    return int(snapshot.id[:4])


def good_until(first_bad: int, unclear: frozenset[int] = frozenset()) -> Callable[[Snapshot], bool | None]:
    return lambda snapshot: None if place(snapshot) in unclear else place(snapshot) < first_bad


def asked(found: Bisection) -> list[tuple[int, bool | None]]:
    return [(place(trial.snapshot), trial.good) for trial in found.trials]


@given(st.integers(2, 400), st.data())
def test_the_first_bad_one_is_found_in_few_calls(length: int, data: st.DataObject) -> None:
    first_bad = data.draw(st.integers(1, length - 1))
    snapshots = lineage(length)
    found = bisect(snapshots, good_until(first_bad))
    assert found.first_bad == snapshots[first_bad]
    assert found.candidates == (snapshots[first_bad],)
    assert found.last_good == snapshots[first_bad - 1]
    assert all(good is (at < first_bad) for at, good in asked(found))
    assert len({at for at, _ in asked(found)}) == len(found.trials) <= 2 + math.ceil(math.log2(length))
    assert found.trials[-1].left == 1


@given(st.integers(2, 120), st.data())
def test_what_cannot_be_told_leaves_the_narrowest_range(length: int, data: st.DataObject) -> None:
    first_bad = data.draw(st.integers(1, length - 1))
    unclear = data.draw(st.frozensets(st.integers(1, max(1, length - 2)), max_size=length)) - {length - 1}
    snapshots = lineage(length)
    found = bisect(snapshots, good_until(first_bad, unclear))
    last_good = max(at for at in range(first_bad) if at not in unclear)
    surely_bad = min(at for at in range(first_bad, length) if at not in unclear)
    assert found.last_good == snapshots[last_good]
    assert found.candidates == tuple(snapshots[last_good + 1 : surely_bad + 1])
    assert snapshots[first_bad] in found.candidates
    assert (found.first_bad is None) == (len(found.candidates) > 1)
    calls = [at for at, _ in asked(found)]
    assert len(set(calls)) == len(calls)  # none is asked twice
    skipped = sum(good is None for _, good in asked(found))
    assert len(calls) <= 2 + math.ceil(math.log2(length)) + 2 * skipped


@given(st.lists(st.booleans(), max_size=60))
def test_of_several_places_where_good_turns_bad_one_is_found(between: list[bool]) -> None:
    verdicts = [True, *between, False]
    found = bisect(lineage(len(verdicts)), lambda snapshot: verdicts[place(snapshot)])
    assert found.first_bad is not None
    at = place(found.first_bad)
    assert (verdicts[at - 1], verdicts[at]) == (True, False)


@given(st.integers(1, 100), st.data())
def test_where_it_held_before_the_first(length: int, data: st.DataObject) -> None:
    first_bad = data.draw(st.integers(0, length - 1))
    snapshots = lineage(length)
    found = bisect(snapshots, good_until(first_bad), good_before=True)
    assert found.first_bad == snapshots[first_bad]
    assert found.last_good == (snapshots[first_bad - 1] if first_bad else None)
    assert len(found.trials) <= 1 + math.ceil(math.log2(length)) if length > 1 else len(found.trials) == 1


def test_a_range_may_begin_with_the_lineage() -> None:
    snapshots = lineage(3)
    found = bisect(snapshots, good_until(1, frozenset({0})), good_before=True)
    assert (found.candidates, found.last_good, found.first_bad) == (tuple(snapshots[:2]), None, None)


def test_progress_is_told_call_by_call() -> None:
    told: list[Trial] = []
    found = bisect(lineage(9), good_until(3, frozenset({4})), progress=told.append)
    assert tuple(told) == found.trials
    assert asked(found) == [(8, False), (0, True), (4, None), (3, False), (1, True), (2, True)]
    assert [trial.left for trial in told] == [9, 8, 8, 3, 2, 1]


def test_the_newest_is_good() -> None:
    calls: list[Snapshot] = []

    def good(snapshot: Snapshot) -> bool:
        calls.append(snapshot)
        return True

    snapshots = lineage(9)
    with pytest.raises(InputError, match=r"newest snapshot 00080000 is good: there is nothing to find; .*go on to"):
        bisect(snapshots, good)
    assert calls == [snapshots[8]]  # nothing more was paid for


@pytest.mark.parametrize("length", [1, 2, 9])
def test_the_oldest_is_bad_already(length: int) -> None:
    with pytest.raises(InputError, match=r"oldest snapshot 00000000 is bad already.*good_before=True.*begin with a"):
        bisect(lineage(length), lambda snapshot: False)
    assert bisect(lineage(length), lambda snapshot: False, good_before=True).first_bad == lineage(length)[0]


@pytest.mark.parametrize(
    ("unclear", "message"),
    [(4, r"newest snapshot 00040000 is good; leave it out"), (0, r"oldest snapshot 00000000 is good; begin with one")],
)
def test_an_end_that_cannot_be_told(unclear: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        bisect(lineage(5), good_until(2, frozenset({unclear})))


def test_no_snapshots() -> None:
    with pytest.raises(InputError, match=r"no snapshots to bisect"):
        bisect([], lambda snapshot: True)


def never(snapshot: Snapshot) -> bool:
    raise AssertionError("asked before the lineage was checked")


def branched() -> Sequence[Snapshot]:
    trunk = lineage(3)
    return [*trunk, replace(trunk[2], id="f" * 32)]


@pytest.mark.parametrize(
    ("snapshots", "message"),
    [
        (lineage(3)[::-1], r"00020000 comes before its parent 00010000; give the lineage oldest first"),
        ([*lineage(3), lineage(3)[1]], r"snapshot 00010000 is given twice"),
        (branched(), r"snapshots 00020000 and ffffffff are on two branches from 00010000"),
        ([replace(lineage(1)[0], parent=lineage(1)[0].id)], r"00000000 comes before its parent"),
    ],
)
def test_what_is_no_lineage_is_refused_before_any_call(snapshots: Sequence[Snapshot], message: str) -> None:
    with pytest.raises(InputError, match=message):
        bisect(snapshots, never)


def test_some_of_a_lineage_may_be_left_out() -> None:
    found = bisect(lineage(100)[::7], good_until(50))
    assert found.first_bad is not None
    assert place(found.first_bad) == 56


@pytest.mark.parametrize("returned", ["no", 1, 0, []])
def test_other_values_than_true_false_and_none_are_refused(returned: object) -> None:
    with pytest.raises(InputError, match=r"predicate returned .* for snapshot 00040000; it must return True, False"):
        bisect(lineage(5), lambda snapshot: returned)  # type: ignore[arg-type,return-value]


@pytest.mark.parametrize("error", [RuntimeError("the model broke"), KeyboardInterrupt()])
def test_exceptions_pass_with_what_was_found_by_then(error: BaseException) -> None:
    def good(snapshot: Snapshot) -> bool | None:
        if place(snapshot) == 3:
            raise error
        return None if place(snapshot) == 4 else place(snapshot) < 7

    with pytest.raises(type(error)) as caught:
        bisect(lineage(9), good)
    assert caught.value is error
    assert error.__notes__ == [
        "bisect, by then: 00080000 bad, 00000000 good, 00040000 cannot tell; snapshots still in question: 8"
    ]


def test_the_first_call_breaks() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        bisect(lineage(3), lambda snapshot: bool(1 // 0))
    assert not hasattr(caught.value, "__notes__")  # nothing had been found


def test_progress_may_stop_it() -> None:
    def stop(trial: Trial) -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError) as caught:
        bisect(lineage(3), good_until(1), progress=stop)
    assert caught.value.__notes__ == ["bisect, by then: 00020000 bad; snapshots still in question: 3"]
