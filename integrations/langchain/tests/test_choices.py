"""Tools and forms that a caller may ask for, and what is refused."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.runnables import Runnable
from langchain_core.tools import StructuredTool, tool
from pydantic import BaseModel
from tests.talk import FACTS, Open, config, humans, said_in

from agentsleep.errors import AgentsleepError, MessageTooLong, SettingsError
from agentsleep.policy import SleepPolicy
from langchain_agentsleep import ChatSleep
from langchain_agentsleep.choices import Link, asked, choice_of


class Note(BaseModel):
    """Notes it."""

    x: int


class NoteDict(TypedDict):
    """Notes it."""

    x: Annotated[int, ..., "what"]


NOTE_SCHEMA = {**Note.model_json_schema(), "title": "Note", "description": "Notes it."}


def ask(q: str) -> str:
    """Asks."""
    return q


@tool
def add(a: int) -> int:
    """Adds."""
    return a


OPENAI = {"type": "function", "function": {"name": "look", "description": "", "parameters": Note.model_json_schema()}}
TOOLS: list[Any] = [Note, ask, OPENAI, add]
NAMES = ["Note", "ask", "look", "add"]


@pytest.fixture
def chat(opened: Open) -> ChatSleep:
    return ChatSleep(opened(window=448), max_tokens=60)


# Tools


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (None, "auto"),
        (False, "auto"),
        ("auto", "auto"),
        ({"type": "auto"}, "auto"),
        ("none", "none"),
        ({"type": "none"}, "none"),
        (True, "any"),
        ("any", "any"),
        ("required", "any"),
        ({"type": "any"}, "any"),
        ({"type": "required"}, "any"),
        ("ask", "ask"),
        ({"type": "function", "function": {"name": "ask"}}, "ask"),
        ({"type": "tool", "name": "ask"}, "ask"),
        ({"name": "ask"}, "ask"),
    ],
)
def test_choices_in_all_their_forms(choice: Any, chosen: str) -> None:
    assert choice_of(choice, NAMES) == chosen


@pytest.mark.parametrize(
    "choice",
    [
        "aks",
        "Any",
        3,
        {"type": "function"},
        {"type": "function", "function": {"name": "aks"}},
        {"function": "aks"},
        {},
        [],
        ["ask"],
    ],
)
def test_choices_that_are_none(chat: ChatSleep, choice: Any) -> None:
    with pytest.raises(SettingsError, match="use auto, none, any, or one of the tools: Note, ask, look, add"):
        chat.bind_tools(TOOLS, tool_choice=choice)


@pytest.mark.parametrize("choice", ["any", True, "required"])
def test_a_call_without_tools(chat: ChatSleep, choice: Any) -> None:
    with pytest.raises(SettingsError, match="no tools are bound"):
        chat.bind_tools([], tool_choice=choice)


def test_tools_of_every_kind(chat: ChatSleep) -> None:
    bound = chat.bind_tools(TOOLS).kwargs["tools"]  # type: ignore[attr-defined]
    assert [one["function"]["name"] for one in bound] == NAMES
    structured = StructuredTool.from_function(ask, name="asks")
    assert chat.bind_tools([structured]).kwargs["tools"][0]["function"]["name"] == "asks"  # type: ignore[attr-defined]


def chosen(answer: AIMessage, names: Sequence[str]) -> bool:
    (call,) = answer.tool_calls
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    assert call["id"]
    return answer.text == "" and call["name"] in names


@pytest.mark.parametrize("name", NAMES)
def test_a_named_tool_is_called(chat: ChatSleep, name: str) -> None:
    answer = chat.bind_tools(TOOLS, tool_choice=name).invoke(humans(FACTS[0]), config())
    assert chosen(answer, [name])
    assert said_in(chat.memory)[-1][0] == "assistant"


async def test_any_tool_is_called_in_all_ways(chat: ChatSleep) -> None:
    model = chat.bind_tools([Note, add], tool_choice="any")
    answer = model.invoke(humans(FACTS[0]))
    assert chosen(answer, ["Note", "add"])
    (argument,) = answer.tool_calls[0]["args"].values()
    assert isinstance(argument, int)
    others: list[Any] = [await model.ainvoke(humans(FACTS[0]))]
    chunks = list(model.stream(humans(FACTS[0])))
    others.append(sum(chunks[1:], chunks[0]))  # type: ignore[arg-type]
    chunks = [chunk async for chunk in model.astream(humans(FACTS[0]))]
    others.append(sum(chunks[1:], chunks[0]))  # type: ignore[arg-type]
    for other in others:
        assert [(call["name"], call["args"]) for call in other.tool_calls] == [
            (call["name"], call["args"]) for call in answer.tool_calls
        ]
        assert other.usage_metadata == answer.usage_metadata
        assert [block["type"] for block in other.content_blocks] == ["tool_call"]


def test_none_writes_no_call(chat: ChatSleep) -> None:
    bias = {(token,): 1e4 for token in chat.memory.chat.call_markers.tokens}
    with_tools = chat.bind_tools([add], tool_choice="none")
    answer = with_tools.invoke(humans(FACTS[0]), sequence_bias=bias, max_tokens=4)
    assert not answer.tool_calls
    assert "warning" not in answer.response_metadata
    tempted = chat.bind_tools([add]).invoke(humans(FACTS[0]), sequence_bias=bias, max_tokens=4)
    assert "warning" in tempted.response_metadata


def test_tools_that_do_not_fit(opened: Open) -> None:
    chat = ChatSleep(opened(), max_tokens=60)
    with pytest.raises(MessageTooLong):
        chat.bind_tools([*TOOLS, StructuredTool.from_function(ask, name="a" * 60)]).invoke(humans(FACTS[0]), config())
    chat.invoke(humans(FACTS[0]), config())


# Forms


@pytest.mark.parametrize("method", ["function_calling", "json_schema"])
@pytest.mark.parametrize("schema", [Note, NoteDict, NOTE_SCHEMA])
def test_structured_output(chat: ChatSleep, schema: Any, method: str) -> None:
    model: Runnable[Any, Any] = chat.with_structured_output(schema, method=method)  # type: ignore[arg-type]
    answer = model.invoke(humans(FACTS[0]))
    assert isinstance(answer, Note) if schema is Note else isinstance(answer["x"], int)
    both = chat.with_structured_output(schema, method=method, include_raw=True).invoke(humans(FACTS[0]))  # type: ignore[arg-type]
    assert both["parsed"] == answer
    assert both["parsing_error"] is None
    assert isinstance(both["raw"], AIMessage)


async def test_json_mode(chat: ChatSleep) -> None:
    model = chat.with_structured_output(NOTE_SCHEMA, method="json_mode", include_raw=True)
    answer = await model.ainvoke(humans(FACTS[0]))
    assert isinstance(answer["parsed"], dict)
    raw = chat.with_structured_output(Note, method="json_mode", include_raw=True).invoke(humans(FACTS[0]))
    assert isinstance(raw["parsed"], Note) or raw["parsing_error"] is not None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "yaml"}, "method is 'yaml'; use function_calling, json_schema or json_mode"),
        ({"method": "json_schema", "colour": 1}, "does not know colour"),
        ({"colour": 1}, "does not know colour"),
    ],
)
def test_bad_structured_output(chat: ChatSleep, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        chat.with_structured_output(Note, **options)


# Keyword arguments of a call


def test_they_are_sorted() -> None:
    link = Link(policy=SleepPolicy(trigger=None))
    found = asked(
        {
            "tools": [OPENAI],
            "tool_choice": "look",
            "parallel_tool_calls": True,
            "agentsleep": link,
            "max_tokens": 3,
            "seed": 1,
            "strict": True,
            "stream_usage": True,
            "scope": None,
        },
        ["x"],
    )
    assert (found.tools, found.choice, found.parallel, found.schema, found.link) == (
        (OPENAI,),
        "look",
        True,
        None,
        link,
    )
    assert found.options == {"max_new_tokens": 3, "seed": 1, "stop_strings": ["x"]}
    assert asked({}, None).options == {}
    assert asked({"tools": None}, []).tools == ()


@pytest.mark.parametrize(
    "form",
    [{"type": "json"}, "json", {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": 1}}],
)
def test_forms_that_are_none(form: Any) -> None:
    with pytest.raises(SettingsError, match=re.escape("response_format is")):
        asked({"response_format": form}, None)


def test_forms() -> None:
    assert asked({"response_format": {"type": "text"}}, None).schema is None
    assert asked({"response_format": {"type": "json_object"}}, None).schema == {}
    schema = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}
    assert asked({"response_format": schema}, None).schema == {"type": "object"}
    with pytest.raises(SettingsError, match="one or the other"):
        asked({"response_format": schema, "tools": [OPENAI], "tool_choice": "any"}, None)


@pytest.mark.parametrize("tools", [[{"name": "look"}], ["look"], [{"type": "function"}], 7])
def test_tools_that_are_none(chat: ChatSleep, tools: Any) -> None:
    with pytest.raises(AgentsleepError):
        chat.invoke(humans(FACTS[0]), tools=tools)
