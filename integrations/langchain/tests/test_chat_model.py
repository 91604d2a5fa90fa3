"""ChatSleep by itself: the four ways to call it agree, nothing blocks, and what it tells of an answer is so."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import ConfigurableField
from tests.talk import FACTS, Open, config, heard, humans, names, said_in, saying

from agentsleep.errors import EmptyMessage, InputError, SessionBusy, SettingsError
from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep

WARM: dict[str, Any] = {"temperature": 1.0, "seed": 7, "max_tokens": 12, "generation": {"min_new_tokens": 8}}
GAP = 0.5  # seconds between two ticks of a loop that is not blocked, on cores that others use


def whole(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    return sum(chunks[1:], chunks[0])


def slowly(
    memory: SleepMemory, seconds: float = 0.02, before: Callable[[int], None] = lambda n: None
) -> dict[str, Any]:
    """Options with which an answer of twelve names takes its time."""

    def wait(number: int) -> None:
        before(number)
        time.sleep(seconds)

    options = saying(memory, "alice bob carol dave erin frank " * 2, wait)
    return {"logits_processor": options["logits_processor"], "max_tokens": options["max_new_tokens"]}


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def chat(memory: SleepMemory) -> ChatSleep:
    return ChatSleep(memory, **WARM)


# The four ways


async def test_all_ways_to_call_it_say_the_same(chat: ChatSleep) -> None:
    said = humans(FACTS[0])
    answers: list[AIMessage] = [chat.invoke(said, config("a")), await chat.ainvoke(said, config("b"))]
    answers.append(whole(list(chat.stream(said, config("c")))))
    answers.append(whole([chunk async for chunk in chat.astream(said, config("d"))]))
    answers.append(chat.invoke(said))
    assert len(answers[0].text) > 0
    for answer in answers[1:]:
        assert answer.content == answers[0].content
        assert answer.usage_metadata == answers[0].usage_metadata
        assert answer.tool_calls == answers[0].tool_calls == []
        ours, theirs = (dict(one.response_metadata) for one in (answer, answers[0]))
        for metadata in (ours, theirs):
            metadata.pop("agentsleep", None)
        assert ours == theirs
    assert len({answer.id for answer in answers}) == len(answers)
    logged = [heard(chat.memory, thread)[-1].id for thread in "abcd"]
    assert logged == [answer.id for answer in answers[:4]]  # so that the list is known again


@pytest.mark.parametrize("way", ["stream", "astream"])
async def test_chunks_of_a_stream(chat: ChatSleep, way: str) -> None:
    said = humans(FACTS[0])
    if way == "stream":
        chunks = list(chat.stream(said, config()))
    else:
        chunks = [chunk async for chunk in chat.astream(said, config())]
    assert len(chunks) > 3
    assert len({chunk.id for chunk in chunks}) == 1
    assert [chunk.chunk_position for chunk in chunks] == [None] * (len(chunks) - 1) + ["last"]
    assert [chunk.usage_metadata is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    assert whole(chunks).content == said_in(chat.memory)[-1][1]


async def test_the_thread_is_free_when_the_last_chunk_is_there(memory: SleepMemory) -> None:
    chat = ChatSleep(memory, timeout=0.0, **WARM)
    said: list[BaseMessage] = humans(FACTS[0])
    stream = chat.stream(said, config())
    full = next(stream)
    while full.chunk_position != "last":
        full += next(stream)
    said += [full, HumanMessage(FACTS[1])]
    astream = chat.astream(said, config())
    full = await anext(astream)
    while full.chunk_position != "last":
        full += await anext(astream)
    chat.invoke([*said, full, HumanMessage(FACTS[2])], config())
    assert names(memory) == ["t"]


def test_a_stream_that_is_left_keeps_what_it_has_written(memory: SleepMemory) -> None:
    chat = ChatSleep(memory, timeout=0.0)
    stream = chat.stream(humans(FACTS[0]), config(), **slowly(memory, 0))
    assert next(stream).text
    with pytest.raises(SessionBusy, match=re.escape("another call of this process is using")):
        chat.invoke(humans(FACTS[0]), config())
    stream.close()  # type: ignore[attr-defined]
    assert said_in(memory)[-1][0] == "assistant"
    chat.invoke(humans(FACTS[0], FACTS[1]), config())


# The loop


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_the_loop_goes_on_while_the_model_works(memory: SleepMemory, way: str) -> None:
    chat, gaps = ChatSleep(memory), [0.0]

    async def tick() -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            now = time.monotonic()
            gaps.append(now - last)
            last = now

    ticker, began = asyncio.create_task(tick()), time.monotonic()
    options = slowly(memory, 0.07)
    if way == "ainvoke":
        await chat.ainvoke(humans(FACTS[0]), config(), **options)
    else:
        assert [chunk async for chunk in chat.astream(humans(FACTS[0]), config(), **options)]
    assert time.monotonic() - began > 1.5 * GAP
    ticker.cancel()
    assert max(gaps) < GAP


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
async def test_a_call_that_is_cancelled_lets_the_thread_go_and_keeps_what_it_wrote(
    memory: SleepMemory, way: str
) -> None:
    chat, steps = ChatSleep(memory, timeout=0.0), [0]
    options = slowly(memory, before=lambda number: steps.append(number))

    async def streamed() -> None:
        async for _ in chat.astream(humans(FACTS[0]), config(), **options):
            pass

    call: Awaitable[Any] = streamed() if way == "astream" else chat.ainvoke(humans(FACTS[0]), config(), **options)
    task = asyncio.ensure_future(call)
    await until(lambda: len(steps) > 4)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    written = said_in(memory)
    assert [role for role, _ in written] == ["user", "assistant"]
    assert (written[1][1] or "").startswith("alice bob")
    assert len((written[1][1] or "").split()) < 12
    answer = await chat.ainvoke([HumanMessage(FACTS[0]), AIMessage(written[1][1]), HumanMessage(FACTS[1])], config())
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_token_details"]["cache_read"] > 0
    assert names(memory) == ["t"]  # it goes on, and does not branch


async def test_a_call_that_is_cancelled_while_it_waits_for_the_thread_has_done_nothing(memory: SleepMemory) -> None:
    chat = ChatSleep(memory, max_tokens=4)
    first = asyncio.create_task(chat.ainvoke(humans(FACTS[0]), config(), **slowly(memory)))
    await until(lambda: names(memory))
    second = asyncio.create_task(chat.ainvoke(humans(FACTS[0], FACTS[1]), config()))
    await asyncio.sleep(0.05)
    second.cancel()
    answer = await first
    with pytest.raises(asyncio.CancelledError):
        await second
    assert answer.response_metadata["finish_reason"] == "stop"


async def test_batches(chat: ChatSleep) -> None:
    lists, configs = [humans(fact) for fact in FACTS[:4]], [config(f"t{i}") for i in range(4)]
    alone = [chat.invoke(one).text for one in lists]
    assert [answer.text for answer in chat.batch(lists)] == alone
    assert [answer.text for answer in await chat.abatch(lists, configs)] == alone  # type: ignore[arg-type]
    assert [said_in(chat.memory, f"t{i}")[0] for i in range(4)] == [("user", fact) for fact in FACTS[:4]]
    assert chat.batch([humans(FACTS[0]), []], return_exceptions=True)[0].text == alone[0]


def test_threads_of_execution_take_turns(chat: ChatSleep) -> None:
    said, failed = humans(FACTS[0]), []

    def work(thread: str) -> None:
        try:
            mine: list[BaseMessage] = [*said]
            for fact in FACTS[1:4]:
                mine += [chat.invoke(mine, config(thread)), HumanMessage(fact)]
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(f"t{i}",)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failed
    assert len({tuple(said_in(chat.memory, f"t{i}")) for i in range(4)}) == 1
    assert sorted(names(chat.memory)) == [f"t{i}" for i in range(4)]


def test_without_a_thread_nothing_is_kept(chat: ChatSleep) -> None:
    before = chat.invoke(humans(FACTS[0]))
    chat.invoke(humans(FACTS[1], FACTS[2]))
    again = chat.invoke(humans(FACTS[0]))
    assert names(chat.memory) == []
    assert (again.text, again.usage_metadata) == (before.text, before.usage_metadata)
    assert "agentsleep" not in again.response_metadata


# What it tells of an answer


def usage(answer: AIMessage) -> tuple[int, int, int]:
    """Input, of it cached, and output tokens."""
    told = answer.usage_metadata
    assert told is not None
    assert told["total_tokens"] == told["input_tokens"] + told["output_tokens"]
    return told["input_tokens"], told["input_token_details"]["cache_read"], told["output_tokens"]


def test_cached_tokens(opened: Open) -> None:
    memory = opened()
    chat = ChatSleep(memory, **WARM)
    said: list[BaseMessage] = [SystemMessage("bob ?"), HumanMessage(FACTS[0])]
    first = chat.invoke(said, config())
    read, cached, wrote = usage(first)
    assert (read, cached) == (chat.get_num_tokens_from_messages(said), 0)
    more: list[BaseMessage] = [*said, first, HumanMessage(FACTS[1])]
    second = chat.invoke(more, config())
    assert usage(second)[:2] == (read + wrote + 6 + 1, read + wrote)  # the message, and the mark of an answer
    edited = chat.invoke([*said, first, HumanMessage(FACTS[2])], config())
    assert usage(edited)[:2] == (read + wrote + 6 + 1, 0)  # a branch reads its window again
    chat.close()
    memory.close()
    chat = ChatSleep(opened(), **WARM)
    more += [second, HumanMessage(FACTS[3])]
    third = chat.invoke(more, config())
    assert usage(third)[:2] == (sum(usage(second)[::2]) + 7, 0)  # so does another process, where nothing was slept on


def test_what_was_slept_on_is_cached_after_a_restart(opened: Open) -> None:
    memory = opened()
    chat, said = ChatSleep(memory, **WARM), list[BaseMessage]()
    for fact in FACTS[:4]:
        said.append(HumanMessage(fact))
        said.append(chat.invoke(said, config()))
    with memory.session("t", tools=None, timeout=5) as session:
        session.sleep()
        slept = session.position().slept_on
    memory.close()
    again = ChatSleep(opened(), **WARM).invoke([*said, HumanMessage(FACTS[5])], config())
    assert usage(again)[1] == slept > 0


def test_response_metadata(opened: Open) -> None:
    chat = ChatSleep(opened(), **WARM)
    said: list[BaseMessage] = humans(FACTS[0])
    told: list[dict[str, Any]] = []
    for fact in FACTS[1:10]:
        answer = chat.invoke(said, config())
        told.append(answer.response_metadata)
        said += [answer, HumanMessage(fact)]
    first, slept = told[0], next(one for one in told if one["sleeps"])
    assert first["model_provider"] == chat._get_ls_params()["ls_provider"] == "agentsleep"
    assert first["model_name"] == chat._get_ls_params()["ls_model_name"] == "nap"
    assert (first["snapshot"], first["sleeps"], first["passes"], first["sleep_tokens"]) == (None, 0, 0, 0)
    assert (slept["sleeps"], slept["passes"]) == (1, 2)
    assert slept["sleep_tokens"] > 2 * 48
    record = chat.memory.sessions()[0]
    snapshots = {snapshot.id for snapshot in chat.memory.archive.user("default", "default").snapshots(record.id)}
    assert slept["agentsleep"]["snapshot"] in snapshots
    assert slept["agentsleep"]["session"] == record.id
    assert told[-1]["agentsleep"]["position"] == record.events
    assert {one["finish_reason"] for one in told} <= {"stop", "length"}


def test_reasons_to_end(memory: SleepMemory) -> None:
    chat = ChatSleep(memory)
    cut = chat.invoke(humans(FACTS[0]), **{**slowly(memory, 0), "max_tokens": 3})
    assert cut.response_metadata["finish_reason"] == "length"
    assert usage(cut) == (chat.get_num_tokens_from_messages(humans(FACTS[0])), 0, 3)
    stopped = chat.invoke(humans(FACTS[0]), stop=["bob"], **slowly(memory, 0))
    assert (stopped.text, stopped.response_metadata["finish_reason"]) == ("alice bob", "stop")
    stopped = ChatSleep(memory, stop=["carol"]).invoke(humans(FACTS[0]), **slowly(memory, 0))
    assert stopped.text == "alice bob carol"
    assert (
        ChatSleep(memory, stop=["alice"]).invoke(humans("bob ?"), stop=["bob"], **slowly(memory, 0)).text == "alice bob"
    )


def test_profile(memory: SleepMemory) -> None:
    profile = ChatSleep(memory, max_tokens=9).profile
    assert profile is not None
    assert (profile["max_input_tokens"], profile["max_output_tokens"]) == (96, 9)
    assert profile["tool_calling"]
    assert profile["tool_choice"]
    assert profile["structured_output"]
    assert not profile["image_inputs"]
    assert ChatSleep(memory, profile={"max_input_tokens": 5}).profile == {"max_input_tokens": 5}


# Options


def test_generation_options(memory: SleepMemory) -> None:
    chat = ChatSleep(memory, max_tokens=5)
    answers = {chat.invoke(humans(FACTS[0]), temperature=5.0, seed=seed, min_new_tokens=5).text for seed in range(4)}
    assert len(answers) > 1
    chosen = chat.invoke(humans(FACTS[0]), temperature=5.0, seed=3, min_new_tokens=5).text
    set_once = ChatSleep(memory, max_tokens=5, temperature=5.0, seed=3, generation={"min_new_tokens": 5})
    assert set_once.invoke(humans(FACTS[0])).text == chosen
    assert set_once.invoke(humans(FACTS[0]), temperature=None).text == chosen
    assert set_once.bind(max_tokens=2, min_new_tokens=1).invoke(humans(FACTS[0])).usage_metadata["output_tokens"] <= 2  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temprature": 1.0}, "temprature"),
        ({"num_beams": 4}, "num_beams"),
        ({"max_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"model": "gpt-5"}, "model is 'gpt-5', and this memory's is 'nap'"),
    ],
)
async def test_bad_options(chat: ChatSleep, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        chat.invoke(humans(FACTS[0]), config(), **options)
    with pytest.raises(SettingsError, match=re.escape(said)):
        await chat.ainvoke(humans(FACTS[0]), config(), **options)
    with pytest.raises(SettingsError, match=re.escape(said)):
        list(chat.stream(humans(FACTS[0]), config(), **options))
    chat.invoke(humans(FACTS[0]), config(), model="nap")


def test_a_misspelt_field(memory: SleepMemory) -> None:
    with pytest.raises(SettingsError, match="ChatSleep does not know max_tokenz; options of"):
        ChatSleep(memory, max_tokenz=3)
    ChatSleep(memory, api_key="x", max_retries=2, streaming=True, callbacks=None, name="n")


@pytest.mark.parametrize("said", [[], humans(" "), [SystemMessage("bob ?")]])
def test_lists_that_ask_for_nothing(chat: ChatSleep, said: list[BaseMessage]) -> None:
    if said and isinstance(said[0], HumanMessage):
        with pytest.raises(EmptyMessage):
            chat.invoke(said, config())
    else:
        assert chat.invoke(said, config()).usage_metadata is not None


def test_a_call_without_tools_on_offer_is_not_made(memory: SleepMemory) -> None:
    likes_calls = {"sequence_bias": {(token,): 1e4 for token in memory.chat.call_markers.tokens}, "max_new_tokens": 4}
    with memory.scratch() as session:
        session.add("user", FACTS[0])
        assert session.generate(**likes_calls).warning is not None
    answer = ChatSleep(memory, max_tokens=4).invoke(humans(FACTS[0]), sequence_bias=likes_calls["sequence_bias"])
    assert "warning" not in answer.response_metadata
    assert not answer.tool_calls


# As a part of LangChain


def test_the_default_memory(agentsleep_home: Path) -> None:
    chat = ChatSleep(max_tokens=4)
    assert chat.memory.archive.path == agentsleep_home / "memory.db"
    chat.invoke("bob hands over to alice .", config())
    chat.memory.close()
    assert (agentsleep_home / "memory.db").exists()


async def test_forms_of_a_model(chat: ChatSleep) -> None:
    said = humans(FACTS[0])
    text = chat.invoke(said).text
    fallback = FakeListChatModel(responses=["never"])
    forms = [
        chat.model_copy(),
        chat.model_copy(deep=True),
        copy.deepcopy(chat),
        chat.with_config(tags=["a"]),
        chat.with_retry(stop_after_attempt=2),
        chat.with_fallbacks([fallback]),
    ]
    for form in forms:
        assert form.invoke(said).text == text == (await form.ainvoke(said)).text
    copied = chat.model_copy(update={"max_tokens": 2, "generation": {}})
    assert copied.memory is chat.memory
    assert copied.invoke(said).usage_metadata["output_tokens"] <= 2
    short = chat.configurable_fields(max_tokens=ConfigurableField("most")).with_config(configurable={"most": 8})
    answer = short.invoke(said, config())  # the thread comes through as well
    assert answer.usage_metadata["output_tokens"] == 8
    assert names(chat.memory) == ["t"]
    broken = ChatSleep(chat.memory, generation={"nonsense": 1})
    assert broken.with_fallbacks([fallback]).invoke(said).text == "never"
    with pytest.raises(InputError, match="cannot be pickled"):
        pickle.dumps(chat)
    assert "SleepMemory" not in repr(chat)


def test_the_cache_tells_models_apart(memory: SleepMemory) -> None:
    cache, said = InMemoryCache(), humans(FACTS[0])
    kinds: list[dict[str, Any]] = [WARM, {**WARM, "seed": 8}, {**WARM, "top_p": 0.5}, {**WARM, "generation": {}}]
    kinds += [{**WARM, "temperature": 5.0}, {**WARM, "stop": ["bob"]}]
    for kind in kinds:
        ChatSleep(memory, cache=cache, **kind).invoke(said)
    ChatSleep(memory, cache=cache, **WARM).invoke(said)
    assert len(cache._cache) == len(kinds)  # and the last was not written again


async def test_models_are_used_from_several_loops(chat: ChatSleep) -> None:
    texts = []

    def work() -> None:
        texts.append(asyncio.run(chat.ainvoke(humans(FACTS[0]))).text)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    here = await chat.ainvoke(humans(FACTS[0]))
    for worker in workers:
        await asyncio.to_thread(worker.join, 60)
    assert texts == [here.text] * 3
