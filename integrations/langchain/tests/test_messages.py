"""LangChain's messages as a session reads them, and its log as messages again."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from agentsleep.archive import Event
from agentsleep.chat import ToolCall
from agentsleep.errors import AgentsleepError
from langchain_agentsleep import UnsupportedMessage
from langchain_agentsleep.messages import NO_OUTPUT, Listed, key_of, listed, logged, text_of


def read(*messages: BaseMessage) -> list[Listed]:
    """The list but for the system message at its head."""
    return listed(messages)[1]


def call(name: str = "look_up", **arguments: Any) -> dict[str, Any]:
    """A tool call as LangChain has it."""
    return {"name": name, "args": arguments, "id": "1", "type": "tool_call"}


# Lists


def test_each_kind_has_its_role_and_keeps_its_id() -> None:
    found = read(
        HumanMessage("a", id="1"),
        AIMessage("b", id="2"),
        ToolMessage("c", tool_call_id="x", id="3"),
        FunctionMessage("d", name="f", id="4"),
        SystemMessage("e", id="5"),
        AIMessageChunk("f", id="6"),
    )
    assert [(one.role, one.text, one.id) for one in found] == [
        ("user", "a", "1"),
        ("assistant", "b", "2"),
        ("tool", "c", "3"),
        ("tool", "d", "4"),
        ("system", "e", "5"),
        ("assistant", "f", "6"),
    ]


@pytest.mark.parametrize(
    ("name", "role"),
    [("user", "user"), ("human", "user"), ("assistant", "assistant"), ("ai", "assistant"), ("tool", "tool")],
)
def test_a_chat_message_has_the_role_that_it_names(name: str, role: str) -> None:
    assert read(HumanMessage("x"), ChatMessage("a", role=name))[1].role == role


def test_system_messages_at_the_head_are_one_and_are_no_part_of_the_list() -> None:
    system, said = listed([SystemMessage("be brief"), SystemMessage("  "), SystemMessage("be kind"), HumanMessage("a")])
    assert system == "be brief\n\nbe kind"
    assert [one.text for one in said] == ["a"]
    assert listed([HumanMessage("a")])[0] is None
    assert listed([SystemMessage(" ")]) == (None, [])
    assert listed([]) == (None, [])


def test_where_the_assistant_says_nothing_there_is_no_message() -> None:
    assert read(HumanMessage("a"), AIMessage(""), AIMessage(" \n"), SystemMessage(" "), HumanMessage("b")) == [
        Listed("user", "a"),
        Listed("user", "b"),
    ]
    assert len(read(AIMessage("", tool_calls=[call()]))) == 1, "a call is something"
    assert read(HumanMessage(" "))[0].text == " ", "a user's blank message is for the session to refuse"


@pytest.mark.parametrize("output", ["", "  ", [], [""]])
def test_a_tool_that_returns_nothing_says_so(output: Any) -> None:
    assert read(ToolMessage(output, tool_call_id="x"))[0].text == NO_OUTPUT


def test_blocks_of_text_are_one_text() -> None:
    blocks: list[Any] = ["a", {"type": "text", "text": "b"}, {"type": "text"}, {"type": "text", "text": " c"}]
    assert text_of(HumanMessage(blocks)) == "ab c"
    answer = AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "b"}, {"type": "tool_call"}])
    assert text_of(answer) == "b", "thoughts are not carried over, calls are read from tool_calls"


@pytest.mark.parametrize("kind", ["image", "image_url", "audio", "file", None])
def test_a_block_that_is_no_text_is_refused(kind: str | None) -> None:
    with pytest.raises(UnsupportedMessage, match=f"human message holds a block of type {kind!r}") as raised:
        listed([HumanMessage("fine"), HumanMessage([{"type": kind, "url": "x"}])])
    assert isinstance(raised.value, AgentsleepError)


def test_unknown_kinds_and_roles_are_refused() -> None:
    with pytest.raises(UnsupportedMessage, match="role 'judge'"):
        listed([HumanMessage("a"), ChatMessage("b", role="judge")])
    with pytest.raises(UnsupportedMessage, match="RemoveMessage"):
        listed([HumanMessage("a"), RemoveMessage(id="1")])


def test_keys_tell_what_is_said_and_nothing_else() -> None:
    def key(message: BaseMessage) -> str:
        return read(message)[0].key

    assert key(HumanMessage("a", id="1")) == key(HumanMessage([{"type": "text", "text": "a"}], name="x", id="2"))
    assert key(HumanMessage("a")) != key(AIMessage("a")) != key(HumanMessage("b"))
    one = AIMessage("", tool_calls=[call(person="bob", depth=2)])
    assert key(one) == key(AIMessage("", tool_calls=[{**call(depth=2, person="bob"), "id": "other"}]))
    assert key(one) != key(AIMessage("", tool_calls=[call(person="bob")]))
    assert key(one) != key(AIMessage("", tool_calls=[call("look", person="bob", depth=2)]))
    assert key(one) != key(AIMessage("", tool_calls=[*one.tool_calls, *one.tool_calls]))
    assert key_of("user", "\ud800") != key_of("user", "\ud801"), (
        "no text that a session would take, but none that breaks"
    )


# Logs


class Log:
    """Writes a log event by event, two tokens each."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, role: str | None, text: str | None = None, *, kind: Any = "tokens", **data: Any) -> Log:
        mine = [1, 2] if kind == "tokens" and role else []
        position = sum(len(event.token_ids) for event in self.events)
        self.events.append(
            Event(
                seq=len(self.events),
                kind=kind,
                role=role,
                token_ids=tuple(mine),
                position=position,
                text=text,
                data=data,
                created=datetime.now(UTC),
            )
        )
        return self

    def sleep(self) -> Log:
        """The mark of a sleep."""
        return self(None, kind="sleep", stop=0)


def about(message: Listed, part: int = 0, parts: int = 1) -> dict[str, Any]:
    """What a session is told with a message."""
    return {"metadata": message.metadata(part, parts)}


def test_what_was_read_is_found_again() -> None:
    said = read(
        HumanMessage("a", id="1"),
        AIMessage("b", tool_calls=[call(person="bob")], id="2"),
        ToolMessage("c", tool_call_id="x"),
    )
    log = Log()
    for one in said:
        log(one.role, "as the format has it", **about(one))
    found = logged(log.events)
    assert [(one.key, one.id) for one in found] == [(one.key, one.id) for one in said]
    assert [(one.start, one.stop, one.end) for one in found] == [(0, 1, 2), (1, 2, 4), (2, 3, 6)]


def test_what_the_model_wrote_is_known_by_what_it_said() -> None:
    log = Log()("assistant", " plain")("assistant", "<think>hm</think>said", said="said")
    log("assistant", "raw", said="", calls=[{"name": "look_up", "arguments": {"person": "bob"}}])
    spoken = read(AIMessage(" plain"), AIMessage("said"), AIMessage("", tool_calls=[call(person="bob")]))
    assert [one.key for one in logged(log.events)] == [one.key for one in spoken]


def test_marks_pins_and_blank_turns_are_no_messages() -> None:
    log = Log()("user", "a").sleep()(None, "pinned", pins={})("assistant", "")("assistant", " ", said="")("user", "b")
    assert [(one.start, one.end) for one in logged(log.events)] == [(0, 2), (5, 8)]


def test_a_turn_that_a_sleep_fell_into_is_one_message() -> None:
    log = Log()("user", "a")("assistant", open=True).sleep()("assistant", "b")("user", "c")
    found = logged(log.events)
    assert [(one.start, one.stop, one.end) for one in found] == [(0, 1, 2), (1, 4, 6), (4, 5, 8)]
    assert found[1].key == key_of("assistant", "b")


def test_to_a_turn_without_an_end_nothing_is_equal() -> None:
    log = Log()("user", "a")("assistant", open=True).sleep()
    assert [(one.key, one.id, one.start, one.stop) for one in logged(log.events)][1] == (None, None, 1, 2)


def test_a_message_of_several_calls_is_one_message() -> None:
    message = read(AIMessage("", tool_calls=[call(person="bob"), call(person="carol"), call(person="dave")], id="1"))[0]
    log = Log()("user", "a")
    for part in range(3):
        log("assistant", **about(message, part, 3))
        if part == 1:
            log.sleep()
    log("tool", "b")
    found = logged(log.events)
    assert [(one.key, one.id) for one in found][1] == (message.key, "1")
    assert [(one.start, one.stop) for one in found] == [(0, 1), (1, 5), (5, 6)]


def test_to_a_message_that_lacks_parts_nothing_is_equal() -> None:
    message = read(AIMessage("", tool_calls=[call(person="bob"), call(person="carol")], id="1"))[0]
    log = Log()("assistant", **about(message, 0, 2))("user", "a")
    log("assistant", **about(message, 0, 2))("assistant", **about(message, 0, 2))("assistant", **about(message, 1, 2))
    log("assistant", **about(message, 1, 2))
    found = logged(log.events)
    assert [one.key for one in found] == [None, key_of("user", "a"), None, message.key, None]
    assert [one.id for one in found] == [None, None, None, "1", None]


def test_without_its_text_a_message_is_known_by_its_id() -> None:
    log = Log()("assistant", None, metadata={"langchain": {"id": "1"}})("user", None)
    assert [(one.key, one.id) for one in logged(log.events)] == [(None, "1"), (None, None)]


def test_a_tool_call_in_the_log_is_what_the_list_has() -> None:
    assert key_of("assistant", "", [ToolCall("f", {"x": (1, 2)})]) == key_of(
        "assistant", "", [ToolCall("f", {"x": [1, 2]})]
    )


def test_a_memory_that_listens_is_told_of_what_it_cannot_see() -> None:
    seen = HumanMessage([{"type": "text", "text": "who is this? "}, {"type": "image_url", "image_url": {"url": "x"}}])
    with pytest.raises(UnsupportedMessage, match="image_url"):
        listed([seen])
    assert listed([seen], naming=True)[1][0].text == "who is this? (image_url)"
