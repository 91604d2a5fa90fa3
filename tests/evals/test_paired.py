from __future__ import annotations

import numpy as np
import pytest

from agentsleep.errors import InputError
from agentsleep.evals.paired import bootstrap_difference, bootstrap_mean

ALONE = np.arange(200)


def test_a_constant_difference_is_certain() -> None:
    first = np.random.default_rng(0).normal(size=200)
    found = bootstrap_difference(first + 0.5, first, ALONE)
    assert found == pytest.approx((0.5, 0.5, 0.5))


def test_pairing_takes_out_what_the_items_have_in_common() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(scale=10, size=200)
    first, second = hard + rng.normal(0.5, 1, 200), hard + rng.normal(0, 1, 200)
    paired = bootstrap_difference(first, second, ALONE)
    apart = bootstrap_difference(first, rng.permutation(second), ALONE)
    assert paired.low > 0
    assert (apart.high - apart.low) > 5 * (paired.high - paired.low)


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for trial in range(400):
        rng = np.random.default_rng(trial)
        second = rng.random(150) < 0.4
        first = second | (rng.random(150) < 0.25)  # of the 60 % that were wrong: a true difference of 0.15
        found = bootstrap_difference(
            first.astype(float), second.astype(float), np.arange(150), seed=trial, resamples=500
        )
        covered += found.low <= 0.15 <= found.high
    assert 0.91 <= covered / 400 <= 0.98  # 95 % within four standard errors


def test_groups_are_drawn_whole() -> None:
    """Items that are copies of each other make nothing surer; taken for independent, they would."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=50)
    groups = np.arange(50)
    once = bootstrap_mean(values, groups)
    copies = bootstrap_mean(np.repeat(values, 9), np.repeat(groups, 9))
    fooled = bootstrap_mean(np.repeat(values, 9), np.arange(450))
    assert copies == pytest.approx(once)
    assert (fooled.high - fooled.low) < 0.5 * (copies.high - copies.low)


def test_groups_of_different_sizes_weigh_by_their_items() -> None:
    found = bootstrap_mean(np.array([1.0, 1.0, 1.0, 0.0]), np.array([7, 7, 7, 2]))
    assert found.value == 0.75
    assert (found.low, found.high) == (0.0, 1.0)


def test_a_seed_repeats() -> None:
    values = np.random.default_rng(0).random(200)
    assert bootstrap_mean(values, ALONE, seed=3) == bootstrap_mean(values, ALONE, seed=3)
    assert bootstrap_mean(values, ALONE, seed=3) != bootstrap_mean(values, ALONE, seed=4)


@pytest.mark.parametrize(
    ("first", "second", "groups", "says"),
    [
        ([], [], [], "0 and 0 values"),
        ([1.0], [1.0, 2.0], [0], "1 and 2 values"),
        ([1.0], [1.0], [0, 1], "in 2 groups"),
        ([np.nan, 1.0], [1.0, 1.0], [0, 1], "1 of 2 differences are NaN or Inf"),
        ([np.inf], [1.0], [0], "1 of 1 differences"),
    ],
)
def test_what_cannot_be_compared(first: list[float], second: list[float], groups: list[int], says: str) -> None:
    with pytest.raises(InputError, match=says):
        bootstrap_difference(np.array(first), np.array(second), np.array(groups))


def test_no_resamples() -> None:
    with pytest.raises(InputError, match="at least one resample"):
        bootstrap_mean(np.ones(3), np.arange(3), resamples=0)
