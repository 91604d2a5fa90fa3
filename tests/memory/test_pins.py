"""What is pinned: read again at the head of every window, counted, changed, refused."""

from __future__ import annotations

from typing import Any

import pytest

from agentsleep.errors import EmptyMessage, InputError, MessageTooLong, SettingsError
from agentsleep.memory import Session, SleepMemory, Toolbox
from agentsleep.policy import SleepPolicy
from tests.memory.conftest import Open
from tests.memory.helpers import (
    FACT,
    FACT_TOKENS,
    SYSTEM,
    WINDOW,
    Trace,
    assert_whole,
    events,
    fill,
    kinds,
    schema,
    stream_of,
)

LONG = "z" * (WINDOW // 2)


def head_of(memory: SleepMemory, system: str | None, *tools: dict[str, Any]) -> list[int]:
    return (memory.chat.message("system", system) if system else []) + memory.chat.tools(tools)


def look_up(person: str) -> str:
    """Tells to whom a person hands over."""
    return person


def test_pins_stand_at_the_head_of_every_window(memory: SleepMemory) -> None:
    head = head_of(memory, SYSTEM, schema())
    with memory.session(system=SYSTEM, tools=[look_up]) as session:
        assert session.window.ids == head
        assert session.stats().pinned_tokens == session.window_tokens == len(head)
        assert session.tokens == 0  # nobody said them
        assert session.messages() == []
        fill(session, 13)
        assert len(session.history()) == 2
        assert session.window.ids[: len(head)] == head
        marks = [event.data for event in events(session) if event.kind == "sleep"]
        assert [mark["pinned"] for mark in marks] == [head, head]
        assert all(int(str(m["stop"])) - int(str(m["start"])) <= WINDOW - len(head) for m in marks)
        assert_whole(session)


def test_pins_are_part_of_the_state(memory: SleepMemory) -> None:
    states = []
    for thread, system in (("a", SYSTEM), ("b", None)):
        with memory.session(thread, system=system) as session:
            session.add("user", FACT)
            session.sleep()
            states.append(session.state)
            assert_whole(session)
    assert states[0].diff(states[1])["layers.1.recurrent"] > 1e-3


def test_system_is_kept_until_it_is_changed(memory: SleepMemory) -> None:
    with memory.session(system=SYSTEM) as session:
        session.add("user", FACT)
    with memory.session() as session:
        assert session.window.ids == head_of(memory, SYSTEM) + stream_of(session)
        assert kinds(session) == "pt"
    with memory.session(system="the office is great .") as session:
        assert session.window.ids == head_of(memory, "the office is great .") + stream_of(session)
        assert kinds(session) == "ptp"
    with memory.session(system="") as session:
        assert session.window.ids == stream_of(session)
        assert kinds(session) == "ptpp"
        assert_whole(session)
    with memory.session(system="") as session:
        assert kinds(session) == "ptpp"  # nothing new, nothing written


def test_tools_are_offered_by_who_opens(memory: SleepMemory) -> None:
    with memory.session(tools=[look_up]) as session:
        assert session.window.ids == head_of(memory, None, schema())
    with memory.session(tools=Toolbox([look_up])) as session:
        assert kinds(session) == "p"
    with memory.session() as session:
        assert session.window.ids == []
        assert kinds(session) == "pp"


def test_a_pin_reads_the_open_window_again(session: Session, memory: SleepMemory) -> None:
    fill(session, 3)
    before = Trace.of(session)
    session.pin(system=SYSTEM)
    head = head_of(memory, SYSTEM)
    after = Trace.of(session)
    assert after.window == head + before.window
    assert after.tokens == before.tokens
    assert after.logits is not None
    assert before.logits is not None
    assert not after.logits.equal(before.logits)
    assert_whole(session)
    session.pin(system="")
    assert Trace.of(session).window == before.window
    assert_whole(session)


def test_what_is_not_named_stays(session: Session, memory: SleepMemory) -> None:
    session.pin(system=SYSTEM, tools=[schema()])
    session.pin(tools=[schema("ask")])
    assert session.window.ids == head_of(memory, SYSTEM, schema("ask"))
    session.pin(system="bob")
    assert session.window.ids == head_of(memory, "bob", schema("ask"))
    session.pin()
    assert kinds(session) == "ppp"
    session.pin(tools=[])
    assert session.window.ids == head_of(memory, "bob")
    session.pin(system="")
    assert session.window.ids == []


def test_a_longer_head_makes_a_full_window_sleep(session: Session, memory: SleepMemory) -> None:
    fill(session, 8)
    assert session.window_tokens == WINDOW
    session.pin(system=SYSTEM)
    assert session.window_tokens == len(head_of(memory, SYSTEM)) + 2 * FACT_TOKENS
    assert kinds(session) == "t" * 8 + "ps"
    (mark,) = [event.data for event in events(session) if event.kind == "sleep"]
    assert (mark["stop"], mark["pinned"]) == (36, head_of(memory, SYSTEM))
    assert_whole(session)


def test_pins_set_one_after_the_other_all_count(session: Session, memory: SleepMemory) -> None:
    session.pin(system=SYSTEM)
    session.pin(tools=[schema()])  # before the window was read under the first
    assert session.window.ids == head_of(memory, SYSTEM, schema())


def test_pins_behind_a_message_that_is_not_yet_slept_on(opened: Open) -> None:
    memory = opened(SleepPolicy(trigger=None))
    with memory.session() as session:
        session.add("user", "x" * 60)
        session.pin(system=SYSTEM)
        session.add("user", FACT)
        trace = Trace.of(session)
        assert_whole(session)
    with memory.session() as session:
        Trace.of(session).assert_near(trace)
        fill(session, 8)
        assert_whole(session)


def test_pins_of_more_than_half_a_window_are_refused(session: Session, memory: SleepMemory) -> None:
    fill(session, 1)
    before = Trace.of(session)
    for refused in (
        lambda: session.pin(system=LONG),
        lambda: session.pin(tools=[schema("f", *(f"argument_{i}" for i in range(9)))]),
    ):
        with pytest.raises(MessageTooLong, match=r"system message and tools take \d+ tokens, more than half of .* 48"):
            refused()
    Trace.of(session).assert_same(before)
    session.pin(system="z" * (WINDOW // 2 - 3))
    assert session.stats().pinned_tokens == WINDOW // 2
    assert_whole(session)


def test_a_session_that_cannot_be_pinned_is_not_held(memory: SleepMemory) -> None:
    with pytest.raises(MessageTooLong):
        memory.session("t", system=LONG)
    with memory.session("t") as session:
        assert events(session) == []


@pytest.mark.parametrize(
    ("tools", "error"),
    [
        ([{"name": "f"}], SettingsError),
        ([{"function": {"name": "f"}}], SettingsError),
        ([{"function": {"name": "f", "parameters": {}}}], SettingsError),
        (["look_up"], SettingsError),
        ([{"function": {"name": "f", "parameters": {"properties": {}}}, "x": object()}], SettingsError),
    ],
)
def test_what_is_no_schema_is_refused(session: Session, tools: list[Any], error: type[InputError]) -> None:
    with pytest.raises(error, match=r"schema"):
        session.pin(tools=tools)
    assert events(session) == []


def test_a_blank_system_message_is_refused(session: Session) -> None:
    with pytest.raises(EmptyMessage):
        session.pin(system="  ")
    assert events(session) == []
