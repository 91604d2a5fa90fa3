from __future__ import annotations

import pytest

from agentsleep.errors import InputError
from agentsleep.tasks.gsm import Solution, solve

LAKE = (
    "The number of red fox in Lake equals 3. "
    "The number of owl in Lake equals 2 more than the number of red fox in Lake. "
    "The number of owl in Old Mill equals 4 times the number of owl in Lake. "
    "The number of elk in Old Mill equals the sum of the number of owl in Old Mill and the number of red fox in Lake. "
    "The number of elk in Lake equals the difference of the number of owl in Old Mill and the number of owl in Lake. "
    "The number of elk in Hill equals the total number of animals in Lake. "
    "The number of owl in Hill equals the total number of animals in Old Mill. "
    "The number of red fox in Hill equals 2 times the number of elk in Hill. "
    "The number of elk in Moor equals the number of red fox in Hill. "
)


@pytest.mark.parametrize(
    ("kind", "place", "answer", "op"),
    [
        ("red fox", "Lake", 3, 1),
        ("owl", "Lake", 5, 2),
        ("owl", "Old Mill", 20, 3),
        ("elk", "Old Mill", 23, 4),  # fox, owl, owl and itself: the fox, needed twice, counts once
        ("elk", "Lake", 15, 4),
        ("elk", "Hill", 23, 6),  # three kinds (owl in Old Mill behind them): 4 steps and 2 additions
        ("owl", "Hill", 43, 5),  # two kinds: one addition
        ("red fox", "Hill", 46, 7),
        ("elk", "Moor", 46, 8),  # a copy is a step too
    ],
)
def test_answers_and_ops(kind: str, place: str, answer: int, op: int) -> None:
    assert solve(LAKE, f"How many {kind} does {place} have?") == Solution(answer, op)


def test_sentences_in_any_order() -> None:
    backwards = ".".join(reversed(LAKE.strip().removesuffix(".").split("."))) + "."
    assert solve(backwards, " How many red fox does Hill have? ") == Solution(46, 7)


def test_a_total_of_one_kind_is_a_step() -> None:
    text = "The number of elk in Lake equals 2. The number of elk in Hill equals the total number of animals in Lake."
    assert solve(text, "How many elk does Hill have?") == Solution(2, 2)


def test_a_very_long_chain() -> None:
    chain = "".join(
        f"The number of elk in Hill{i + 1} equals 1 more than the number of elk in Hill{i}. " for i in range(3000)
    )
    text = chain + "The number of elk in Hill0 equals 1."
    assert solve(text, "How many elk does Hill3000 have?") == Solution(3001, 3001)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ("", "does not define the number of elk in Lake; add its sentence"),
        ("The number of elk in Hill equals 2.", "does not define the number of elk in Lake"),
        ("The number of elk in Lake equals 1 more than the number of owl in Lake.", "does not define .* owl in Lake"),
        ("The number of elk in Lake equals the number of owl in Lake.", "does not define .* owl in Lake"),
        ("The number of elk in Lake equals the number of elk in Lake.", "elk in Lake is defined by itself"),
        ("The number of elk in Lake equals the number of elk.", "cannot read 'equals the number of elk'; use a number"),
        ("Elks are fine. The number of elk in Lake equals 2.", "cannot read 'Elks are fine'; it must be"),
        ("The number of elk in Lake equals -2.", "cannot read 'equals -2'; use a number"),
        ("The number of elk in Lake equals half the number of elk in Hill.", "cannot read 'equals half the"),
        ("The number of elk in Lake equals 2. The number of elk in Lake equals 2.", "elk in Lake is defined twice"),
        ("The number of elk in Lake equals 2 times the number of elk in Lake.", "elk in Lake is defined by itself"),
        ("The number of elk in Lake equals the total number of animals in Lake.", "elk in Lake is defined by itself"),
        ("The number of elk in Lake equals the total number of animals in Hill.", "a total is asked of Hill"),
        (
            "The number of elk in Lake equals the sum of the number of owl in Lake and the number of ox in Lake. "
            "The number of owl in Lake equals 1. "
            "The number of ox in Lake equals 1 more than the number of elk in Lake.",
            "elk in Lake is defined by itself; break the circle",
        ),
        (
            "The number of elk in Lake equals the difference of the number of owl in Lake and the number of ox in Lake."
            "The number of owl in Lake equals 1. The number of ox in Lake equals 3.",
            "elk in Lake comes to -2; it must not be negative",
        ),
    ],
)
def test_problems_that_are_none(problem: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        solve(problem, "How many elk does Lake have?")


@pytest.mark.parametrize("question", ["", "How many elk?", "How many elk does Lake have? How many?"])
def test_questions_that_are_none(question: str) -> None:
    with pytest.raises(InputError, match="cannot read the question"):
        solve(LAKE, question)
