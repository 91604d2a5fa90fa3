"""Means over seeds, and how sure they are."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

from agentsleep.errors import InputError

# 97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
MOST = len(_T) + 1  # values


def t_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % interval of the mean of independent runs by Student's t; None for a single run, which has no spread.

    Raises:
        InputError: no value, or more than 10.
    """
    if not 1 <= len(values) <= MOST:
        raise InputError(f"{len(values)} values; an interval wants 1 to {MOST} runs")
    if len(values) == 1:
        return None
    centre = fmean(values)
    half = _T[len(values) - 2] * stdev(values) / sqrt(len(values))
    return centre - half, centre + half


def rate_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """As :func:`t_interval`, for values that lie in 0..1: so do its ends."""
    found = t_interval(values)
    return None if found is None else (max(0.0, found[0]), min(1.0, found[1]))
