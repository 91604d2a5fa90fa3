"""The plain chat model answers as a stateless ChatSleep does, and the meter counts what both read."""

from __future__ import annotations

import pytest
from langchain_core.exceptions import ContextOverflowError
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from agentsleep.memory import SleepMemory
from agentsleep.memory.probing import TEXT
from agentsleep.tasks import rota
from langchain_agentsleep import ChatSleep
from langchain_agentsleep.bench.arms import Table
from langchain_agentsleep.bench.dialogues import draw
from langchain_agentsleep.bench.meter import Meter
from langchain_agentsleep.bench.plain import PlainChat

HEAD = SystemMessage(rota.SYSTEM)
FACTS = [rota.fact("bob", "alice"), rota.fact("alice", "dave")]


def test_it_answers_as_a_stateless_chat_sleep_and_reads_as_much(shipped: SleepMemory) -> None:
    plain, slow = PlainChat(backend=shipped.backend, chat=shipped.chat), ChatSleep(shipped, max_tokens=8)
    made = draw(3, 0, people=12, depths=(1, 2), per_depth=1, window=10, length=len)
    told: list[BaseMessage] = [HEAD, *made.messages()[:14]]
    for model in (plain, slow):
        assert model.invoke([*told, HumanMessage(TEXT)]).text  # type: ignore[attr-defined]
    for text in (*(q.text for q in made.questions), rota.SMALL_TALK[0]):
        assert plain.invoke([*told, HumanMessage(text)]).text == slow.invoke([*told, HumanMessage(text)]).text
    asked = [*told, HumanMessage(rota.request(made.episode.order[5]))]
    tool = Table().look_up
    ours, theirs = (model.bind_tools([tool]).invoke(asked) for model in (plain, slow))  # type: ignore[attr-defined]
    assert ours.tool_calls[0]["args"] == theirs.tool_calls[0]["args"] == {"person": made.episode.order[5]}


def test_it_reads_no_more_than_its_window(shipped: SleepMemory) -> None:
    plain = PlainChat(backend=shipped.backend, chat=shipped.chat)
    long = [HumanMessage(text) for text in rota.SMALL_TALK[:20]]
    with pytest.raises(ContextOverflowError, match="window of 112"):
        plain.invoke(long)


def test_the_meter_tells_waking_from_sleeping_and_probing(shipped: SleepMemory) -> None:
    meter = Meter(shipped.backend, shipped.chat)
    plain = PlainChat(backend=shipped.backend, chat=shipped.chat)
    with meter.counting(), shipped.session("metered") as session:
        for text in FACTS:
            session.add("tool", text)
        assert (meter.tokens.wake, meter.tokens.sleep, meter.tokens.probe) == (12, 0, 0)
        before = meter.tokens
        session.sleep()
        slept = meter.tokens - before
        assert (slept.wake, slept.sleep) == (0, 4 * 12)
        assert slept.probe in (8, 16)  # the state's answer; the first time, an empty memory's too
        before = meter.tokens
        answer = plain.invoke([HEAD, HumanMessage(rota.question(1, "bob"))])
        spent = meter.tokens - before
        written = len(shipped.chat.message("assistant", answer.text)) - 1
        read = plain.get_num_tokens_from_messages([HEAD, HumanMessage(rota.question(1, "bob"))])
        assert spent.wake == read + written - 1  # the end is written, and not read
        assert spent.all == spent.wake
    before = meter.tokens
    plain.invoke([HumanMessage("lunch is cold today .")])
    assert meter.tokens == before
