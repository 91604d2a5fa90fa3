from __future__ import annotations

import math

import pytest

from agentsleep.evals.parallel import in_order


def test_results_come_in_the_order_of_the_jobs() -> None:
    parts: list[float] = []
    assert in_order(math.factorial, [3, 1, 2, 0], progress=parts.append) == [6, 1, 2, 1]
    assert parts == [0.25, 0.5, 0.75, 1.0]


def test_two_processes() -> None:
    parts: list[float] = []
    assert in_order(math.factorial, [3, 1, 2, 0], 2, parts.append) == [6, 1, 2, 1]
    assert parts == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_error_in_a_job_is_raised(workers: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        in_order(math.factorial, [3, -1, *range(20)], workers)
