"""``TABLE.json``: what was measured, one record for every run, and on what machine.

Several processes may add to it: a lock beside it is held while it is read and written.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock

from agentsleep.errors import InputError

FORMAT = 1
Record = Mapping[str, Any]


def machine() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("agentsleep", "torch", "transformers", "numpy")},
    }


def read(path: Path) -> dict[str, Any] | None:
    """A table's document; None where there is none yet.

    Raises:
        InputError: the file is something else.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["format"] != FORMAT or not isinstance(document["runs"], list):
            raise ValueError(f"format {document['format']}")
        _ = [(run_key(run), run["digest"], run["measures"]) for run in document["runs"]]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no table of evidence ({error!r}); move it away and measure again") from error
    return dict(document)


def add(path: Path, head: Record, record: Record) -> dict[str, Any]:
    """Puts a run's record into the document, in place of one of the same arm, seed and scale; returns the whole.

    Args:
        head: what a new document begins with: its ``table`` and so on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        document = read(path) or {"format": FORMAT, **head, "runs": []}
        document.update(head)
        key = run_key(record)
        runs = [run for run in document["runs"] if run_key(run) != key] + [dict(record)]
        document["runs"] = sorted(runs, key=run_key)
        _write(path, document)
    return document


def drop(path: Path, keys: Collection[tuple[str, str, int]]) -> None:
    """Takes runs out of the document, if there is one and it holds them."""
    if not path.exists():
        return
    with FileLock(path.with_name(f".{path.name}.lock")):
        document = read(path) or {"runs": []}
        kept = [run for run in document["runs"] if run_key(run) not in keys]
        if len(kept) < len(document["runs"]):
            _write(path, {**document, "runs": kept})


def run_key(record: Record) -> tuple[str, str, int]:
    """By which runs are told apart."""
    return record["scale"], record["arm"], record["seed"]


def _write(path: Path, document: Record) -> None:
    text = _dumps(document) + "\n"
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def _dumps(document: Record) -> str:
    """Readable JSON in which every measured row and every row of a history is one line."""
    plain = {k: v for k, v in document.items() if k != "runs"}
    runs = [_run_text(run) for run in document["runs"]]
    head = json.dumps(plain, indent=1, ensure_ascii=False)[:-2]
    body = ",\n".join(runs)
    return f'{head},\n "runs": [\n{body}\n ]\n}}'


def _run_text(run: Record) -> str:
    lines = []
    for key, value in run.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n    ".join(json.dumps(row, ensure_ascii=False) for row in value)
            lines.append(f"   {json.dumps(key)}: [\n    {rows}\n   ]")
        else:
            lines.append(f"   {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}")
    return "  {\n" + ",\n".join(lines) + "\n  }"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
