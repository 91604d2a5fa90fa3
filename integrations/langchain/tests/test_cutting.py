"""Which messages may leave a list: only its head, only what was slept on, and no call without its results."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.graph.message import add_messages

from langchain_agentsleep.cutting import removals


def human(id: str) -> HumanMessage:
    return HumanMessage("hello", id=id)


def ai(id: str, *calls: str) -> AIMessage:
    return AIMessage(
        "" if calls else "fine",
        id=id,
        tool_calls=[{"name": "look_up", "args": {}, "id": call, "type": "tool_call"} for call in calls],
    )


def result(id: str, call: str) -> ToolMessage:
    return ToolMessage("found", tool_call_id=call, id=id)


def system(id: str) -> SystemMessage:
    return SystemMessage("be kind", id=id)


def gone(messages: Sequence[AnyMessage], consolidated: str | set[str], **options: bool | int) -> str:
    """Ids, each of one letter, of what is removed."""
    return "".join(str(one.id) for one in removals(messages, set(consolidated), **options))  # type: ignore[arg-type]


def test_the_head_leaves_as_far_as_it_was_slept_on() -> None:
    messages = [human("a"), ai("b"), human("c"), ai("d")]
    assert gone(messages, "") == ""
    assert gone(messages, "a") == "a"
    assert gone(messages, "abc") == "abc"
    assert gone(messages, "bcd") == ""
    assert gone(messages, "abd") == "ab"


def test_the_last_ones_stay() -> None:
    messages = [human("a"), ai("b"), human("c"), ai("d")]
    assert gone(messages, "abcd") == "abc"
    assert gone(messages, "abcd", kept=0) == "abc"
    assert gone(messages, "abcd", kept=3) == "a"
    assert gone(messages, "abcd", kept=9) == ""
    assert gone([], "abcd") == ""
    assert gone([human("a")], "a") == ""


def test_system_messages_stay_and_hide_nothing() -> None:
    assert gone([system("s"), human("a"), system("u"), ai("b"), human("c")], "abc") == "ab"
    assert gone([system("s"), human("a")], "sa") == ""


def test_an_answer_that_says_nothing_leaves() -> None:
    """No memory knows it, for nothing was read."""
    messages = [human("a"), AIMessage("", id="b"), human("c"), AIMessage([], id="d"), human("e")]
    assert gone(messages, "ac") == "abcd"
    assert gone(messages, "") == ""
    assert gone(messages[:2], "a") == "a"


def test_calls_stay_with_their_results() -> None:
    messages = [human("a"), ai("b", "1", "2"), result("c", "1"), result("d", "2"), ai("e")]
    assert gone(messages, "abcde") == "abcd"
    assert gone(messages, "abc") == "a"
    assert gone(messages, "ab") == "a"
    assert gone(messages[:-1], "abcd") == "a", "the last message is a result"
    assert gone(messages[:3], "abc") == "a", "one result is still to come"
    assert gone(messages[:2], "ab") == "a"


def test_calls_one_after_the_other() -> None:
    messages = [human("a"), ai("b", "1"), result("c", "1"), ai("d", "2"), result("e", "2"), ai("f")]
    assert gone(messages, "abcd") == "abc"
    assert gone(messages, "abcdef") == "abcde"
    assert gone(messages, "ab") == "a"


def test_ids_of_calls_that_are_used_again() -> None:
    """As servers of local models do: a result belongs to the call before it."""
    messages = [human("a"), ai("b", "1"), result("c", "1"), human("d"), ai("e", "1"), result("f", "1")]
    assert gone(messages, "abcdef") == "abcd"
    assert gone(messages[:-1], "abcde") == "abcd"
    assert gone(messages, "ab") == "a"


def test_a_call_that_was_given_up_leaves() -> None:
    """The user has said something else before there was a result: none will come."""
    messages = [human("a"), ai("b", "1"), human("c"), ai("d")]
    assert gone(messages, "abcd") == "abc"


def test_what_stays_begins_with_the_user() -> None:
    messages = [human("a"), ai("b", "1"), result("c", "1"), ai("d"), human("e"), ai("f")]
    assert gone(messages, "abcdef", from_user=True) == "abcd"
    assert gone(messages, "abcdef", from_user=True, kept=3) == ""
    assert gone(messages[:4], "abcdef", from_user=True) == ""
    assert gone([ai("a"), human("b"), ai("c")], "abc", from_user=True) == "a"


def test_the_user_spoke_between_a_call_and_its_result() -> None:
    messages = [human("a"), ai("b", "1"), human("c"), result("d", "1"), ai("e"), human("f")]
    assert gone(messages, "abcd", from_user=True) == ""
    assert gone(messages, "abcdef", from_user=True) == "abcde"


@pytest.mark.parametrize("unknown", [None, "x"])
def test_a_message_that_no_memory_knows_stays(unknown: str | None) -> None:
    assert gone([HumanMessage("hello", id=unknown), ai("b"), human("c")], "bc") == ""


@st.composite
def lists(draw: st.DrawFn) -> list[AnyMessage]:
    """Of any order: results late, missing, mixed up, in between what others say."""
    found: list[AnyMessage] = []
    waiting: list[str] = []
    for number in range(draw(st.integers(0, 14))):
        kind = draw(st.sampled_from("haacrrrrs"))
        if kind == "h":
            found.append(human(f"m{number}"))
        elif kind == "a":
            found.append(ai(f"m{number}"))
        elif kind == "s":
            found.append(system(f"m{number}"))
        elif kind == "c":
            calls = [f"c{number}.{part}" for part in range(draw(st.integers(1, 3)))]
            found.append(ai(f"m{number}", *calls))
            waiting += calls
        elif waiting:
            found.append(result(f"m{number}", waiting.pop(draw(st.integers(0, len(waiting) - 1)))))
    return found


@given(
    messages=lists(),
    knows=st.one_of(st.integers(0, 14), st.sets(st.integers(0, 14))),
    kept=st.integers(0, 4),
    from_user=st.booleans(),
)
def test_any_list(messages: list[AnyMessage], knows: int | set[int], kept: int, from_user: bool) -> None:
    known = range(knows) if isinstance(knows, int) else knows
    consolidated = {str(one.id) for place, one in enumerate(messages) if place in known}
    removed = removals(messages, consolidated, kept=kept, from_user=from_user)
    names = [str(one.id) for one in removed]
    assert set(names) <= consolidated
    said = [str(one.id) for one in messages if not isinstance(one, SystemMessage)]
    assert names == said[: len(names)]
    stays = list(add_messages(list(messages), list(removed)))  # type: ignore[arg-type]
    assert all(one in stays for one in messages if isinstance(one, SystemMessage))
    assert stays[len(stays) - min(max(1, kept), len(messages)) :] == messages[-max(1, kept) :]
    for call in (call["id"] for one in messages if isinstance(one, AIMessage) for call in one.tool_calls):
        about = [
            one
            for one in messages
            if (isinstance(one, ToolMessage) and one.tool_call_id == call)
            or (isinstance(one, AIMessage) and call in [other["id"] for other in one.tool_calls])
        ]
        assert len({str(one.id) in names for one in about}) == 1, "a call and its result go together"
    if messages and isinstance(messages[-1], AIMessage):
        assert messages[-1] in stays
    rest = [one for one in stays if not isinstance(one, SystemMessage)]
    if from_user and names:
        assert isinstance(rest[0], HumanMessage)
    assert removals(stays, consolidated, kept=kept, from_user=from_user) == []
