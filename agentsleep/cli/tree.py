"""A user's sessions and snapshots as a tree: what came from what, and where forks leave.

A *line* is a row of snapshots, each the parent of the next. Where a snapshot has several children, the one of its own
session goes on with the line, else the oldest; the others begin lines of their own. So a thousand sleeps in a row are
a thousand places in one list, and only forks nest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from rich.filesize import decimal
from rich.text import Text
from rich.tree import Tree

from agentsleep.archive import SessionRecord, Snapshot
from agentsleep.errors import ArchiveDamaged

LONGEST = 6  # snapshots in a row of which there is nothing to tell; more are folded into one line


@dataclass
class _Line:
    """forks: the lines that leave, by the id of the snapshot they leave from."""

    snapshots: list[Snapshot] = field(default_factory=list)
    forks: dict[str, list[_Line]] = field(default_factory=dict)


@dataclass
class _Forest:
    """threads: by the session's id.  heads: by a snapshot's id the threads whose newest state it is.
    apart: sessions whose head is none of the snapshots."""

    lines: list[_Line]
    known: set[str]
    threads: Mapping[str, str]
    heads: Mapping[str, list[str]]
    apart: list[SessionRecord]

    def is_cut(self, snapshot: Snapshot) -> bool:
        """Whether it has a parent that is not among the snapshots."""
        return snapshot.parent is not None and snapshot.parent not in self.known

    def must_show(self, line: _Line, place: int) -> bool:
        """Whether a snapshot of a line is never folded: it begins or ends the line or a session, or has a mark."""
        here = line.snapshots[place]
        return (
            place in (0, len(line.snapshots) - 1)
            or here.session_id != line.snapshots[place - 1].session_id
            or here.tag is not None
            or here.id in self.heads
            or here.id in line.forks
        )


def lineage_tree(sessions: Sequence[SessionRecord], snapshots: Sequence[Snapshot], *, full: bool = False) -> Tree:
    """The tree for a terminal: every line below its thread's name, forks below the snapshot that they leave.

    Args:
        sessions: of one user, in any order.
        snapshots: of these sessions, in any order. One whose parent is not among them begins a line.
        full: False folds more than six snapshots in a row that have no fork, head or tag into one line.

    Raises:
        ArchiveDamaged: a snapshot descends from itself.
    """
    forest = _forest(sessions, snapshots)
    root = Tree(Text(f"{_count(len(sessions), 'session')}, {_count(len(forest.known), 'snapshot')}"))
    waiting = deque((root, line) for line in forest.lines)
    while waiting:
        above, line = waiting.popleft()
        session = line.snapshots[0].session_id
        node = above.add(Text(_thread(session, forest), style="bold"))
        run: list[Snapshot] = []
        for place, snapshot in enumerate(line.snapshots):
            if not forest.must_show(line, place):
                run.append(snapshot)
                continue
            _add_run(node, run, forest, full)
            run = []
            here = node.add(_label(snapshot, forest, changed=snapshot.session_id != session))
            session = snapshot.session_id
            waiting += [(here, fork) for fork in line.forks.get(snapshot.id, [])]
    for record in forest.apart:
        state = "no sleep yet" if record.head is None else f"its newest state, {record.head[:8]}, is not listed"
        root.add(Text.assemble((_plain(record.scope.thread), "bold"), f"  ({state})"))
    return root


def lineage_document(sessions: Sequence[SessionRecord], snapshots: Sequence[Snapshot]) -> dict[str, Any]:
    """The same for JSON, nothing folded: ``sessions``, oldest first, and ``lines``. A line has the ``thread`` of its
    first snapshot (None where its session is not listed) and ``snapshots``, oldest first, each with the ``forks`` that
    leave it: lines again. It is as deep as forks of forks are, however long the lines.

    Raises:
        ArchiveDamaged: a snapshot descends from itself.
    """
    forest = _forest(sessions, snapshots)
    lines: list[dict[str, Any]] = []
    waiting = deque((lines, line) for line in forest.lines)
    while waiting:
        above, line = waiting.popleft()
        entries = []
        for snapshot in line.snapshots:
            forks: list[dict[str, Any]] = []
            entries.append({**_entry(snapshot, forest), "forks": forks})
            waiting += [(forks, fork) for fork in line.forks.get(snapshot.id, [])]
        above.append({"thread": forest.threads.get(line.snapshots[0].session_id), "snapshots": entries})
    records = [
        {"thread": record.scope.thread, "head": record.head, "forked_from": record.forked_from, "tokens": record.tokens}
        for record in sorted(sessions, key=_age)
    ]
    return {"sessions": records, "lines": lines}


def _forest(sessions: Sequence[SessionRecord], snapshots: Sequence[Snapshot]) -> _Forest:
    by_id = {snapshot.id: snapshot for snapshot in sorted(snapshots, key=_age)}
    heads: dict[str, list[str]] = {}
    apart = []
    for record in sorted(sessions, key=_age):
        if record.head is not None and record.head in by_id:
            heads.setdefault(record.head, []).append(record.scope.thread)
        else:
            apart.append(record)
    children: dict[str, list[Snapshot]] = {}
    lines: list[_Line] = []
    waiting: deque[tuple[list[_Line], Snapshot]] = deque()
    for snapshot in by_id.values():
        if snapshot.parent is not None and snapshot.parent in by_id:
            children.setdefault(snapshot.parent, []).append(snapshot)
        else:
            waiting.append((lines, snapshot))
    placed = set()
    while waiting:
        above, first = waiting.popleft()
        above.append(line := _Line())
        row = [first]
        while row:
            here = row[0]
            line.snapshots.append(here)
            placed.add(here.id)
            # of its own session first; the order is otherwise kept
            row = sorted(children.get(here.id, []), key=lambda child: child.session_id != line.snapshots[-1].session_id)
            if len(row) > 1:
                forks = line.forks.setdefault(here.id, [])
                waiting += [(forks, child) for child in row[1:]]
    if lost := sorted({*by_id} - placed):
        raise ArchiveDamaged(
            f"the lineage of snapshot {lost[0]} leads in a circle ({len(lost)} such); restore the archive from a backup"
        )
    threads = {record.id: record.scope.thread for record in sessions}
    return _Forest(lines, placed, threads, heads, apart)


def _add_run(node: Tree, run: Sequence[Snapshot], forest: _Forest, full: bool) -> None:
    if len(run) > LONGEST and not full:
        node.add(Text(f"… {len(run)} sleeps …", style="dim"))
        return
    for snapshot in run:
        node.add(_label(snapshot, forest))


def _label(snapshot: Snapshot, forest: _Forest, *, changed: bool = False) -> Text:
    """changed: the line goes on in another session here."""
    parts: list[str | tuple[str, str]] = [
        f"{snapshot.id[:8]}  {snapshot.created.astimezone(UTC):%Y-%m-%d %H:%M:%S}  {snapshot.mode:<5}  "
        f"{snapshot.passes} x {snapshot.rounds}  {_count(snapshot.tokens, 'token')}  {decimal(snapshot.state_bytes)}"
    ]
    if forest.is_cut(snapshot):
        parts.append(("  (parent pruned)", "dim"))
    if snapshot.status == "pruned":
        parts.append(("  (state pruned)", "dim"))
    if changed:
        parts.append(("  in " + _thread(snapshot.session_id, forest), "bold"))
    if snapshot.tag is not None:
        parts.append((f"  #{_plain(snapshot.tag)}", "italic"))
    for thread in forest.heads.get(snapshot.id, []):
        parts.append((f"  ← {_plain(thread)}", "bold"))
    return Text.assemble(*parts)


def _entry(snapshot: Snapshot, forest: _Forest) -> dict[str, Any]:
    return {
        "id": snapshot.id,
        "parent": snapshot.parent,
        "parent_pruned": forest.is_cut(snapshot),
        "thread": forest.threads.get(snapshot.session_id),
        "created": snapshot.created.isoformat(timespec="seconds"),
        "mode": snapshot.mode,
        "trigger": snapshot.trigger,
        "passes": snapshot.passes,
        "rounds": snapshot.rounds,
        "tokens": snapshot.tokens,
        "state_bytes": snapshot.state_bytes,
        "status": snapshot.status,
        "tag": snapshot.tag,
        "head_of": list(forest.heads.get(snapshot.id, [])),
    }


def _thread(session_id: str, forest: _Forest) -> str:
    thread = forest.threads.get(session_id)
    return "(a session that is not listed)" if thread is None else _plain(thread)


def _plain(name: str) -> str:
    """A name on one line: characters that would move the cursor are written as in Python."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _age(record: SessionRecord | Snapshot) -> tuple[Any, str]:
    return record.created, record.id
