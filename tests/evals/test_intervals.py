"""The Wilson interval, against its definition and published values."""

from __future__ import annotations

from math import sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.errors import InputError
from agentsleep.evals.intervals import Z95, wilson


@pytest.mark.parametrize(
    ("right", "asked", "low", "high"),
    [
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion" (1998), table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_values(right, asked, low, high) -> None:
    assert wilson(right, asked) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_bounds_are_where_the_score_test_just_rejects(case) -> None:
    right, asked = case
    low, high = wilson(right, asked)
    rate = right / asked
    assert 0 <= low <= rate <= high <= 1
    for bound in (low, high):
        if 0 < bound < 1 and bound != pytest.approx(rate, abs=1e-9):
            assert abs(rate - bound) / sqrt(bound * (1 - bound) / asked) == pytest.approx(Z95, rel=1e-6)


@given(st.integers(1, 500), st.integers(0, 500))
def test_it_mirrors(asked, right) -> None:
    right = min(right, asked)
    low, high = wilson(right, asked)
    assert wilson(asked - right, asked) == pytest.approx((1 - high, 1 - low))


def test_nothing_asked_says_nothing() -> None:
    assert wilson(0, 0) == (0.0, 1.0)


def test_more_questions_narrow_it() -> None:
    widths = [high - low for low, high in (wilson(8 * k, 10 * k) for k in (1, 10, 100))]
    assert widths == sorted(widths, reverse=True)


@pytest.mark.parametrize(("right", "asked"), [(3, 2), (-1, 2), (0, -1)])
def test_impossible_counts(right, asked) -> None:
    with pytest.raises(InputError, match=f"{right} right answers of {asked}"):
        wilson(right, asked)
