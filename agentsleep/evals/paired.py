"""How sure a difference is that was measured on the same items: the bootstrap, by groups of items."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agentsleep.errors import InputError

RESAMPLES = 2000
_STREAM = 0x626F6F74  # told apart by this from the seeds of other draws

Values = NDArray[np.float64]


class Interval(NamedTuple):
    """A mean and its 95 % interval."""

    value: float
    low: float
    high: float


def bootstrap_mean(values: Values, groups: NDArray[np.int64], *, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """The mean of ``values`` ``[items]`` with its percentile interval, see :func:`bootstrap_difference`."""
    return bootstrap_difference(values, np.zeros_like(values), groups, seed=seed, resamples=resamples)


def bootstrap_difference(
    first: Values, second: Values, groups: NDArray[np.int64], *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Mean of ``first - second``, both ``[items]`` and of the same items, with its 95 % percentile interval.

    Whole groups are drawn, with replacement: items of one group, such as the questions about one window, are not
    independent of each other. Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 8
    and 13. With few groups the interval is too narrow.

    Args:
        groups: ``[items]``, the group that each belongs to.
        seed: equal seeds and equally many groups draw the same groups.

    Raises:
        InputError: no items, arrays of different lengths, values that are not finite, or no resamples.
    """
    if not len(first) == len(second) == len(groups) > 0 or resamples < 1:
        raise InputError(
            f"{len(first)} and {len(second)} values in {len(groups)} groups, {resamples} resamples: give the same "
            "items twice, at least one, and at least one resample"
        )
    apart = np.asarray(first, dtype=np.float64) - second
    if not np.isfinite(apart).all():
        raise InputError(
            f"{int((~np.isfinite(apart)).sum())} of {len(apart)} differences are NaN or Inf; leave them out"
        )
    _, number = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(number, apart), np.bincount(number)
    drawn = np.random.default_rng([seed, _STREAM]).multinomial(
        len(sizes), np.full(len(sizes), 1 / len(sizes)), resamples
    )
    low, high = np.quantile((drawn @ sums) / (drawn @ sizes), (0.025, 0.975))
    return Interval(float(apart.mean()), float(low), float(high))
