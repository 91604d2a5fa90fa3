"""Turns that end, or are chosen, by the caller's options: stop strings, further ends, and sleeps in between."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessor

from agentsleep.errors import SettingsError
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.decoding import Stop
from agentsleep.tasks import rota
from agentsleep.tokens import decode_text
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, WINDOW, Trace, assert_whole, calls, events, fill, kinds, rig, says, stream_of

SPOKEN = rota.tokenizer()


class Wants(LogitsProcessor):
    """Lets the model say nothing but a script, and takes down what it was shown."""

    def __init__(self, *script: int) -> None:
        self.script = [*script]
        self.seen: list[list[int]] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.seen.append(input_ids[0].tolist())
        only = torch.full_like(scores, -torch.inf)
        only[0, self.script.pop(0)] = 0.0
        return only


# Stop strings


@pytest.mark.parametrize(
    ("text", "stop", "said"),
    [
        ("alice bob carol", "bob", "alice bob"),  # one token
        ("alice bob carol", "ice bo", "alice bob"),  # begins in one token, ends in the next, and that stays whole
        ("alice bob carol", ["dave", "bob", "carol"], "alice bob"),  # the first that comes
        ("alice bob carol", "alice", "alice"),
        ("a日本 bob", "日", "a日"),  # three tokens a character
        ("a日本 bob", "日本", "a日本"),
        ("🌙é bob", "🌙é", "🌙é"),
        ("é 日 🌙 日🌙 bob", "日🌙", "é 日 🌙 日🌙"),
        ("x" * 99 + "bob carol", "xbob", "x" * 99 + "bob"),
        ("alice bob carol", "dave", "alice bob carol"),
        ("alice bob carol", " alice", "alice bob carol"),  # the first blank is no part of the text
        ("bob alice", " alice", "bob alice"),
        ("alice bob carol", [], "alice bob carol"),
    ],
)
def test_a_turn_ends_behind_a_stop_string(
    opened: Open, monkeypatch: pytest.MonkeyPatch, text: str, stop: Any, said: str
) -> None:
    """Streamed or not, and with the text in the log, which stays in the chat format."""
    memory = opened()
    with memory.session("a") as one, memory.session("b") as other:
        rig(monkeypatch, spoken := says(memory, text))
        answer = one.generate(stop_strings=stop, max_new_tokens=200)
        rig(monkeypatch, spoken)
        stream = other.generate(stop_strings=stop, max_new_tokens=200, stream=True)
        assert "".join(stream) == answer.text == said
        assert stream.answer is not None
        assert (stream.answer.text, stream.answer.tokens) == (answer.text, answer.tokens)
        assert answer.finished
        for session in (one, other):
            message = session.messages()[-1]
            assert (message.text, message.data) == (said, {"generated": True})
            assert stream_of(session)[-1] == memory.chat.end
            assert stream_of(session).count(memory.chat.end) == 1
            assert_whole(session)
        rig(monkeypatch, spoken)
        assert one.ask("bob ?", remember=False, stop_strings=stop, max_new_tokens=200).text == said


@given(st.text(st.characters(codec="utf-8"), max_size=30), st.data())
def test_a_stop_string_is_found_at_the_token_that_completes_it(text: str, data: st.DataObject) -> None:
    """And no earlier, whatever its characters and wherever the tokens end."""
    ids = SPOKEN.encode(" " + text)
    start = data.draw(st.integers(0, max(0, len(text) - 1)))
    stop = text[start : data.draw(st.integers(start + 1, start + 6))].replace("\ufffd", "?") or "?"
    search = Stop([stop], SPOKEN)
    for i, token in enumerate(ids):
        found = stop in decode_text(SPOKEN, ids[: i + 1]).removeprefix(" ")
        assert search.push(token) == found
        if found:
            return


def test_a_stop_string_among_the_last_tokens_still_finishes_the_turn(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoken = says(memory, "alice bob carol")
    rig(monkeypatch, spoken)
    answer = session.generate(stop_strings="bob", max_new_tokens=2)
    assert (answer.text, answer.finished, answer.tokens) == ("alice bob", True, 3)  # with the end of the format
    assert session.tokens == 1 + 3
    rig(monkeypatch, spoken)
    cut = session.generate(stop_strings="bob", max_new_tokens=1)
    assert (cut.text, cut.finished, cut.tokens) == ("alice", False, 1)
    assert session.messages()[-1].data == {"generated": True, "cut": True}
    assert_whole(session)


def test_what_was_said_before_the_turn_stops_nothing(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.add("user", "bob bob bob")
    rig(monkeypatch, says(memory, "alice carol"))
    assert session.generate(stop_strings=["bob", "user"]).text == "alice carol"


def test_a_stop_string_cuts_a_call_short(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, calls(memory, "look_up", person="bob"))
    answer = session.generate(stop_strings='"look_up"')
    assert (answer.call, answer.finished) == (None, True)
    assert answer.text.startswith('{"name": "look_up"')
    assert "bob" not in answer.text
    assert answer.warning is not None
    rig(monkeypatch, calls(memory, "look_up", person="bob"))
    stream = session.generate(stop_strings='"look_up"', stream=True)
    assert "".join(stream) == answer.text
    assert_whole(session)


def test_a_sleep_falls_between_a_stop_string_and_the_end_behind_it(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 7)  # 42 of 48 tokens; prompt and five tokens fill the window
    rig(monkeypatch, says(memory, "alice bob carol dave alice bob"))
    answer = session.generate(stop_strings="dave alice")
    assert (answer.text, answer.finished) == ("alice bob carol dave alice", True)
    assert kinds(session) == "t" * 7 + "ts" + "t"
    assert session.messages()[-1].token_ids == (memory.chat.end,)
    assert session.messages()[-1].text == answer.text
    assert_whole(session)
    before = Trace.of(session)
    rig(monkeypatch, says(memory, "alice bob " * 20 + "carol dave"))
    aside = session.ask("bob ?", remember=False, stop_strings="carol", max_new_tokens=60)  # sleeps in its middle
    assert aside.text == "alice bob " * 20 + "carol"
    Trace.of(session).assert_same(before)


def test_a_stream_that_is_closed_at_its_stop_string_is_whole(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "alice bob carol"))
    with session.generate(stream=True, stop_strings="bob") as stream:
        assert [next(stream), next(stream)] == ["alice", " bob"]
    assert stream.answer is not None
    assert stream.answer.text == "alice bob"
    assert stream_of(session)[-1] == memory.chat.end
    assert stream_of(session).count(memory.chat.end) == 1
    session.add("user", FACT)
    assert_whole(session)


# Further ends


@pytest.mark.parametrize("several", [False, True])
def test_another_token_ends_a_turn(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch, several: bool
) -> None:
    spoken = says(memory, "alice bob carol")
    rig(monkeypatch, spoken)
    answer = session.generate(eos_token_id=[spoken[2], spoken[1]] if several else spoken[1])
    assert (answer.text, answer.finished, answer.tokens) == ("alice bob", True, 3)
    assert session.messages()[-1].data == {"generated": True}
    rig(monkeypatch, spoken)
    stream = session.generate(eos_token_id=spoken[1], stream=True)
    assert list(stream) == ["alice", " bob"]
    rig(monkeypatch, spoken)
    assert session.generate(eos_token_id=spoken[3]).text == "alice bob carol"  # the format's own end, named again
    assert stream_of(session).count(memory.chat.end) == 3
    assert_whole(session)


def test_min_new_tokens_holds_for_every_end(session: Session, memory: SleepMemory) -> None:
    other = says(memory, "alice")[0]
    favoured = {"sequence_bias": [[[memory.chat.end], 99.0], [[other], 98.0]], "eos_token_id": other}
    answer = session.generate(min_new_tokens=4, **favoured)
    assert answer.tokens == 5  # four others, then the end
    assert other not in stream_of(session)
    assert session.generate(**favoured).tokens == 1


# Processors in a session


def test_processors_see_the_window_and_what_was_written_also_behind_a_sleep(
    session: Session, memory: SleepMemory
) -> None:
    fill(session, 7)
    before = [*session.window.ids]
    script = says(memory, "alice bob " * 10)[:20]
    wants = Wants(*script)
    answer = session.generate(max_new_tokens=20, logits_processor=[wants], begin_suppress_tokens=[script[1]])
    assert answer.text == ("alice bob " * 10).strip()
    assert kinds(session).count("s") == 1  # in the middle
    assert wants.seen == [[*before, *memory.chat.prompt(), *script[:i]] for i in range(20)]
    assert_whole(session)


@pytest.mark.parametrize("sampled", [{}, {"temperature": 1.2, "top_k": 30, "seed": 4}])
def test_a_turn_does_not_repeat_itself_behind_a_sleep(session: Session, sampled: dict[str, Any]) -> None:
    fill(session, 6)
    heard = [*session.window.ids]
    answer = session.generate(max_new_tokens=WINDOW + 20, min_new_tokens=WINDOW + 20, no_repeat_ngram_size=1, **sampled)
    assert answer.tokens == WINDOW + 20
    assert kinds(session).count("s") == 2
    written = stream_of(session)[len(heard) : -1]
    assert len({*heard, *written}) == len({*heard}) + len(written)
    assert_whole(session)


def test_options_do_not_leak_into_the_next_turn(memory: SleepMemory) -> None:
    said: dict[str, Any] = {"temperature": 1.0, "seed": 1, "max_new_tokens": 12}
    told: dict[str, Any] = {"repetition_penalty": 3.0, "suppress_tokens": [*range(9, 300)], "stop_strings": "a"}

    def written(thread: str, *between: dict[str, Any]) -> str:
        with memory.session(thread) as session:
            fill(session, 2)
            for one in between:
                session.ask("bob ?", remember=False, **one)
            return session.ask("bob ?", **said).text

    plain = written("a")
    assert written("b", said | told, told) == plain
    with memory.session("c") as session:
        fill(session, 2)
        assert session.ask("bob ?", **said, **told).text != plain


def test_what_an_own_processor_raises_comes_through_and_the_turn_is_kept(session: Session, memory: SleepMemory) -> None:
    wants = Wants(*says(memory, "alice bob")[:2])
    with pytest.raises(IndexError):
        session.ask("bob ?", logits_processor=[wants])
    last = session.messages()[-1]
    assert (last.text, last.data) == ("alice bob", {"generated": True, "cut": True})
    session.add("user", FACT)
    assert_whole(session)


def test_a_turn_without_a_token_left_is_cut_and_says_why(session: Session, memory: SleepMemory) -> None:
    only = says(memory, "alice")[0]
    others = [token for token in range(memory.backend.config.vocab_size) if token != only]
    for more in ({}, {"temperature": 1.0}):
        with pytest.raises(SettingsError, match="leave no token to choose from"):
            session.generate(suppress_tokens=others, no_repeat_ngram_size=1, **more)
        last = session.messages()[-1]
        assert (last.text, last.data.get("cut")) == ("alice" if not more else "", True)
    assert_whole(session)


@pytest.mark.parametrize(
    "wrong",
    [
        {"num_beams": 2},
        {"stop_string": "a"},
        {"top_k": -5},
        {"suppress_tokens": [10**6]},
        {"vocab_size": 3},
        {"sampling": None},
    ],
)
def test_options_are_refused_before_anything_is_read(session: Session, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    for refused in (
        lambda: session.generate(**wrong),
        lambda: session.generate(stream=True, **wrong),
        lambda: session.ask("bob ?", **wrong),
        lambda: session.ask("bob ?", remember=False, **wrong),
    ):
        with pytest.raises(SettingsError, match=name):
            refused()
    assert events(session) == []


def test_a_question_is_not_streamed(session: Session) -> None:
    with pytest.raises(SettingsError, match=r"stream is True.*then generate\(stream=True\)"):
        session.ask("bob ?", stream=True)
    assert events(session) == []
