"""What scores say, in numbers and in plain words: does the state carry anything, and do further passes help?"""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from typing import Any

import numpy as np

from agentsleep.errors import SleepFailed
from agentsleep.evals.evicted import Scores
from agentsleep.evals.paired import Interval, bootstrap_difference, bootstrap_mean

HELPS, NO_GAIN, HARM, NOTHING = "helps", "no gain", "harm", "the state carries nothing"


def judged(scores: Scores, *, seed: int = 0, vocabulary: int | None = None) -> dict[str, Any]:
    """A measure with its verdict.

    Args:
        seed: of the bootstrap.
        vocabulary: tokens that a uniform guess chooses from. A model that predicts no better has no verdict on its
            perplexity but that the state carries nothing: what moves there is noise.

    Returns:
        ``{"measure", "what", "unit", "items", "groups", "chance", "conditions", "differences", "carries", "verdict",
        "says"}``. A condition is ``{"passes", "mean", "interval"}``, passes being None where S was dropped; a
        difference ``{"passes", "against", "difference", "interval"}``, against 1 pass, or None: S dropped. All in the
        measure's unit, larger being better; None where the passes gave NaN or Inf. carries: whether some number of
        passes is better than S dropped. says: one sentence for each finding.

    Raises:
        SleepFailed: the ordinary pass gives NaN or Inf.
    """
    if not (np.isfinite(scores.values[1]).all() and np.isfinite(scores.values[None]).all()):
        raise SleepFailed(
            f"{scores.name}: the model's ordinary pass over a window gives NaN or Inf, so nothing can be compared with "
            "it; give the model other numbers (dtype=...), or another checkpoint"
        )
    deeper = sorted(n for n in scores.values if n is not None and n > 1)
    against_none = {n: _difference(scores, n, None, seed) for n in (1, *deeper)}
    against_one = {n: _difference(scores, n, 1, seed) for n in deeper}
    guessing = vocabulary is not None and all(
        bool(np.isnan(values).any()) or values.mean() <= -log(vocabulary) for values in scores.values.values()
    )
    carries = not guessing and any(found is not None and found.low > 0 for found in against_none.values())
    verdict, says = _verdict(scores, against_none, against_one, carries, vocabulary if guessing else None)
    return {
        "measure": scores.name,
        "what": scores.what,
        "unit": scores.unit,
        "items": len(scores.groups),
        "groups": len(np.unique(scores.groups)),
        "chance": scores.chance,
        "conditions": [_condition(scores, n, seed) for n in (None, 1, *deeper)],
        "differences": [_row(n, None, found) for n, found in against_none.items()]
        + [_row(n, 1, found) for n, found in against_one.items()],
        "carries": carries,
        "verdict": verdict,
        "says": says,
    }


def _verdict(
    scores: Scores,
    against_none: Mapping[int, Interval | None],
    against_one: Mapping[int, Interval | None],
    carries: bool,
    guessed: int | None,
) -> tuple[str, list[str]]:
    if guessed is not None:
        return NOTHING, [
            f"the model predicts the text no better than a uniform guess over its {guessed:,} tokens, with any number "
            "of passes: there is nothing to compare"
        ]
    ordinary = against_none[1]
    assert ordinary is not None
    if not carries:
        worse = ", indeed it does harm" if ordinary.high < 0 else ""
        says = [f"the state itself carries nothing{worse}: N = 1 against S dropped, {_amount(scores, ordinary)}"]
        tried = [n for n, found in against_none.items() if n > 1 and found is not None]
        if tried:
            says[0] += f"; nor is it better with {_either(tried)} passes"
        return NOTHING, [*says, *(_broken(n) for n, found in against_one.items() if found is None)]
    if ordinary.low > 0:
        says = [f"the state carries: N = 1 against S dropped, {_amount(scores, ordinary)}"]
    else:
        says = [
            "after one pass the state carries nothing that can be measured: N = 1 against S dropped, "
            f"{_amount(scores, ordinary)}"
        ]
    kinds = []
    for n, found in against_one.items():
        one = "a second pass" if n == 2 else f"{n} passes"
        plural = n != 2
        if found is None:
            kinds.append(HARM)
            says.append(_broken(n))
        elif found.low > 0:
            kinds.append(HELPS)
            says.append(f"{one} {'help' if plural else 'helps'}: {_amount(scores, found)}")
        elif found.high < 0:
            kinds.append(HARM)
            says.append(f"{one} {'do' if plural else 'does'} harm: {_amount(scores, found)}")
        else:
            kinds.append(NO_GAIN)
            says.append(f"no gain from {one}: {_amount(scores, found)}")
    return (HELPS if HELPS in kinds else HARM if HARM in kinds else NO_GAIN), says


def _difference(scores: Scores, first: int, second: int | None, seed: int) -> Interval | None:
    if not np.isfinite(scores.values[first]).all():
        return None
    return bootstrap_difference(scores.values[first], scores.values[second], scores.groups, seed=seed)


def _condition(scores: Scores, passes: int | None, seed: int) -> dict[str, Any]:
    values = scores.values[passes]
    found = bootstrap_mean(values, scores.groups, seed=seed) if np.isfinite(values).all() else None
    return {"passes": passes, "mean": found and found.value, "interval": found and [found.low, found.high]}


def _row(passes: int, against: int | None, found: Interval | None) -> dict[str, Any]:
    numbers = {"difference": found and found.value, "interval": found and [found.low, found.high]}
    return {"passes": passes, "against": against, **numbers}


def _amount(scores: Scores, found: Interval) -> str:
    """A difference as a reader wants it: points of a share, per cent of a perplexity, or nats."""
    if scores.unit == "share":
        value, low, high = (100 * number for number in found)
        return f"{scores.name} {value:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if scores.unit == "nats":
        return f"{scores.name} {found.value:+.3f} nats (95 % interval {found.low:+.3f} to {found.high:+.3f})"
    value, high, low = (100 * (exp(-number) - 1) for number in found)
    return f"{scores.name} {value:+.2f} % (95 % interval {low:+.2f} to {high:+.2f})"


def _broken(passes: int) -> str:
    return f"{passes} passes do harm: they give NaN or Inf"


def _either(numbers: list[int]) -> str:
    *rest, last = map(str, numbers)
    return f"{', '.join(rest)} or {last}" if rest else last
