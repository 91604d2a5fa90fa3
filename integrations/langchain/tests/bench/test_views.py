"""What of a list a model is shown."""

from __future__ import annotations

import builtins
from itertools import pairwise
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from tests.bench.conftest import Count

from agentsleep.errors import SettingsError
from langchain_agentsleep.bench.views import chained, retrieved, trimmed, whole

CHAIN = ("bob", "alice", "dave", "erin", "carol")
FACTS = [f"{a} hands over to {b} ." for a, b in pairwise(CHAIN)]
OTHER = "judy hands over to karl ."
QUESTION = HumanMessage("who comes 3 after bob ?")  # 7 tokens; a fact has 6


def log() -> list[BaseMessage]:
    """The facts in another order than that of the chain, with talk in between."""
    told: list[BaseMessage] = []
    for number, text in enumerate((FACTS[2], OTHER, FACTS[0], FACTS[3], FACTS[1])):
        told += [HumanMessage("look up bob ."), AIMessage("noted"), ToolMessage(text, tool_call_id=f"{number}")]
    return told


def facts(shown: list[BaseMessage]) -> list[Any]:
    assert shown[-1] is QUESTION
    assert all(isinstance(one, ToolMessage) for one in shown[:-1])
    return [one.content for one in shown[:-1]]


def test_all_of_it() -> None:
    messages = [*log(), QUESTION]
    assert whole(messages, 1) == messages


def test_trimming_keeps_the_newest_that_fit(count: Count) -> None:
    messages = [*log(), QUESTION]
    for room in (7, 20, 40):
        shown = trimmed(count)(messages, room)
        assert [one.content for one in shown] == [one.content for one in messages[-len(shown) :]]
        assert count(shown) <= room < count(messages[-len(shown) - 1 :])


def test_bm25_finds_who_is_asked_about(count: Count) -> None:
    assert facts(retrieved(count, iterated=False)([*log(), QUESTION], 90)) == [FACTS[0]]


def test_iterated_it_follows_the_names_and_leaves_others_alone(count: Count) -> None:
    found = facts(retrieved(count, iterated=True)([*log(), QUESTION], 90))
    assert found == [FACTS[2], FACTS[0], FACTS[3], FACTS[1]]  # in the order of the log


def test_the_nearest_facts_are_kept_where_not_all_fit(count: Count) -> None:
    shown = retrieved(count, iterated=True)([*log(), QUESTION], 7 + 2 * 6 + 5)
    assert facts(shown) == [FACTS[0], FACTS[1]]
    assert count(shown) <= 7 + 2 * 6 + 5


def test_the_turn_that_goes_on_is_always_shown(count: Count) -> None:
    turn = [HumanMessage("look up bob ."), AIMessage("noted"), ToolMessage(OTHER, tool_call_id="now")]
    shown = retrieved(count, iterated=True)([*log(), *turn], 90)
    assert shown[-3:] == turn
    assert retrieved(count, iterated=True)(turn, 90) == turn


def test_without_bm25s_it_says_what_to_install(count: Count, monkeypatch: pytest.MonkeyPatch) -> None:
    known = builtins.__import__

    def missing(name: str, *rest: Any, **more: Any) -> Any:
        if name == "bm25s":
            raise ImportError(name)
        return known(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(SettingsError, match=r"pip install 'langchain-agentsleep\[bench\]'"):
        retrieved(count, iterated=False)([*log(), QUESTION], 90)


def test_the_needed_facts_alone() -> None:
    assert facts(chained(FACTS[:3])([*log(), QUESTION], 90)) == [FACTS[2], FACTS[0], FACTS[1]]
