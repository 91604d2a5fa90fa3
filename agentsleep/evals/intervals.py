"""How sure a measured accuracy is."""

from __future__ import annotations

from math import sqrt

from agentsleep.errors import InputError

Z95 = 1.959963984540054  # the normal quantile of a two-sided 95 % interval


def wilson(right: int, asked: int, z: float = Z95) -> tuple[float, float]:
    """The Wilson score interval of a rate: ``right`` of ``asked``; (0, 1) when nothing was asked.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference" (1927). It holds for
    questions that are independent; those of one episode share its facts, so that it is narrower than it should be
    where errors come in clusters.

    Raises:
        InputError: not 0 <= right <= asked.
    """
    if not 0 <= right <= asked:
        raise InputError(f"{right} right answers of {asked} questions: it must be 0 <= right <= asked")
    if asked == 0:
        return 0.0, 1.0
    rate = right / asked
    scale = 1 + z * z / asked
    centre = (rate + z * z / (2 * asked)) / scale
    half = z / scale * sqrt(rate * (1 - rate) / asked + z * z / (4 * asked * asked))
    # Rounding must neither leave 0..1 nor shut out the rate itself, which at 0 and 1 is a bound.
    return max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half))
