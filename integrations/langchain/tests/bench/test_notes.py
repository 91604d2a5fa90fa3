"""Summaries: lossless ones, and those of the model."""

from __future__ import annotations

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from tests.bench.conftest import Count

from agentsleep.memory import SleepMemory
from agentsleep.tasks import rota
from langchain_agentsleep.bench.notes import Notes, by_model, by_oracle
from langchain_agentsleep.bench.plain import PlainChat

FACTS = [rota.fact(a, b) for a, b in zip(rota.NAMES, rota.NAMES[1:9], strict=False)]  # 6 tokens each


def told(facts: list[str]) -> list[BaseMessage]:
    return [ToolMessage(text, tool_call_id=f"{i}", id=f"m{i}") for i, text in enumerate(facts)]


def test_the_oracle_keeps_the_newest_facts_that_fit_in_their_order(count: Count) -> None:
    assert by_oracle(count, 20)(told(FACTS)).splitlines() == FACTS[-3:]
    assert by_oracle(count, 100)(told(FACTS)).splitlines() == FACTS
    assert by_oracle(count, 100)([*told(FACTS), *told(FACTS[:2])]).splitlines() == [*FACTS[2:], *FACTS[:2]]
    assert by_oracle(count, 5)(told(FACTS)) == ""
    assert by_oracle(count, 100)([*told([rota.UNKNOWN]), AIMessage("noted")]) == ""


def test_a_list_above_the_room_becomes_notes_and_its_last_message(shipped: SleepMemory, count: Count) -> None:
    plain = PlainChat(backend=shipped.backend, chat=shipped.chat)
    notes = Notes(plain, by_oracle(count, 30), count, 40, as_facts=True)
    short: list[BaseMessage] = [*told(FACTS[:5]), HumanMessage("look up bob .")]  # 35 tokens
    assert notes.reduced(short) == short
    reduced = notes.reduced([*told(FACTS), HumanMessage("look up bob .")])
    assert [one.content for one in reduced] == [*FACTS[-5:], "look up bob ."]
    assert all(isinstance(one, ToolMessage) for one in reduced[:-1])
    assert count(reduced) <= 40


def test_the_model_writes_its_own(shipped: SleepMemory, count: Count) -> None:
    plain = PlainChat(backend=shipped.backend, chat=shipped.chat)
    notes = Notes(plain, by_model(plain), count, 40, as_facts=False)
    reduced = notes.reduced([*told(FACTS), HumanMessage("look up bob .")])
    assert reduced[-1].content == "look up bob ."
    assert len(reduced) <= 2
    assert all(isinstance(one, HumanMessage) and one.content for one in reduced)
    empty = Notes(plain, lambda messages: " ", count, 40, as_facts=False)
    assert len(empty.reduced([*told(FACTS), HumanMessage("look up bob .")])) == 1
