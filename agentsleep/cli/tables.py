"""Tables of accuracy, for readers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table


def accuracy_table(document: Mapping[str, Any]) -> Table:
    """An evaluation by :func:`agentsleep.evals.raw.evaluate_task`: a row for each depth, a column for each
    (passes, rounds) and each baseline, with 95 % intervals."""
    windows = document["difficulty"]["windows"]
    asked = min(row["questions"] for row in document["results"])
    table = Table(
        "depth",
        title=f"{document['task']}, {windows} window{'s' * (windows > 1)}: accuracy, 95 % interval",
        caption=f"at least {asked} questions a depth, from {document['episodes']} episodes, seed {document['seed']}",
    )
    columns: dict[str, dict[int, str]] = {}
    for row in (*document["results"], *document["baselines"]):
        name = row.get("name") or f"passes {row['passes']}\nrounds {row['rounds']}"
        columns.setdefault(name, {})[row["depth"]] = _cell(row)
    for name in columns:
        table.add_column(name.replace("-", "\n"), justify="right", no_wrap=True)
    for depth in sorted({depth for column in columns.values() for depth in column}):
        table.add_row(f"{depth}", *(column.get(depth, "") for column in columns.values()))
    return table


def _cell(row: Mapping[str, Any]) -> str:
    shown = _short(row["accuracy"])
    if "interval" in row:
        low, high = row["interval"]
        shown += f"\n[dim]{_short(low)}–{_short(high)}[/dim]"
    return shown


def _short(rate: float) -> str:
    """A rate without the zero before its point."""
    return f"{rate:.3f}".removeprefix("0")
