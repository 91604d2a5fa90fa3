"""Intervals over seeds, against numbers counted by hand."""

from __future__ import annotations

import pytest

from agentsleep.errors import InputError
from agentsleep.evals.intervals import wilson
from agentsleep.reproduce.statistics import MOST, rate_interval, t_interval
from agentsleep.reproduce.summary import Mean, by_arm, distinct, mean, values_of


def test_three_values_by_hand() -> None:
    # mean 0.92, standard deviation 0.02; 4.303 * 0.02 / sqrt(3) = 0.049687
    assert t_interval([0.9, 0.92, 0.94]) == pytest.approx((0.870313, 0.969687), abs=1e-6)
    assert rate_interval([0.9, 0.92, 0.94]) == pytest.approx((0.870313, 0.969687), abs=1e-6)


def test_two_and_ten_values_by_hand() -> None:
    # standard deviation sqrt(0.5); 12.706 * sqrt(0.5) / sqrt(2) = 6.353
    assert t_interval([1.0, 2.0]) == pytest.approx((1.5 - 6.353, 1.5 + 6.353))
    # 1..10: variance 55 / 6; 2.262 * sqrt(55 / 6 / 10) = 2.165697
    assert t_interval([float(i) for i in range(1, 11)]) == pytest.approx((5.5 - 2.165697, 5.5 + 2.165697), abs=1e-5)


def test_a_rate_stays_between_0_and_1() -> None:
    low, high = t_interval([0.97, 1.0, 1.0]) or (0, 0)
    assert high > 1
    assert rate_interval([0.97, 1.0, 1.0]) == (low, 1.0)
    assert rate_interval([0.0, 0.1]) == (0.0, pytest.approx(0.6853))
    assert rate_interval([1.0, 1.0, 1.0]) == (1.0, 1.0)


def test_one_value_has_no_spread() -> None:
    assert t_interval([0.5]) is None
    assert rate_interval([0.5]) is None


@pytest.mark.parametrize("values", [[], [0.5] * (MOST + 1)])
def test_too_few_and_too_many(values) -> None:
    with pytest.raises(InputError, match=f"{len(values)} values; an interval wants 1 to 10 runs"):
        t_interval(values)


def run(arm: str, *rows: dict[str, object]) -> dict[str, object]:
    return {"arm": arm, "rows": [{"part": "p", **row} for row in rows]}


def test_a_mean_over_seeds() -> None:
    runs = [run("a", {"depth": 1, "accuracy": a, "questions": 100}) for a in (0.9, 0.92, 0.94)]
    found = mean(runs, "p", depth=1)
    assert found is not None
    assert (found.value, found.seeds) == (pytest.approx(0.92), 3)
    assert found.interval == pytest.approx((0.870313, 0.969687), abs=1e-6)
    assert mean(runs, "p", depth=2) is None
    assert mean(runs, "other", depth=1) is None
    assert mean(runs, "p", "exact", depth=1) is None
    assert mean([], "p", depth=1) is None


def test_a_single_seed_has_the_interval_of_its_questions() -> None:
    row = {"depth": 1, "accuracy": 0.75, "questions": 100, "exact": 0.5, "episodes": 8}
    assert mean([run("a", row)], "p", depth=1) == Mean(0.75, wilson(75, 100), 1)
    assert mean([run("a", row)], "p", "exact", depth=1) == Mean(0.5, wilson(4, 8), 1)
    assert mean([run("a", {"name": "chance", "accuracy": 0.25})], "p", name="chance") == Mean(0.25, (0.25, 0.25), 1)


def test_what_is_no_rate_may_be_above_1() -> None:
    rows = [{"used": used, "seconds": 2.5, "questions": 100} for used in (4.0, 6.0)]
    assert mean([run("a", rows[0])], "p", "used") == Mean(4.0, (4.0, 4.0), 1)
    assert mean([run("a", rows[0])], "p", "seconds") == Mean(2.5, (2.5, 2.5), 1)
    both = mean([run("a", row) for row in rows], "p", "used")
    assert both is not None
    assert both.interval == pytest.approx((5 - 12.706, 5 + 12.706))


def test_values_and_combinations_keep_their_order() -> None:
    runs = [run("b", {"n": 4, "r": 1}, {"n": 2, "r": 1}), run("a", {"n": 2, "r": 1}, {"n": 1, "r": 2}, {"x": 0})]
    assert values_of(runs, "p", "n") == [4, 2, 1]
    assert values_of(runs, "p", "n", r=1) == [4, 2]
    assert distinct(runs, "p", ("n", "r")) == [{"n": 4, "r": 1}, {"n": 2, "r": 1}, {"n": 1, "r": 2}, {}]
    assert list(by_arm(runs)) == ["b", "a"]
