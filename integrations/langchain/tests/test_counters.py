"""Counters for models behind an API, on encodings of our own: bytes, and a few merges."""

from __future__ import annotations

import builtins
from typing import Any

import pytest
import tiktoken
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.language_models import FakeListChatModel
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.ai import OutputTokenDetails, UsageMetadata
from langchain_core.messages.utils import count_tokens_approximately

from agentsleep.errors import SettingsError
from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep
from langchain_agentsleep.counters import PER_IMAGE, PER_MESSAGE, PER_REPLY, counter_for, tiktoken_counter

BYTES = {bytes([i]): i for i in range(256)}
MERGED = BYTES | {b"us": 256, b"er": 257, b"user": 258, b"he": 259}
CALL = {"name": "add", "args": {"a": 1}, "id": "1", "type": "tool_call"}


def encoding(ranks: dict[bytes, int] = BYTES) -> tiktoken.Encoding:
    """One in which all letters of a run are pieces of their own, but for merges."""
    return tiktoken.Encoding("own", pat_str=r"\w+|\W+", mergeable_ranks=ranks, special_tokens={"<|end|>": 1000})


def around(role: str) -> int:
    """What a message costs besides what it says, with one token a byte."""
    return PER_MESSAGE + len(role)


@pytest.fixture
def count() -> Any:
    return tiktoken_counter(encoding())


def test_a_message_is_its_text_its_role_and_three(count: Any) -> None:
    assert count([HumanMessage("hello")]) == 3 + 4 + 5 + 3
    assert count([HumanMessage("hello"), AIMessage("hi")]) == 3 + 4 + 5 + 3 + 9 + 2 + 3
    assert count([SystemMessage("be")]) == 3 + 6 + 2 + 3
    assert count([]) == 0


def test_it_counts_tokens_not_bytes() -> None:
    assert tiktoken_counter(encoding(MERGED))([HumanMessage("he is a user")]) == 3 + 1 + (1 + 1 + 2 + 1 + 1 + 1 + 1) + 3


def test_text_of_other_scripts_is_counted_as_it_is_encoded(count: Any) -> None:
    assert count([HumanMessage("né")]) == around("user") + 3 + PER_REPLY


def test_names_and_roles_of_ones_own_are_counted(count: Any) -> None:
    assert count([HumanMessage("x", name="ann")]) == around("user") + 1 + 1 + 3 + PER_REPLY
    assert count([ChatMessage("x", role="critic")]) == around("critic") + 1 + PER_REPLY


def test_tool_calls_are_counted_by_name_and_json(count: Any) -> None:
    assert count([AIMessage("", tool_calls=[CALL])]) == around("assistant") + 3 + len('{"a": 1}') + PER_REPLY
    assert count([ToolMessage("3", tool_call_id="1")]) == around("tool") + 1 + PER_REPLY


def test_a_call_that_also_stands_in_the_blocks_is_counted_once(count: Any) -> None:
    blocks: list[Any] = [{"type": "text", "text": "so"}, {"type": "tool_use", "name": "add", "input": {"a": 1}}]
    plain = count([AIMessage("so", tool_calls=[CALL])])
    assert count([AIMessage(blocks, tool_calls=[CALL])]) == plain


def test_blocks_of_text_and_images(count: Any) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 10_000}}
    message = HumanMessage([{"type": "text", "text": "look"}, "there", image])
    assert count([message]) == around("user") + 4 + 5 + PER_IMAGE + PER_REPLY


def test_control_tokens_in_a_text_are_text(count: Any) -> None:
    assert count([HumanMessage("<|end|>")]) == around("user") + 7 + PER_REPLY


def test_it_takes_what_converts_to_messages(count: Any) -> None:
    assert count(iter([("user", "hello")])) == count([HumanMessage("hello")])


# Encodings by name


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'no-such-thing' is no encoding and no model .*o200k_base"):
        tiktoken_counter("no-such-thing")


@pytest.mark.parametrize("name", ["o200k_base", "gpt-4o"])
def test_a_name_is_an_encodings_or_a_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(name: str) -> tiktoken.Encoding:
        asked.append(name)
        return encoding()

    monkeypatch.setattr(tiktoken, "get_encoding", get)
    assert tiktoken_counter(name)([HumanMessage("hello")]) == 15
    assert asked == ["o200k_base"]


@pytest.mark.parametrize("error", [ConnectionError("no route"), ValueError("Hash mismatch")])
def test_without_the_network_it_says_what_to_do(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(name: str) -> tiktoken.Encoding:
        raise error

    monkeypatch.setattr(tiktoken, "get_encoding", get)
    with pytest.raises(SettingsError, match=rf"'o200k_base'.*{type(error).__name__}.*TIKTOKEN_CACHE_DIR"):
        tiktoken_counter("gpt-4o")


def test_without_tiktoken_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    really = builtins.__import__

    def refuse(name: str, *rest: Any, **more: Any) -> Any:
        if name == "tiktoken":
            raise ModuleNotFoundError(name)
        return really(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(SettingsError, match=r"pip install 'langchain-agentsleep\[tiktoken\]'"):
        tiktoken_counter("gpt-4o")
    assert counter_for(FakeListChatModel(responses=[]))([HumanMessage("hello")]) > 0


# The most truthful counter


def answered(tokens: int, reasoning: int = 0) -> AIMessage:
    """An answer whose provider tells how long it was, and how much it had read."""
    details = OutputTokenDetails(reasoning=reasoning)
    usage = UsageMetadata(
        input_tokens=9000, output_tokens=tokens, total_tokens=9000 + tokens, output_token_details=details
    )
    return AIMessage("so it is", usage_metadata=usage)


def test_a_model_that_sleeps_counts_by_itself(memory: SleepMemory) -> None:
    chat = ChatSleep(memory)
    said: list[BaseMessage] = [HumanMessage("bob hands over to alice ."), answered(50)]
    assert counter_for(chat, encoding())(said) == chat.get_num_tokens_from_messages(said)


def test_a_model_with_a_tokenizer_of_its_own_is_asked() -> None:
    model = FakeListChatModel(responses=[], custom_get_token_ids=lambda text: [0] * len(text.split()))
    assert counter_for(model, encoding())([HumanMessage("one two three"), answered(50)]) == 3 + 1 + 3 + 3 + 1 + 3 + 3


def test_what_the_provider_reported_for_an_answer_goes_first() -> None:
    count = counter_for(FakeListChatModel(responses=[]), encoding())
    question = [HumanMessage("hello")]
    assert count([*question, answered(50)]) == 15 + 50 + PER_MESSAGE
    assert count([*question, answered(50, reasoning=30)]) == 15 + 20 + PER_MESSAGE
    assert count([*question, answered(0)]) == tiktoken_counter(encoding())([*question, AIMessage("so it is")])


def test_a_part_of_a_list_is_a_part_of_its_length() -> None:
    count = counter_for(FakeListChatModel(responses=[]), encoding())
    whole = [HumanMessage("hello"), answered(50), HumanMessage("bye"), answered(20)]
    assert sum(count([one]) for one in whole) - count(whole) == PER_REPLY
    assert count(whole[2:]) < count(whole) < 200


def test_without_an_encoding_it_is_an_approximation() -> None:
    said = [HumanMessage("hello there"), AIMessage("hi")]
    assert counter_for(FakeListChatModel(responses=[]))(said) == count_tokens_approximately(said)


def test_summarization_is_triggered_by_it() -> None:
    model = GenericFakeChatModel(messages=iter([AIMessage("the summary"), AIMessage("an answer")]))
    summarize = SummarizationMiddleware(
        FakeListChatModel(responses=["the summary"]),
        trigger=("tokens", 60),
        keep=("messages", 1),
        token_counter=tiktoken_counter(encoding()),
    )
    agent = create_agent(model, middleware=[summarize])
    short = agent.invoke({"messages": [HumanMessage("a" * 40)]})
    assert len(short["messages"]) == 2
    long = agent.invoke({"messages": [HumanMessage("a" * 40), HumanMessage("b" * 10)]})
    assert "the summary" in long["messages"][0].text
