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
        title=f"{document['task']}, {windows} window{'s' * (windows > 1)}: accuracy [95 % interval]",
        caption=f"at least {asked} questions a depth, from {document['episodes']} episodes, seed {document['seed']}",
    )
    columns: dict[str, dict[int, str]] = {}
    for row in document["results"]:
        name = f"passes {row['passes']}, rounds {row['rounds']}"
        columns.setdefault(name, {})[row["depth"]] = _cell(row)
    for row in document["baselines"]:
        columns.setdefault(row["name"], {})[row["depth"]] = _cell(row)
    for name in columns:
        table.add_column(name, justify="right")
    for depth in sorted({depth for column in columns.values() for depth in column}):
        table.add_row(f"{depth}", *(column.get(depth, "") for column in columns.values()))
    return table


def _cell(row: Mapping[str, Any]) -> str:
    if "interval" not in row:
        return f"{row['accuracy']:.3f}"
    low, high = row["interval"]
    return f"{row['accuracy']:.3f} \\[{low:.3f}, {high:.3f}]"
