"""The tokens that a list is counted as are those that a session reads of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolCall, ToolMessage
from langchain_core.tools import tool
from langchain_core.utils.function_calling import convert_to_openai_tool
from tests.talk import FACTS, Open, config

from agentsleep.errors import EmptyMessage
from langchain_agentsleep import ChatSleep, UnsupportedMessage
from langchain_agentsleep.counting import count_messages


@tool
def note(x: str) -> str:
    """Notes it."""
    return x


CALL = ToolCall(name="note", args={"x": "a"}, id="1", type="tool_call")
ASKED: list[BaseMessage] = [HumanMessage(FACTS[0])]
SYSTEM: list[BaseMessage] = [SystemMessage("bob ?"), SystemMessage("alice ?")]
CALLED: list[BaseMessage] = [
    *ASKED,
    AIMessage("", tool_calls=[CALL, {**CALL, "id": "2"}]),
    ToolMessage("fine", tool_call_id="1"),
    ToolMessage("", tool_call_id="2"),
    AIMessage(""),
    AIMessage("bob"),
    HumanMessage("été"),
]


@pytest.mark.parametrize("said", [ASKED, SYSTEM + ASKED, CALLED, SYSTEM + CALLED])
@pytest.mark.parametrize("tools", [[], [note]])
def test_it_counts_what_a_session_reads(opened: Open, said: list[BaseMessage], tools: Sequence[Any]) -> None:
    chat = ChatSleep(opened(window=448), max_tokens=1)
    model = chat.bind_tools(tools) if tools else chat
    answer = model.invoke(said, config())
    counted = chat.get_num_tokens_from_messages(said, tools)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == counted
    with chat.memory.session("t", tools=None, timeout=5) as session:
        closed = answer.response_metadata["finish_reason"] == "length"
        assert session.window_tokens == counted + answer.usage_metadata["output_tokens"] + closed


def test_tools_in_any_form(opened: Open) -> None:
    chat = ChatSleep(opened())
    forms: list[Any] = [note, note.func, convert_to_openai_tool(note), note.args_schema]  # type: ignore[attr-defined]
    assert len({chat.get_num_tokens_from_messages(ASKED, [form]) for form in forms}) == 1
    assert chat.get_num_tokens_from_messages(ASKED, [note]) > chat.get_num_tokens_from_messages(ASKED)
    assert chat.get_num_tokens_from_messages(ASKED, []) == count_messages(chat.memory.chat, ASKED)


def test_token_ids_are_the_models(opened: Open) -> None:
    chat = ChatSleep(opened())
    assert chat.get_num_tokens("bob") == 1
    assert chat.memory.backend.tokenizer.decode(chat.get_token_ids("bob ?")) == "bob ?"


def test_what_cannot_be_counted(opened: Open) -> None:
    chat = ChatSleep(opened())
    with pytest.raises(EmptyMessage):
        chat.get_num_tokens_from_messages([HumanMessage(" ")])
    with pytest.raises(UnsupportedMessage, match="image_url"):
        chat.get_num_tokens_from_messages([HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}])])
