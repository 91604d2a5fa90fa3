"""``agentsleep snapshots diff``: two states, layer by layer and head by head."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentsleep.cli.app import AsJson, emit
from agentsleep.cli.archives import (
    ArchiveFile,
    Model,
    Tenant,
    User,
    archive_place,
    find_snapshot,
    named,
    open_existing,
)
from agentsleep.cli.snapshots import snapshots_app
from agentsleep.errors import FingerprintMismatch, SnapshotPruned

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.archive import Snapshot, UserArchive
    from agentsleep.compare import Change, StateDiff
    from agentsleep.state import FastWeights


@snapshots_app.command("diff")
def diff(
    old: Annotated[str, typer.Argument(help="The earlier snapshot's id or tag.", metavar="OLD", show_default=False)],
    new: Annotated[str, typer.Argument(help="The later snapshot's id or tag.", metavar="NEW", show_default=False)],
    archive: ArchiveFile = None,
    user: User = "default",
    tenant: Tenant = "default",
    png: Annotated[Path | None, typer.Option(help="Draw the layers and heads into this PNG.")] = None,
    replay: Annotated[
        bool, typer.Option("--replay", help="Compute states that were pruned from the log again; loads the model.")
    ] = False,
    model: Model = None,
    as_json: AsJson = False,
) -> None:
    """Compare two states, layer by layer and head by head."""
    with open_existing(archive) as opened:
        theirs = opened.user(tenant, user)
        snapshots = [find_snapshot(theirs, old), find_snapshot(theirs, new)]
        _check_comparable(*snapshots, replay=replay)
        from agentsleep.compare import compare

        states = [_state(theirs, archive, model, snapshot) for snapshot in snapshots]
        found = compare(*states)
        path = opened.database.name
    names = [named(snapshot) for snapshot in snapshots]
    if png is not None:
        from agentsleep.cli.heatmap import plot_heatmap

        plot_heatmap(found, png, title=f"{names[0]} → {names[1]}", legend=f"a: {names[0]}\nb: {names[1]}")
    document = {
        "archive": path,
        "old": snapshots[0].id,
        "new": snapshots[1].id,
        "png": str(png) if png is not None else None,
        **found.as_json(),
    }
    emit(document, as_json, lambda out: _show_diff(out, found, names, png))


def _check_comparable(old: Snapshot, new: Snapshot, *, replay: bool) -> None:
    if old.fingerprint != new.fingerprint:
        raise FingerprintMismatch(
            f"snapshot {old.id[:8]} belongs to model {old.fingerprint[:12]}, {new.id[:8]} to {new.fingerprint[:12]}; "
            "states are compared within one model"
        )
    gone = [one.id[:8] for one in (old, new) if one.status == "pruned"]
    if gone and not replay:
        raise SnapshotPruned(
            f"the state of snapshot {' and '.join(gone)} was pruned, its log is still there; give --replay to compute "
            "it again (and --model, unless it is the shipped one's), or choose one with a stored state"
        )


def _state(theirs: UserArchive, archive: str | None, model: Path | None, snapshot: Snapshot) -> FastWeights:
    """As it is stored; only a pruned one needs the model."""
    if snapshot.status == "stored":
        from agentsleep.memory.states import from_bytes

        return from_bytes(theirs.load_state(snapshot.id))
    from agentsleep.cli.probe import state_of, writer_of

    with writer_of(f"snapshot {snapshot.id[:8]}", snapshot.fingerprint, archive_place(archive), model) as memory:
        return state_of(memory, snapshot)


def _show_diff(out: Console, found: StateDiff, names: list[str], png: Path | None) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("layer", "head", "relative", "cosine", "rank", "||b - a||", title=Text(f"{names[0]} → {names[1]}"))
    for column in table.columns:
        column.justify = "right"
        column.no_wrap = True
    for layer in found.layers:
        for number, head in enumerate(layer.heads):
            table.add_row("" if number else layer.label, str(number), *_figures(head))
        if len(layer.heads) > 1:
            table.add_row("", "all", *_figures(layer.total), style="bold")
        table.add_section()
    table.add_row("all", "all", *_figures(found.total), style="bold")
    out.print(table)
    rest = max(found.others.values(), default=0.0)
    said = "the states are equal in every number" if found.same else f"largest difference of all else: {rest:.3g}"
    out.print(Text(said + (f"; drawn into {png}" if png is not None else "")), soft_wrap=True)


def _figures(change: Change) -> tuple[str, ...]:
    return (f"{change.relative:.3f}", f"{change.cosine:.3f}", f"{change.rank:.2f}", f"{change.norm_change:.3g}")
