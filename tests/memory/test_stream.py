"""Streams: the text of a turn piece by piece, closed early, abandoned, and in nobody's way."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.archive import UserArchive
from agentsleep.chat import Chat, ToolCall
from agentsleep.errors import ArchiveFull, SessionBusy, SessionClosed
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.tasks import rota
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, Trace, assert_whole, calls, fill, kinds, rig, says

WARM: dict[str, Any] = {"temperature": 1.0, "seed": 7}
SPOKEN = rota.tokenizer()


@given(st.lists(st.integers(0, len(SPOKEN) - 1), max_size=40))
def test_pieces_add_up_to_the_text_and_are_never_taken_back(ids: list[int]) -> None:
    chat, shown = Chat(SPOKEN), ""
    for i in range(len(ids)):
        now = chat.shown(ids[: i + 1])
        assert now.startswith(shown)
        assert not now.endswith("\ufffd")
        shown = now
    reply = chat.parse(ids)
    assert shown == "" if reply.call or reply.warning else reply.text.startswith(shown)


@pytest.mark.parametrize("text", ["日本 🌙 é", "alice \ufffd", "  two blanks", "plain bob ."])
def test_a_stream_says_what_generate_says(opened: Open, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    memory = opened()
    with memory.session("a") as one, memory.session("b") as other:
        rig(monkeypatch, says(memory, text), says(memory, text))
        answer, stream = one.generate(), other.generate(stream=True)
        pieces = list(stream)
        assert "".join(pieces) == answer.text == text
        assert all(pieces)
        assert stream.answer == answer
        assert one.messages() == other.messages()
        assert Trace.of(one).window == Trace.of(other).window


@pytest.mark.parametrize("seed", range(6))
def test_whatever_an_untrained_model_says(opened: Open, seed: int) -> None:
    """Half characters at the end, markers in the middle, sleeps in between."""
    memory = opened()
    with memory.session("a") as one, memory.session("b") as other:
        for session in (one, other):
            fill(session, 6)
        answer = one.generate(max_new_tokens=1 + 9 * seed, temperature=1.5, seed=seed)
        stream = other.generate(stream=True, max_new_tokens=1 + 9 * seed, temperature=1.5, seed=seed)
        assert "".join(stream) == answer.text
        assert stream.answer is not None
        assert (stream.answer.text, stream.answer.tokens) == (answer.text, answer.tokens)
        assert one.messages() == other.messages()
        assert_whole(other)


def test_half_a_character_at_the_end_is_said_as_it_is(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "a🌙")[:-2])
    stream = session.generate(stream=True, max_new_tokens=5)
    pieces = list(stream)
    assert stream.answer is not None
    assert pieces[0] == "a"
    assert "".join(pieces) == stream.answer.text
    assert stream.answer.text.rstrip("\ufffd") == "a"
    assert stream.answer.text.endswith("\ufffd")


def test_a_call_is_no_text(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, calls(memory, "look_up", person="bob"), [*calls(memory, "f")[:3], memory.chat.end])
    stream = session.generate(stream=True)
    assert list(stream) == []
    assert stream.answer is not None
    assert stream.answer.call == ToolCall("look_up", {"person": "bob"})
    stream = session.generate(stream=True)
    pieces = list(stream)
    assert stream.answer is not None
    assert stream.answer.warning is not None
    assert "".join(pieces) == stream.answer.text != ""


def test_a_stream_is_on_disk_when_it_ends(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "alice bob"))
    stream = session.generate(stream=True)
    assert session.messages() == []  # nothing happens before the first piece is asked for
    assert next(stream) == "alice"
    assert next(stream) == " bob"
    assert session.messages() == []
    assert stream.answer is None
    assert session.tokens == session.window_tokens == 3  # reading is free, and sees what was read
    with pytest.raises(StopIteration):
        next(stream)
    assert [m.text for m in session.messages()] == ["alice bob"]
    with pytest.raises(StopIteration):
        next(stream)
    stream.close()
    assert_whole(session)


def test_a_stream_that_is_closed_early_keeps_its_part(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "alice bob carol"))
    with session.generate(stream=True) as stream:
        assert next(stream) == "alice"
    (said,) = session.messages()
    assert (said.text, said.data) == ("alice", {"generated": True, "cut": True})
    assert said.token_ids[-1] == memory.chat.end
    assert stream.answer is not None
    assert (stream.answer.text, stream.answer.finished) == ("alice", False)
    stream.close()
    assert list(stream) == []
    assert len(session.messages()) == 1
    assert session.add("user", FACT).position == 3
    assert_whole(session)


def test_a_stream_that_was_never_begun_leaves_nothing(session: Session) -> None:
    session.generate(stream=True).close()
    del_me = session.generate(stream=True)
    del del_me
    session.add("user", FACT)
    assert kinds(session) == "t"


def test_breaking_out_of_a_loop_closes_the_stream(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "alice bob carol"))
    for piece in session.generate(stream=True):
        assert piece == "alice"
        break
    assert [m.text for m in session.messages()] == ["alice"]
    rig(monkeypatch, says(memory, "dave"))
    assert session.generate().text == "dave"
    assert kinds(session) == "tt"
    assert_whole(session)


def test_an_abandoned_stream_is_kept_when_the_session_closes(
    memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "alice bob carol"))
    with memory.session() as session:
        ring: list[Any] = [session.generate(stream=True)]
        next(ring[0])
        ring.append(ring)  # only the garbage collector finds it
        del ring
        gc.collect()
    with memory.session() as session:
        assert [m.text for m in session.messages()] == ["alice"]
        assert_whole(session)


def test_a_session_that_closes_ends_its_stream(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, says(memory, "alice bob carol"))
    with memory.session() as session:
        stream = session.generate(stream=True)
        next(stream)
    with pytest.raises(SessionClosed, match=r"is closed; open it again"):
        next(stream)
    stream.close()
    with memory.session() as session:
        assert [m.data.get("cut") for m in session.messages()] == [True]


def test_nobody_writes_into_a_stream(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same thread would otherwise corrupt its own turn."""
    rig(monkeypatch, says(memory, "alice bob carol"))
    fill(session, 1)
    stream = session.generate(stream=True)
    next(stream)
    for write in (
        lambda: session.add("user", FACT),
        lambda: session.ask("bob ?"),
        lambda: session.ask("bob ?", remember=False),
        lambda: session.generate(),
        lambda: next(session.generate(stream=True)),
        lambda: session.sleep(),
        lambda: session.pin(system="x"),
    ):
        with pytest.raises(SessionBusy, match=r"writing a turn to a stream; read that stream to its end or close"):
            write()
    assert session.stats().tokens == session.tokens == 6 + 2  # readers are free
    assert len(session.messages()) == 1
    assert "".join(stream) == " bob carol"
    assert kinds(session) == "tt"
    assert_whole(session)


def test_another_thread_waits_for_the_end_of_a_stream_as_long_as_the_session_says(
    memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "alice bob"))
    with memory.session(timeout=30.0) as session:
        stream = session.generate(stream=True)
        next(stream)
        waiting = threading.Thread(target=lambda: session.add("user", FACT))
        waiting.start()
        waiting.join(0.1)
        assert waiting.is_alive()
        assert list(stream) == [" bob"]
        waiting.join(30)
        assert not waiting.is_alive()
        assert [m.role for m in session.messages()] == ["assistant", "user"]
        assert_whole(session)


def test_another_thread_gives_up_after_that_time(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, says(memory, "alice bob"))
    refused: list[BaseException] = []

    def add(session: Session) -> None:
        try:
            session.add("user", FACT)
        except SessionBusy as error:
            refused.append(error)

    with memory.session(timeout=0.1) as session:
        stream = session.generate(stream=True)
        next(stream)
        thread = threading.Thread(target=add, args=(session,))
        thread.start()
        thread.join(30)
        assert len(refused) == 1
        assert list(stream) == [" bob"]
        assert kinds(session) == "t"


def test_another_thread_may_read_a_stream_on(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "alice bob carol"))
    stream = session.generate(stream=True)
    pieces = [next(stream)]
    thread = threading.Thread(target=lambda: pieces.extend(stream))
    thread.start()
    thread.join(30)
    assert pieces == ["alice", " bob", " carol"]
    session.add("user", FACT)
    assert_whole(session)


def test_sleeps_fall_into_a_stream(opened: Open) -> None:
    with opened(SleepPolicy(trigger=("tokens", 10))).session() as session:
        session.add("user", FACT)
        stream = session.generate(stream=True, max_new_tokens=60, **WARM)
        shown = ""
        for piece in stream:
            shown += piece
            assert session.window_tokens <= 48
        assert kinds(session) == "tts" + "ts"  # an overflow in its middle, the policy at its end
        assert session.messages()[-1].text == shown
        assert_whole(session)


def test_a_stream_that_fails_is_over(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, says(memory, "alice"))
    stream = session.generate(stream=True)
    next(stream)

    def full(*anything: object) -> None:
        raise ArchiveFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(UserArchive, "append", full)
        with pytest.raises(ArchiveFull):
            next(stream)
    assert list(stream) == []
    assert session.messages() == []  # it was not acknowledged
    assert session.window_tokens == 0
    session.add("user", FACT)
    assert_whole(session)
