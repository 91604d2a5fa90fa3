"""The conformance suite: what a model must do so that its memory can be relied on, as a list of named checks.

Anyone can run it on their own model: ``agentsleep conformance --model M``. It writes to no archive but its own.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Any

import torch
import transformers

from agentsleep.conformance import sessions, tensors
from agentsleep.conformance.families import SUPPORTED, save_model
from agentsleep.conformance.outcome import Check, Outcome, outcome
from agentsleep.conformance.subject import Subject
from agentsleep.errors import InputError

Progress = Callable[[float], None]

CHECKS: Mapping[str, Check] = MappingProxyType(
    {
        "abilities": tensors.abilities,
        "wake": tensors.wake,
        "overflow": sessions.overflow,
        "streaming": sessions.streaming,
        "batch": tensors.batch,
        "padding": tensors.padding,
        "bfloat16": tensors.half_precision,
        "pins": sessions.pins,
        "sliding": tensors.sliding,
        "sliding session": sessions.sliding_session,
        "passes": tensors.passes,
        "middle loop": tensors.middle_loop,
        "many sleeps": sessions.many_sleeps,
        "threads": sessions.threads,
    }
)
"""All checks, in the order in which they are made."""


def proves(name: str) -> str:
    """What a check proves, in a sentence or two."""
    return " ".join((inspect.getdoc(CHECKS[name]) or "").split())


def chosen(names: Sequence[str] | None) -> tuple[str, ...]:
    """The checks of these names, in the suite's order; all for None.

    Raises:
        InputError: there is no such check.
    """
    if names is None:
        return tuple(CHECKS)
    if unknown := [name for name in names if name not in CHECKS]:
        raise InputError(f"there is no check {unknown[0]!r}; there are: {', '.join(CHECKS)}")
    return tuple(name for name in CHECKS if name in names)


def check_model(
    subject: Subject, names: Sequence[str] | None = None, progress: Progress | None = None
) -> list[Outcome]:
    """Runs the suite on a model.

    Args:
        names: of the checks to make; None for all.
        progress: is told the part that is done, 0 to 1.

    Raises:
        InputError: there is no such check.
    """
    asked, found = chosen(names), []
    for i, name in enumerate(asked):
        found.append(outcome(name, CHECKS[name], subject))
        if progress is not None:
            progress((i + 1) / len(asked))
    return found


def report_on(
    place: str | Path | None,
    names: Sequence[str] | None = None,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Loads a model and runs the suite on it: what ``--json`` writes about one model.

    Args:
        place: a checkpoint directory, or a name on the hub; None for the shipped model.
        name: to call it by; by default its place.
        settings, device, dtype: as :func:`agentsleep.backends.load_backend` takes them. Rounding hides small errors,
            so float32 tells most.

    Raises:
        ModelError, SettingsError: the model cannot be loaded or wrapped.  InputError: there is no such check.
    """
    chosen(names)
    began = time.perf_counter()
    subject = Subject.load(place, settings=settings, device=device, dtype=dtype)
    outcomes = check_model(subject, names, progress)
    return {
        "model": name or ("nap-mini" if place is None else str(place)),
        "class": type(subject.backend.model).__name__,
        "dtype": str(subject.backend.model.dtype).removeprefix("torch."),
        "ok": all(one.status != "fail" for one in outcomes),
        "seconds": round(time.perf_counter() - began, 1),
        "repairs": list(subject.backend.repairs),
        "outcomes": [vars(one) for one in outcomes],
    }


def report_on_families(
    families: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The same for tiny models of these families, made with seed 0, saved and loaded again; None for all families.

    Raises:
        InputError: a family or check that is not known.
        UnsupportedModel: a family that cannot sleep.
    """
    asked, reports = tuple(families or SUPPORTED), []
    for i, family in enumerate(asked):

        def part(done: float, before: int = i) -> None:
            if progress is not None:
                progress((before + done) / len(asked))

        with TemporaryDirectory(prefix="agentsleep-") as folder:
            place = save_model(family, Path(folder))
            reports.append(report_on(place, names, name=family, progress=part))
    return reports


def document(reports: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> dict[str, Any]:
    """Reports on models as one JSON document."""
    return {
        "ok": all(report["ok"] for report in reports),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "checks": [{"name": name, "proves": proves(name)} for name in chosen(names)],
        "models": list(reports),
    }
