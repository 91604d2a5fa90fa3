"""What a capability probe found, and where it is kept."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import get_ident
from typing import Any, Literal

from agentsleep.errors import UnsupportedModel

Status = Literal["ok", "fail", "note"]


@dataclass(frozen=True)
class Verdict:
    """One thing that was tried.

    figure: the largest difference of logits that was found; for ``fast weights`` the largest change that the state
    makes to a logit, for ``passes`` how far a second pass moves the state, relative to its norm.
    text: what was found and, unless the status is ok, what to do.
    """

    ability: str
    status: Status
    figure: float | None
    text: str


@dataclass(frozen=True)
class Report:
    """What :func:`agentsleep.backends.capability.examine` found."""

    verdicts: tuple[Verdict, ...]

    @property
    def failed(self) -> tuple[Verdict, ...]:
        """The verdicts that forbid to use the model."""
        return tuple(verdict for verdict in self.verdicts if verdict.status == "fail")


def refuse_if_wrong(report: Report) -> None:
    """Raises UnsupportedModel that names every failed ability, with its figure."""
    if report.failed:
        found = "; ".join(f"{verdict.ability}: {verdict.text}" for verdict in report.failed)
        raise UnsupportedModel(f"this model's memory would be wrong. {found}")


def load_report(path: Path) -> Report | None:
    """A stored report; None where there is none that can be read."""
    try:
        return _from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def store_report(report: Report, path: Path) -> None:
    """Writes a report, whole or not at all; a place that cannot be written to is left."""
    draft = path.with_suffix(f".{os.getpid()}-{get_ident()}")
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(json.dumps(asdict(report), indent=1), encoding="utf-8")
        os.replace(draft, path)


def _from_json(document: Any) -> Report:
    verdicts = []
    for entry in document["verdicts"]:
        verdict = Verdict(**entry)
        sound = verdict.status in ("ok", "fail", "note") and isinstance(verdict.text, str)
        if not sound or not isinstance(verdict.figure, (float, type(None))):
            raise ValueError(f"no verdict: {entry!r}")
        verdicts.append(verdict)
    if not verdicts:
        raise ValueError("no verdicts")
    return Report(tuple(verdicts))
