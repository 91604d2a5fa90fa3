"""What a message carries besides its text: metadata, the calls of other models, and where it stands in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentsleep.chat import ToolCall
from agentsleep.conformance.families import make_model
from agentsleep.errors import InputError
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from tests.chats.families import tokenizer
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, SYSTEM, assert_whole, calls, child, events, kinds, rig, says

ABOUT: dict[str, Any] = {"id": "run-1", "tags": ["a", "b"], "score": 0.5, "none": None, "ü": {"deep": [1, 2]}}
LOOK = ToolCall("look_up", {"person": "bob"})
WAIT = ToolCall("wait", {})


def about(session: Session) -> list[Any]:
    """The metadata of all messages."""
    return [message.data.get("metadata") for message in session.messages()]


# Metadata


def test_messages_turns_and_streams_carry_it(session: Session, opened: Open) -> None:
    event = session.add("user", FACT, metadata=ABOUT)
    assert event.data["metadata"] == ABOUT
    assert "metadata" not in session.add("user", FACT, metadata={}).data
    session.generate(max_new_tokens=3, metadata={"n": 1})
    for _ in session.generate(stream=True, max_new_tokens=3, metadata={"n": 2}):
        pass
    stream = session.generate(stream=True, max_new_tokens=30, temperature=1.0, seed=7, metadata={"n": 3})
    next(stream)
    stream.close()
    session.add("assistant", "", calls=[LOOK], metadata={"n": 4})
    session.generate(max_new_tokens=3)
    expected = [ABOUT, None, {"n": 1}, {"n": 2}, {"n": 3}, {"n": 4}, None]
    assert about(session) == expected
    session.close()
    with opened().session("t") as again:
        assert about(again) == expected
        assert_whole(again)


def test_it_is_not_read(memory: SleepMemory) -> None:
    with memory.session("a") as one, memory.session("b") as other:
        one.add("user", FACT, metadata=ABOUT)
        other.add("user", FACT)
        assert one.window.ids == other.window.ids


def test_a_turn_that_a_sleep_fell_into_has_it_at_its_end(session: Session) -> None:
    for _ in range(6):
        session.add("user", FACT)
    session.generate(max_new_tokens=60, min_new_tokens=55, temperature=1.0, seed=3, metadata=ABOUT)
    parts = session.messages()[6:]
    assert len(parts) > 1
    assert [part.data.get("metadata") for part in parts] == [None] * (len(parts) - 1) + [ABOUT]


def test_it_is_not_changed_from_outside(session: Session) -> None:
    mine: dict[str, Any] = {"n": 1}
    stream = session.generate(stream=True, max_new_tokens=3, metadata=mine)
    mine["n"] = 2
    list(stream)
    assert about(session) == [{"n": 1}]


def test_what_is_no_json_is_refused_and_nothing_is_stored(session: Session) -> None:
    for bad in ({"x": object()}, {"x": float("nan")}):
        with pytest.raises(InputError):
            session.add("user", FACT, metadata=bad)  # type: ignore[arg-type]
    assert session.messages() == []
    session.add("user", FACT)
    assert_whole(session)


def test_it_comes_along_into_files_and_branches(session: Session, memory: SleepMemory, tmp_path: Path) -> None:
    session.add("user", FACT, metadata=ABOUT)
    session.add("tool", FACT, metadata={"n": 1}, asked=True)
    file = tmp_path / "thread.zip"
    with memory.branch(session, 2, "branch") as branch:
        assert about(branch) == [ABOUT, {"n": 1}]
        branch.sleep()
        with memory.branch(branch, 3, "branch of the branch") as further:
            assert about(further) == [ABOUT, {"n": 1}]
    memory.export(session, file)
    memory.import_thread(file, thread="imported")
    with memory.session("imported") as imported:
        assert about(imported) == [ABOUT, {"n": 1}]
    memory.forget(session, [1])
    assert about(session) == [ABOUT]


def test_another_process_takes_over(session: Session, nap: Path, archive: Path) -> None:
    session.add("user", FACT, metadata=ABOUT)
    session.park()
    process = child("add", nap, archive, "t", 60)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    session.add("user", "noted", metadata={"n": 2})
    assert about(session) == [ABOUT, None, {"n": 2}]


# Where an answer stands


def test_an_answer_names_its_event(session: Session) -> None:
    session.add("user", FACT)
    answer = session.generate(max_new_tokens=3)
    assert answer.event == session.messages()[-1].seq == 1
    stream = session.generate(stream=True, max_new_tokens=3)
    list(stream)
    assert stream.answer is not None
    assert stream.answer.event == 2
    assert session.ask("who ?", max_new_tokens=3).event == 4
    assert session.ask("who ?", max_new_tokens=3, remember=False).event is None


def test_a_turn_with_a_sleep_in_it_is_named_by_its_end(session: Session) -> None:
    for _ in range(6):
        session.add("user", FACT)
    answer = session.generate(max_new_tokens=60, min_new_tokens=55, temperature=1.0, seed=3)
    assert "s" in kinds(session)
    assert answer.event == session.messages()[-1].seq
    assert events(session)[answer.event].text == answer.text


# Calls that another model made


def test_calls_are_read_as_the_model_would_have_written_them(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = session.add("assistant", "", calls=[LOOK])
    assert (event.role, event.data["said"]) == ("assistant", "")
    assert event.data["calls"] == [{"name": "look_up", "arguments": {"person": "bob"}}]
    with memory.session("other") as other:
        rig(monkeypatch, calls(memory, "look_up", person="bob"))
        other.generate()
        (written,) = other.messages()
        assert (event.token_ids, event.text, event.data) == (written.token_ids, written.text, written.data)
        assert session.window.ids == other.window.ids
        rig(monkeypatch, says(memory, "noted"))
        other.generate()
        assert "said" not in other.messages()[-1].data  # its text says it all


def test_several_calls_are_several_turns_and_text_is_left_out(session: Session, opened: Open) -> None:
    event = session.add("assistant", "I look .", calls=[LOOK, WAIT], metadata={"n": 1})
    first, second = session.messages()
    assert second == event
    assert [one.data["calls"][0]["name"] for one in (first, second)] == ["look_up", "wait"]  # type: ignore[index,call-overload]
    assert about(session) == [{"n": 1}] * 2
    assert "I look" not in f"{first.text}{second.text}"
    session.add("tool", "bob is well")
    assert_whole(session)
    session.close()
    with opened().session("t") as again:
        assert_whole(again)


def test_calls_overflow_sleep_and_branch(opened: Open) -> None:
    with opened(SleepPolicy(trigger=("messages", 3), passes=1)) as memory, memory.session("t") as session:
        session.add("user", FACT)
        session.add("assistant", "", calls=[ToolCall("look_up", {"person": "x" * 60}), LOOK])
        assert "s" in kinds(session)
        assert_whole(session)
        with memory.branch(session, len(events(session))) as branch:
            assert branch.window.ids == session.window.ids
            assert [e.token_ids for e in branch.messages()] == [e.token_ids for e in session.messages()]


@pytest.mark.parametrize("role", ["user", "tool", "system"])
def test_only_the_assistant_calls(session: Session, role: Any) -> None:
    with pytest.raises(InputError, match=rf"a {role} message cannot call tools \(look_up, wait\); drop calls"):
        session.add(role, FACT, calls=[LOOK, WAIT])
    assert session.messages() == []


@pytest.mark.parametrize("family", ["qwen3", "granite", "qwen3_5", "nemotron", "falcon"])
def test_calls_in_the_form_of_a_chat_template(family: str, tmp_path: Path) -> None:
    folder = tmp_path / family
    spoken = tokenizer(family)
    make_model("qwen3_5", vocab_size=len(spoken), sleep_window=400, sleep_passes=1).save_pretrained(folder)
    spoken.save_pretrained(folder)
    policy = SleepPolicy(trigger=None)
    with SleepMemory(folder, archive=tmp_path / "m.db", policy=policy) as memory, memory.session("t") as session:
        session.pin(system=SYSTEM)
        session.add("user", "how is bob?")
        event = session.add("assistant", "I look.", calls=[LOOK, WAIT], metadata={"n": 1})
        one, two = session.messages()[1:]
        assert two == event
        assert [*one.token_ids] == memory.chat.call(LOOK)
        assert [*two.token_ids] == memory.chat.call(WAIT)
        assert [turn.data["calls"] for turn in (one, two)] == [
            [{"name": "look_up", "arguments": {"person": "bob"}}],
            [{"name": "wait", "arguments": {}}],
        ]
        assert one.data["said"] == two.data["said"] == ""
        with memory.branch(session, len(events(session))) as branch:
            assert branch.window.ids == session.window.ids


def test_a_turn_that_is_read_again_keeps_it(session: Session, memory: SleepMemory) -> None:
    session.add("user", FACT)
    session.generate(max_new_tokens=3, metadata=ABOUT)
    with memory.branch(session, 2) as branch:
        assert about(branch) == [None, ABOUT]
