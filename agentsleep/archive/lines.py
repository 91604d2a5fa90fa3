"""Lines of snapshots, from the heads of sessions to their first ancestors: who stands where."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Select, literal, select
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive.schema import SessionRow, SnapshotRow

_MANY = 500  # parameters in one statement


def batches(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """As many ids as one statement takes."""
    return (ids[start : start + _MANY] for start in range(0, len(ids), _MANY))


def newest(tx: Transaction, scope_id: str, heads: Select[str | None], last: int) -> set[str]:
    """The newest `last` snapshots of the line of each head."""
    columns: tuple[Any, ...] = (SnapshotRow.id, SnapshotRow.parent_id)
    mine = SnapshotRow.scope_id == scope_id
    line = select(*columns, literal(1).label("n")).where(mine, SnapshotRow.id.in_(heads)).cte("line", recursive=True)
    above = select(*columns, line.c.n + 1).join(line, SnapshotRow.id == line.c.parent_id)
    return set(tx.scalars(select(line.union_all(above.where(mine, line.c.n < last)).c.id)))


def held(tx: Transaction, scope_id: str, snapshot_ids: Sequence[str], last: int) -> set[str]:
    """Those of `snapshot_ids` that are among the newest `last` of the line of any head."""
    found: set[str] = set()
    mine = SnapshotRow.scope_id == scope_id
    for some in batches(snapshot_ids):
        root = select(SnapshotRow.id.label("root"), SnapshotRow.id, literal(1).label("n"))
        tree = root.where(mine, SnapshotRow.id.in_(some)).cte("tree", recursive=True)
        below = select(tree.c.root, SnapshotRow.id, tree.c.n + 1).join(tree, SnapshotRow.parent_id == tree.c.id)
        tree = tree.union_all(below.where(mine, tree.c.n < last))
        heads = select(tree.c.root).join(SessionRow, SessionRow.head_id == tree.c.id)
        found.update(tx.scalars(heads.where(SessionRow.scope_id == scope_id).distinct()))
    return found


def depths(tx: Transaction, scope_id: str, snapshot_ids: Collection[str]) -> dict[str, int]:
    """For these snapshots and all of their ancestors, how many snapshots their line has up to them, themselves too."""
    parents: dict[str, str | None] = {}
    mine = SnapshotRow.scope_id == scope_id
    for some in batches(list(snapshot_ids)):
        up = select(SnapshotRow.id, SnapshotRow.parent_id).where(mine, SnapshotRow.id.in_(some))
        line = up.cte("line", recursive=True)
        above = select(SnapshotRow.id, SnapshotRow.parent_id).join(line, SnapshotRow.id == line.c.parent_id).where(mine)
        line = line.union(above)  # each once: lines that share their beginning are not counted again
        parents.update((one, parent) for one, parent in tx.execute(select(line.c.id, line.c.parent_id)))
    found: dict[str, int] = {}
    for one in parents:
        path: list[str] = []
        at: str | None = one
        while at is not None and at in parents and at not in found:
            path.append(at)
            at = parents[at]
        depth = found.get(at or "", 0)
        for step in reversed(path):
            depth += 1
            found[step] = depth
    return found
