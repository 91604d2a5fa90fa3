"""What a check of the conformance suite comes to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from agentsleep.conformance.subject import Subject

Status = Literal["ok", "fail", "skip"]


@dataclass(frozen=True)
class Outcome:
    """One check on one model.

    figure: the largest difference that the check found; of logits relative to the largest logit, of a state relative
        to its norm. None where nothing was measured, or it was not finite.
    text: what was found; of a skipped check, why it does not apply.
    """

    name: str
    status: Status
    figure: float | None
    text: str


@dataclass(frozen=True)
class Found:
    """What a check that holds has found."""

    figure: float | None
    text: str


class Failed(Exception):
    """A check that does not hold."""

    def __init__(self, text: str, figure: float | None = None) -> None:
        super().__init__(text)
        self.figure = figure


class Skipped(Exception):
    """A check that does not apply to a model, and why."""


Check = Callable[[Subject], Found]


def expect(fine: bool, text: str, figure: float | None = None) -> None:
    """Raises Failed with ``text`` unless it is fine."""
    if not fine:
        raise Failed(text, figure)


def near(error: float, allowed: float, what: str) -> float:
    """The error, which is relative.

    Raises:
        Failed: it is larger than what is allowed, or NaN.
    """
    expect(error <= allowed, f"{what} is off by {error:.2g}; allowed is {allowed:.2g}", error)
    return error


def outcome(name: str, check: Check, subject: Subject) -> Outcome:
    """Runs a check; whatever it raises is a failure, never a traceback."""
    try:
        found = check(subject)
    except Skipped as reason:
        return Outcome(name, "skip", None, str(reason))
    except Failed as failure:
        return Outcome(name, "fail", _finite(failure.figure), str(failure))
    except Exception as error:  # a back end may raise what it likes; that it does is the finding
        return Outcome(name, "fail", None, f"{type(error).__name__}: {error}"[:500])
    return Outcome(name, "ok", _finite(found.figure), found.text)


def _finite(figure: float | None) -> float | None:
    return None if figure is None or not math.isfinite(figure) else figure
