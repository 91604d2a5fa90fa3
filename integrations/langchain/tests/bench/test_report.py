"""Rows and bars."""

from __future__ import annotations

import pytest

from langchain_agentsleep.bench.meter import Tokens
from langchain_agentsleep.bench.outcomes import Asked, Took
from langchain_agentsleep.bench.report import accuracy_rows, bars, cost_rows


def asked(arm: str, depth: int, right: int, of: int = 20) -> list[Asked]:
    return [Asked(arm, number // 2, depth, number < right) for number in range(of)]


def took(arm: str, wake: list[int], seconds: float = 0.1, listed: int = 3) -> list[Took]:
    return [
        Took(arm, number, "look-up" if number % 2 else "talk", seconds, Tokens(read, 2, 1), number % 2, listed)
        for number, read in enumerate(wake)
    ]


def test_accuracies_have_wilson_intervals() -> None:
    (row,) = accuracy_rows(asked("trim", 2, 5))
    assert (row["arm"], row["depth"], row["right"], row["questions"], row["accuracy"]) == ("trim", 2, 5, 20, 0.25)
    assert row["interval"] == pytest.approx([0.1119, 0.4687], abs=1e-4)


def test_costs_are_medians_means_and_both_ends() -> None:
    flat = took("sleep-4", [10, 12] * 30, seconds=0.3)
    rows = cost_rows([*flat, *took("trim", [10] * 20 + [20] * 20 + [40] * 20)])
    sleep, trim = rows
    assert (sleep["first"], sleep["last"], sleep["growth"], sleep["ends"]) == (11, 11, 1.0, 20)
    assert (trim["first"], trim["last"], trim["growth"]) == (10, 40, 4.0)
    assert (sleep["wake_tokens"], sleep["sleep_tokens"], sleep["probe_tokens"], sleep["tokens"]) == (11, 2, 1, 14)
    assert sleep["ms"] == pytest.approx(300)
    assert sleep["ratio"] == pytest.approx(3)
    assert sleep["calls"] == 1.0
    assert cost_rows(took("trim", [1, 1]))[0]["ends"] == 1


def judged(sleep: int, once: int, again: int, growth: int = 10) -> list[bool]:
    questions = [*asked("sleep-4", 3, sleep), *asked("retrieval", 3, once), *asked("retrieval-iterated", 3, again)]
    questions += [*asked("sleep-4", 2, 0), *asked("retrieval", 2, 20), *asked("retrieval-iterated", 2, 20)]
    costs = cost_rows([*took("sleep-4", [10] * 20 + [growth] * 20), *took("trim", [1] * 40)])
    found = bars(questions, costs, 4)
    assert [row["bar"] for row in found][-1] == "sleep-4, wake tokens a turn, end over beginning"
    return [row["passed"] for row in found]


def test_the_bar_is_against_the_better_retrieval_from_depth_3_on() -> None:
    assert judged(18, 2, 4) == [True, True]
    assert judged(18, 2, 18) == [False, True]
    assert judged(18, 18, 2) == [False, True]
    assert judged(10, 9, 9) == [False, True]  # ahead, but not surely so


def test_reading_more_and_more_misses_the_bar() -> None:
    assert judged(18, 2, 4, growth=11) == [True, True]
    assert judged(18, 2, 4, growth=12) == [True, False]
