"""The tree of sessions and snapshots: forks where they leave, marks, folded runs, pruned parents, any length."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.tree import Tree

from agentsleep.archive import Scope, SessionRecord, Snapshot
from agentsleep.cli.tree import lineage_document, lineage_tree
from agentsleep.errors import ArchiveDamaged

START = datetime(2026, 1, 1, tzinfo=UTC)


def snapshot(number: int, parent: int | None, session: str = "one", **changes: Any) -> Snapshot:
    made = Snapshot(
        id=name(number),
        tenant="t",
        user="u",
        session_id=session,
        parent=None if parent is None else name(parent),
        fingerprint="f",
        passes=4,
        rounds=1,
        span=(number, number + 1),
        tokens=100 * (number + 1),
        trigger="asked",
        mode="light",
        environment={},
        metrics={},
        probe={},
        status="stored",
        state_digest="d",
        state_bytes=18_900_000,
        created=START + timedelta(minutes=number),
        tag=None,
    )
    return replace(made, **changes)


def name(number: int) -> str:
    return f"{number:08x}{'0' * 24}"


def row(numbers: range, session: str = "one", parent: int | None = None) -> list[Snapshot]:
    """A line of snapshots."""
    return [snapshot(n, parent if n == numbers[0] else n - 1, session) for n in numbers]


def session(thread: str, head: int | None, age: int = 0) -> SessionRecord:
    return SessionRecord(
        id=thread,
        scope=Scope(tenant="t", user="u", thread=thread),
        fingerprint="f",
        settings={},
        head=None if head is None else name(head),
        forked_from=None,
        events=0,
        tokens=5,
        created=START + timedelta(minutes=age),
    )


def lines(tree: Tree, width: int = 200) -> list[str]:
    console = Console(width=width, no_color=True)
    with console.capture() as capture:
        console.print(tree)
    return [line.rstrip() for line in capture.get().splitlines()]


def test_a_line_with_all_that_is_to_be_told() -> None:
    second = snapshot(1, 0, tag="only bob", mode="deep", rounds=2, tokens=1)
    assert lines(lineage_tree([session("one", 1)], [snapshot(0, None), second])) == [
        "1 session, 2 snapshots",
        "└── one",
        "    ├── 00000000  2026-01-01 00:00:00  light  4 x 1  100 tokens  18.9 MB",
        "    └── 00000001  2026-01-01 00:01:00  deep   4 x 2  1 token  18.9 MB  #only bob  ← one",
    ]


def test_forks_branch_where_they_leave() -> None:
    sessions = [session("one", 3), session("late", 2, 3), session("two", 11, 1), session("three", 20, 2)]
    snapshots = [*row(range(4)), *row(range(10, 12), "two", parent=1), snapshot(20, 1, "three")]
    found = [line.replace("2026-01-01 ", "").split("  light")[0] for line in lines(lineage_tree(sessions, snapshots))]
    assert found == [
        "4 sessions, 7 snapshots",
        "└── one",
        "    ├── 00000000  00:00:00",
        "    ├── 00000001  00:01:00",
        "    │   ├── two",
        "    │   │   ├── 0000000a  00:10:00",
        "    │   │   └── 0000000b  00:11:00",
        "    │   └── three",
        "    │       └── 00000014  00:20:00",
        "    ├── 00000002  00:02:00",
        "    └── 00000003  00:03:00",
    ]
    marks = [line.partition("MB")[2].strip() for line in lines(lineage_tree(sessions, snapshots)) if "MB" in line]
    assert marks == ["", "", "", "← two", "← three", "← late", "← one"]


def test_the_own_session_goes_on_with_the_line_also_where_a_fork_slept_first() -> None:
    snapshots = [snapshot(0, None), snapshot(1, 0, "fork"), snapshot(2, 0, "one")]
    document = lineage_document([session("one", 2), session("fork", 1)], snapshots)
    (line,) = document["lines"]
    assert [entry["id"] for entry in line["snapshots"]] == [name(0), name(2)]
    assert [fork["thread"] for fork in line["snapshots"][0]["forks"]] == ["fork"]


def test_a_fork_of_the_last_one_goes_on_with_the_line_and_is_named() -> None:
    shown = lines(lineage_tree([session("one", 1), session("two", 3)], [*row(range(2)), *row(range(2, 4), "two", 1)]))
    assert len(shown) == 6
    assert shown[3].endswith("MB  ← one")
    assert shown[4].endswith("MB  in two")
    assert shown[5].endswith("MB  ← two")


def test_order_does_not_count() -> None:
    sessions = [session("one", 3), session("two", 11)]
    snapshots = [*row(range(4)), *row(range(10, 12), "two", parent=1)]
    assert lines(lineage_tree(sessions[::-1], snapshots[::-1])) == lines(lineage_tree(sessions, snapshots))
    assert lineage_document(sessions[::-1], [*snapshots[::-1], snapshots[0]]) == lineage_document(sessions, snapshots)


@pytest.mark.parametrize(("between", "folded"), [(6, False), (7, True)])
def test_more_than_six_in_a_row_are_folded(between: int, folded: bool) -> None:
    snapshots = row(range(between + 2))
    shown = lines(lineage_tree([session("one", between + 1)], snapshots))
    assert len(shown) == (5 if folded else between + 4)
    assert any(line.endswith("├── … 7 sleeps …") for line in shown) == folded
    assert len(lines(lineage_tree([session("one", between + 1)], snapshots, full=True))) == between + 4


def test_marks_forks_and_ends_are_never_folded() -> None:
    snapshots = row(range(50))
    snapshots[10] = replace(snapshots[10], tag="keep")
    snapshots.append(snapshot(60, 20, "two"))
    shown = "\n".join(lines(lineage_tree([session("one", 49), session("back", 30), session("two", 60)], snapshots)))
    for number in (0, 10, 20, 30, 49, 60):
        assert name(number)[:8] in shown
    assert [int(line.split()[-3]) for line in shown.splitlines() if "sleeps …" in line] == [9, 9, 9, 18]
    assert shown.count("light") == 6


def test_what_was_pruned_begins_a_line_and_says_so() -> None:
    pruned = replace(snapshot(6, 5), status="pruned")
    shown = lines(
        lineage_tree([session("one", 6), session("gone", 3, 1), session("new", None, 2)], [snapshot(5, 4), pruned])
    )
    assert shown[2].endswith("MB  (parent pruned)")
    assert shown[3].endswith("MB  (state pruned)  ← one")
    assert shown[4].endswith("gone  (its newest state, 00000003, is not listed)")
    assert shown[5].endswith("new  (no sleep yet)")
    (line,) = lineage_document([], [snapshot(5, 4), pruned])["lines"]
    assert [(entry["parent_pruned"], entry["status"]) for entry in line["snapshots"]] == [
        (True, "stored"),
        (False, "pruned"),
    ]


def test_snapshots_without_their_session() -> None:
    assert lines(lineage_tree([], [snapshot(0, None)]))[1].endswith("(a session that is not listed)")
    assert lineage_document([], [snapshot(0, None)])["lines"][0]["thread"] is None
    assert lines(lineage_tree([], [])) == ["0 sessions, 0 snapshots"]
    assert lineage_document([], []) == {"sessions": [], "lines": []}


def test_names_are_shown_as_they_are_and_on_one_line() -> None:
    thread, tag = "[red]a[/red]\nb", "\x1b[31mx :smile:"
    shown = lines(lineage_tree([session(thread, 0)], [snapshot(0, None, thread, tag=tag)]))
    assert len(shown) == 3
    assert shown[1].endswith("[red]a[/red]\\nb")
    assert shown[2].endswith("#\\x1b[31mx :smile:  ← [red]a[/red]\\nb")


def test_a_thousand_in_a_row() -> None:
    sessions, snapshots = [session("one", 999)], row(range(1000))
    assert lines(lineage_tree(sessions, snapshots))[3].endswith("… 998 sleeps …")
    assert len(lines(lineage_tree(sessions, snapshots, full=True))) == 1002
    document = json.loads(json.dumps(lineage_document(sessions, snapshots)))
    assert len(document["lines"][0]["snapshots"]) == 1000


def test_a_hundred_forks_of_forks() -> None:
    snapshots = [snapshot(0, None, "s0"), snapshot(1, 0, "s0")]
    for depth in range(1, 100):
        begun = 2 * depth
        snapshots += row(range(begun, begun + 2), f"s{depth}", parent=begun - 2)
    sessions = [session(f"s{depth}", 2 * depth + 1) for depth in range(100)]
    tree = lineage_tree(sessions, snapshots)
    assert len(lines(tree, width=1000)) == 301
    assert lines(tree, width=60)  # narrower than the tree is deep
    document: Any = json.loads(json.dumps(lineage_document(sessions, snapshots)))
    depth, below = 0, document["lines"]
    while below:
        depth, below = depth + 1, below[0]["snapshots"][0]["forks"]
    assert depth == 100


@pytest.mark.parametrize(
    "ring", [[snapshot(0, 0)], [snapshot(0, 2), snapshot(1, 0), snapshot(2, 1), snapshot(3, None)]]
)
def test_a_circle_is_refused(ring: Sequence[Snapshot]) -> None:
    with pytest.raises(ArchiveDamaged, match=r"lineage of snapshot 0{32} leads in a circle \([13] such\)"):
        lineage_tree([], ring)
    with pytest.raises(ArchiveDamaged):
        lineage_document([], ring)


def placed(some: Sequence[Any], parent: str | None) -> list[tuple[str, str | None]]:
    """Every snapshot of these lines with the parent that its place gives it."""
    found: list[tuple[str, str | None]] = []
    for line in some:
        above = parent
        for entry in line["snapshots"]:
            found.append((entry["id"], above))
            found += placed(entry["forks"], entry["id"])
            above = entry["id"]
    return found


@given(st.data())
def test_every_snapshot_has_its_place_once_below_its_parent(data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 15))
    snapshots = [
        snapshot(n, data.draw(st.none() | st.integers(0, n - 1)) if n else None, data.draw(st.sampled_from("abc")))
        for n in range(count)
    ]
    gone = data.draw(st.frozensets(st.integers(0, 14), max_size=4))
    left = [one for n, one in enumerate(snapshots) if n not in gone]
    known = {one.id for one in left}
    expected = {(one.id, one.parent if one.parent in known else None) for one in left}
    sessions = [session(thread, data.draw(st.none() | st.integers(0, 15))) for thread in "abc"]
    found = placed(lineage_document(sessions, left)["lines"], None)
    assert len(found) == len(left)
    assert set(found) == expected
    shown = lines(lineage_tree(sessions, left, full=True))
    assert sum("light" in line for line in shown) == len(left)
