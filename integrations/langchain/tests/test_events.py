"""Sleeps are told of while they happen."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from tests.talk import FACTS, config, humans

from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep
from langchain_agentsleep.events import teller

LONG: list[BaseMessage] = humans(*FACTS[:9], *FACTS[:9])  # 108 tokens, and the window holds 96
NAMES = ["sleep_started", "sleep_finished"]
DETAILS = ("session", "mode", "trigger", "tokens", "rounds")


class Heard(BaseCallbackHandler):
    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any], UUID]] = []
        self.models: list[UUID] = []

    def on_chat_model_start(self, *_: Any, run_id: UUID, **__: Any) -> None:
        self.models.append(run_id)

    def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        self.told.append((name, data, run_id))


class HeardAsync(AsyncCallbackHandler):
    def __init__(self) -> None:
        self.told: list[tuple[str, dict[str, Any], UUID]] = []

    async def on_custom_event(self, name: str, data: Any, *, run_id: UUID, **_: Any) -> None:
        self.told.append((name, data, run_id))


def assert_told(told: list[tuple[str, dict[str, Any]]], chat: ChatSleep, answer: dict[str, Any]) -> None:
    assert [name for name, _ in told] == NAMES
    started, finished = told[0][1], told[1][1]
    assert {name: started[name] for name in DETAILS} == {name: finished[name] for name in DETAILS}
    assert (finished["mode"], finished["passes"], started["passes"]) == ("light", 2, 2)
    assert finished["ms"] > 0
    assert started["tokens"] == answer["sleep_tokens"] / 2 > 48
    assert (answer["sleeps"], answer["passes"]) == (1, 2)
    if "agentsleep" in answer:
        snapshots = chat.memory.archive.user("default", "default").snapshots(chat.memory.sessions()[0].id)
        assert finished["snapshot"] in [snapshot.id for snapshot in snapshots]
        assert finished["snapshot"] == answer["agentsleep"]["snapshot"]
        assert finished["session"] == answer["agentsleep"]["session"]


@pytest.mark.parametrize("thread", [{}, config()])
@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream", "astream"])
async def test_callbacks_hear_of_it(memory: SleepMemory, thread: RunnableConfig, way: str) -> None:
    chat, heard = ChatSleep(memory, max_tokens=2), Heard()
    asked = RunnableConfig(**thread, callbacks=[heard])  # type: ignore[typeddict-item]
    match way:
        case "invoke":
            answer = chat.invoke(LONG, asked)
        case "ainvoke":
            answer = await chat.ainvoke(LONG, asked)
        case "stream":
            answer = list(chat.stream(LONG, asked))[-1]
        case _:
            answer = [chunk async for chunk in chat.astream(LONG, asked)][-1]
    assert_told([(name, data) for name, data, _ in heard.told], chat, answer.response_metadata)
    assert {run for _, _, run in heard.told} == set(heard.models)


async def test_async_callbacks_hear_of_it(memory: SleepMemory) -> None:
    chat, heard = ChatSleep(memory, max_tokens=2), HeardAsync()
    answer = await chat.ainvoke(LONG, RunnableConfig(callbacks=[heard]))
    assert_told([(name, data) for name, data, _ in heard.told], chat, answer.response_metadata)


async def test_streams_of_events_show_it(memory: SleepMemory) -> None:
    chat = ChatSleep(memory, max_tokens=2)
    events = [event async for event in chat.astream_events(LONG, config(), version="v2")]
    told = [(event["name"], event["data"]) for event in events if event["event"] == "on_custom_event"]
    end = next(event for event in events if event["event"] == "on_chat_model_end")
    assert_told(told, chat, end["data"]["output"].response_metadata)
    kinds = [event["event"] for event in events]
    # Told while it happens: the sleep makes room before the answer is written.
    assert kinds.index("on_custom_event") < kinds.index("on_chat_model_stream")
    assert {event["run_id"] for event in events if event["event"] == "on_custom_event"} == {end["run_id"]}


async def test_a_model_that_is_invoked_by_what_streams_shows_it(memory: SleepMemory) -> None:
    chat = ChatSleep(memory, max_tokens=2)

    async def node(said: list[BaseMessage]) -> str:
        return (await chat.ainvoke(said)).text

    events = [event async for event in RunnableLambda(node).astream_events(LONG, config(), version="v2")]
    told = [event for event in events if event["event"] == "on_custom_event"]
    model = next(event for event in events if event["event"] == "on_chat_model_end")
    assert [(event["name"], event["run_id"]) for event in told] == [(name, model["run_id"]) for name in NAMES]


async def test_chains_show_it(memory: SleepMemory) -> None:
    chain = RunnableLambda(lambda said: said) | ChatSleep(memory, max_tokens=2)
    events = [event async for event in chain.astream_events(LONG, config(), version="v2")]
    assert [event["name"] for event in events if event["event"] == "on_custom_event"] == NAMES


def test_a_second_call_tells_of_its_own_sleeps(memory: SleepMemory) -> None:
    chat, first, second = ChatSleep(memory, max_tokens=2), Heard(), Heard()
    answer = chat.invoke(LONG, RunnableConfig(**config(), callbacks=[first]))
    more = [*LONG, answer, HumanMessage(FACTS[9])]
    again = chat.invoke(more, RunnableConfig(**config(), callbacks=[second]))
    assert (len(first.told), len(second.told)) == (2, 0)
    assert again.response_metadata["sleeps"] == 0
    assert again.response_metadata["agentsleep"]["snapshot"] == answer.response_metadata["agentsleep"]["snapshot"]


def test_a_callback_that_fails_stops_nothing(memory: SleepMemory) -> None:
    class Fails(BaseCallbackHandler):
        raise_error = True

        def on_custom_event(self, *_: Any, **__: Any) -> None:
            raise RuntimeError("no")

    answer = ChatSleep(memory, max_tokens=2).invoke(LONG, RunnableConfig(**config(), callbacks=[Fails()]))
    assert answer.response_metadata["sleeps"] == 1


def test_nobody_listens(memory: SleepMemory) -> None:
    teller(None)(None)  # type: ignore[arg-type]
    assert ChatSleep(memory, max_tokens=2).invoke(LONG).response_metadata["sleeps"] == 1
