from __future__ import annotations

from typing import Any

import pytest

from agentsleep.evals.bars import judge


def rows(mode: str, passes: int, rounds: int, *rates: float) -> list[dict[str, Any]]:
    return [
        {"mode": mode, "passes": passes, "rounds": rounds, "depth": depth, "accuracy": rate}
        for depth, rate in enumerate(rates, 1)
    ]


def test_every_bar_is_passed_by_an_agent_that_knows_everything() -> None:
    everything = [row for mode in ("fork", "sequence") for row in rows(mode, 4, 1, *[1.0] * 6)]
    bars = judge(everything, 1.0)
    assert [bar["mode"] for bar in bars] == ["fork"] * 3 + ["sequence"] * 3 + [None]
    assert all(bar["passed"] is True and bar["accuracy"] == 1.0 for bar in bars)


@pytest.mark.parametrize(("light", "passed"), [((0.95, 0.95), True), ((0.949, 1.0), False), ((1.0, 0.949), False)])
def test_light_sleep_counts_by_the_worse_depth(light: tuple[float, ...], passed: bool) -> None:
    bar = judge([*rows("fork", 4, 1, *light), *rows("fork", 4, 2, 1.0, 1.0)], 1.0)[0]
    assert (bar["passed"], bar["accuracy"]) == (passed, min(light))
    assert (bar["passes"], bar["rounds"]) == (4, 1)


def test_the_best_of_eight_visits_counts_at_depth_four() -> None:
    found = [
        *rows("fork", 4, 1, 1.0, 1.0, 1.0, 0.7),
        *rows("fork", 4, 2, 1.0, 1.0, 1.0, 0.9),
        *rows("fork", 4, 4, 1.0, 1.0, 1.0, 1.0),  # sixteen: too many
    ]
    bar = judge(found, 1.0)[1]
    assert (bar["accuracy"], bar["passes"], bar["rounds"], bar["passed"]) == (0.9, 4, 2, True)
    assert judge(found[:4], 1.0)[1]["passed"] is False


def test_the_goal_is_reached_by_one_depth_of_sleep_for_all_questions() -> None:
    found = [
        *rows("sequence", 2, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 0.5),
        *rows("sequence", 2, 2, 0.5, 1.0, 1.0, 1.0, 1.0, 1.0),
        *rows("sequence", 4, 2, 0.96, 0.96, 0.96, 0.96, 0.96, 0.94),
    ]
    goal = judge(found, 1.0)[5]
    assert (goal["accuracy"], goal["passes"], goal["passed"]) == (0.94, 4, False)


def test_what_was_not_asked_is_not_judged() -> None:
    bars = judge(rows("fork", 2, 1, 1.0, 1.0, 1.0, 1.0), 0.985)
    assert [bar["passed"] for bar in bars] == [None, True, None, None, None, None, False]
    assert bars[0]["accuracy"] is None
    assert bars[0]["passes"] is None


@pytest.mark.parametrize(("right", "passed"), [(0.99, True), (0.989, False)])
def test_tool_calls(right: float, passed: bool) -> None:
    assert judge([], right)[-1]["passed"] is passed
