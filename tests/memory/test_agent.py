"""The agent loop, with a model that is made to say what an agent says."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agentsleep.errors import (
    MessageTooLong,
    SettingsError,
    SleepFailed,
    ToolError,
    ToolFailed,
    ToolTimeout,
    UnknownTool,
)
from agentsleep.memory import Agent, Session, SleepMemory, Tool
from tests.memory.helpers import FACT, assert_whole, calls, fill, rig, says

NEXT = {"bob": "alice", "alice": "carol", "carol": "bob"}
Spoken = list[tuple[str | None, str | None]]


def look_up(person: str) -> str:
    """Tells to whom a person hands over."""
    return f"{person} hands over to {NEXT[person]} ."


def conversation(session: Session) -> Spoken:
    return [(m.role, m.text) for m in session.messages() if not m.data.get("open")]


def called(name: str, arguments: str) -> str:
    return f'<|call|>{{"name": "{name}", "arguments": {arguments}}}'


BOB = called("look_up", '{"person": "bob"}')


def test_a_call_its_result_and_an_answer(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(session, [look_up])
    assert session.stats().pinned_tokens == len(memory.chat.tools(agent.toolbox.schemas))
    rig(monkeypatch, calls(memory, "look_up", person="bob"), says(memory, "noted"))
    answer = agent.run("look up bob .")
    assert (answer.text, answer.call, agent.errors) == ("noted", None, [])
    assert conversation(session) == [
        ("user", "look up bob ."),
        ("assistant", BOB),
        ("tool", FACT),
        ("assistant", "noted"),
    ]
    assert_whole(session)


def test_several_calls_in_one_turn(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(session, 3)
    agent = Agent(session, [look_up], max_steps=3)
    people = ["bob", "alice", "carol"]
    rig(monkeypatch, *(calls(memory, "look_up", person=p) for p in people), says(memory, "noted"))
    assert agent.run("look up alice .").text == "noted"
    assert [text for role, text in conversation(session)[3:] if role == "tool"] == [look_up(p) for p in people]
    assert session.history()  # it slept on the way
    assert_whole(session)


def test_an_answer_without_a_call(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, says(memory, "noted"))
    assert Agent(session).run("the coffee is cold today .").text == "noted"
    assert session.stats().pinned_tokens == 0


def test_a_call_that_cannot_be_read_is_an_answer_with_a_warning(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, [*calls(memory, "look_up", person="bob")[:3], memory.chat.end])
    answer = Agent(session, [look_up]).run("look up bob .")
    assert answer.call is None
    assert answer.warning is not None


def hang(person: str) -> str:
    threading.Event().wait(0.5)
    return person


def flood(person: str) -> str:
    return "x" * 1_000_000


def long(person: str) -> str:
    return "x" * 50_000


def mute(person: str) -> str:
    return ""


def pair(person: str) -> str:
    return "\ud800"


BAD: list[tuple[Any, dict[str, Any], type[ToolError], str]] = [
    (look_up, {"person": "mallory"}, ToolFailed, 'error: look_up({"person": "mallory"}) raised KeyError: \'mallory\''),
    (look_up, {"name": "bob"}, ToolFailed, 'error: look_up({"name": "bob"}) cannot be called: missing a required'),
    (look_up, {"person": 7}, ToolFailed, 'error: look_up({"person": 7}) cannot be called: person must be of type'),
    (Tool(hang, timeout=0.02), {"person": "bob"}, ToolTimeout, 'error: hang({"person": "bob"}) did not return within'),
    (
        flood,
        {"person": "bob"},
        ToolFailed,
        'error: flood({"person": "bob"}) returned 1000000 characters, at most 20000',
    ),
    (mute, {"person": "bob"}, ToolFailed, 'error: mute({"person": "bob"}) returned no text'),
    (pair, {"person": "bob"}, ToolFailed, 'error: pair({"person": "bob"}) returned a str that is no text'),
    (Tool(long, max_chars=50_000), {"person": "bob"}, ToolFailed, "error: the result of long cannot be read: a tool"),
]


@pytest.mark.parametrize("handling", ["tell", "raise"])
@pytest.mark.parametrize(("tool", "arguments", "kind", "told"), BAD)
def test_a_bad_call_is_told_and_the_conversation_stays_whole(
    session: Session,
    memory: SleepMemory,
    monkeypatch: pytest.MonkeyPatch,
    tool: Any,
    arguments: dict[str, Any],
    kind: type[ToolError],
    told: str,
    handling: Any,
) -> None:
    agent = Agent(session, [tool], on_tool_error=handling)
    (name,) = agent.toolbox.tools
    rig(monkeypatch, calls(memory, name, **arguments), says(memory, "noted"))
    if handling == "tell":
        assert agent.run("look up bob .").text == "noted"
    else:
        with pytest.raises(kind):
            agent.run("look up bob .")
    assert [type(error) for error in agent.errors] == [kind]
    roles = [role for role, _ in conversation(session)]
    assert roles == ["user", "assistant", "tool"] + ["assistant"] * (handling == "tell")
    result = conversation(session)[2][1]
    assert result is not None
    assert result.startswith(told)
    assert len(result) <= 200
    if handling == "raise":
        assert session.generate().text == "noted"  # the agent can go on
    assert_whole(session)


def test_a_tool_that_was_not_offered(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(session, [look_up])
    rig(monkeypatch, calls(memory, "rm", path="/"), says(memory, "noted"))
    assert agent.run("look up bob .").text == "noted"
    assert isinstance(agent.errors[0], UnknownTool)
    assert conversation(session)[2] == ("tool", "error: the model called 'rm'; there are ['look_up']")


def test_a_model_that_never_stops_calling(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(session, [look_up], max_steps=2)
    rig(monkeypatch, *[calls(memory, "look_up", person="bob")] * 3)
    with pytest.raises(ToolError, match=r"still calls tools after 2 calls in one turn; raise max_steps"):
        agent.run("look up bob .")
    assert conversation(session) == [
        ("user", "look up bob ."),
        ("assistant", BOB),
        ("tool", FACT),
        ("assistant", BOB),
        ("tool", FACT),
        ("assistant", BOB),
        ("tool", "error: no more calls in this turn"),  # no call is left without a result
    ]
    assert_whole(session)
    rig(monkeypatch, says(memory, "noted"))
    assert agent.run("look up bob .").text == "noted"


def test_ctrl_c_in_a_tool(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    agent = Agent(session, [look_up])
    rig(monkeypatch, calls(memory, "look_up", person="bob"), says(memory, "noted"))

    def interrupted(*anything: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Tool, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            agent.run("look up bob .")
    assert conversation(session)[-1] == ("tool", "error: interrupted")
    assert session.generate().text == "noted"
    assert_whole(session)


def test_a_sleep_that_fails_under_a_result_is_no_tool_error(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(session, [look_up])
    rig(monkeypatch, calls(memory, "look_up", person="bob"))

    def failing(*anything: object) -> None:
        raise SleepFailed("NaN")

    monkeypatch.setattr(Session, "add", failing)
    with pytest.raises(SleepFailed):
        agent.run("look up bob .")
    assert agent.errors == []


def test_agents_of_one_session_do_not_talk_at_once(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = Agent(session, [look_up])
    rig(monkeypatch, *[calls(memory, "look_up", person="bob"), says(memory, "noted")] * 4)
    threads = [threading.Thread(target=agent.run, args=("look up bob .",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [role for role, _ in conversation(session)] == ["user", "assistant", "tool", "assistant"] * 4
    assert_whole(session)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_steps": 0}, "max_steps is 0"),
        ({"max_steps": 1.5}, "max_steps is 1.5"),
        ({"max_steps": True}, "max_steps is True"),
        ({"on_tool_error": "ignore"}, "on_tool_error is 'ignore'"),
    ],
)
def test_settings_out_of_range(session: Session, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        Agent(session, [look_up], **settings)
    assert session.stats().pinned_tokens == 0


def test_tools_that_no_window_can_hold(session: Session) -> None:
    def wordy(a_rather_long_argument: str, another_one_that_is_long: str) -> str:
        return ""

    with pytest.raises(MessageTooLong):
        Agent(session, [wordy])
