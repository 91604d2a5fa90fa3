"""Turns of the assistant: how tokens are chosen, what is logged, and the sleeps that fall into them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from agentsleep.chat import ToolCall
from agentsleep.errors import SettingsError
from agentsleep.memory import Answer, Session, SleepMemory
from agentsleep.memory.decoding import Sampling
from agentsleep.policy import SleepPolicy
from agentsleep.tokens import decode_text
from tests.memory.conftest import Open
from tests.memory.helpers import (
    FACT,
    FACT_TOKENS,
    SYSTEM,
    WINDOW,
    Trace,
    assert_whole,
    calls,
    events,
    fill,
    kinds,
    rig,
    says,
    stream_of,
)

WARM: dict[str, Any] = {"temperature": 1.0, "seed": 7}


def test_an_answer_is_logged_as_it_was_written(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "alice"))
    answer = session.ask("who comes 1 after bob ?")
    assert answer == Answer(text="alice", snapshot=None, tokens=2, finished=True)
    assert str(answer) == "alice"
    question, said = session.messages()
    assert (question.role, question.text) == ("user", "who comes 1 after bob ?")
    assert (said.role, said.text, said.data) == ("assistant", "alice", {"generated": True})
    assert list(said.token_ids) == memory.chat.message("assistant", "alice")
    assert session.window.ids == stream_of(session)
    assert session.tokens == session.window_tokens == 7 + 3
    assert_whole(session)


def test_greedy_takes_the_most_likely_token_each_time(session: Session, memory: SleepMemory) -> None:
    fill(session, 3)
    answer = session.generate(max_new_tokens=5)
    ids, written = stream_of(session), session.messages()[-1].token_ids
    assert len(written) == 1 + answer.tokens + (not answer.finished)
    for i in range(answer.tokens):
        with torch.inference_mode():
            logits = memory.backend.model(input_ids=torch.tensor([ids[: 3 * FACT_TOKENS + 1 + i]])).logits[0, -1]
        assert int(logits.argmax()) == written[1 + i]


def test_max_new_tokens_cuts_a_turn_and_says_so(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, says(memory, "bob alice carol"))
    answer = session.generate(max_new_tokens=2)
    assert answer == Answer(text="bob alice", snapshot=None, tokens=2, finished=False)
    (said,) = session.messages()
    assert (said.text, said.data) == ("bob alice", {"generated": True, "cut": True})
    assert said.token_ids[-1] == memory.chat.end  # the turn has an end all the same, for the model's sake
    assert session.window.ids == list(said.token_ids)
    assert_whole(session)


def test_a_turn_of_no_words_is_a_turn(session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    rig(monkeypatch, [memory.chat.end])
    assert session.generate() == Answer(text="", snapshot=None, tokens=1, finished=True)
    assert session.messages()[0].text == ""
    assert_whole(session)


def test_seeds_repeat_and_differ(memory: SleepMemory) -> None:
    def written(thread: str, **sampling: Any) -> str:
        with memory.session(thread) as session:
            fill(session, 2)
            return session.generate(max_new_tokens=12, **sampling).text

    warm = written("a", **WARM)
    torch.manual_seed(99)  # the seed is the turn's own
    assert written("b", **WARM) == warm
    assert written("c", temperature=1.0, seed=8) != warm
    torch.manual_seed(1)
    one = written("d", temperature=1.0)
    torch.manual_seed(1)
    assert written("e", temperature=1.0) == one
    cold = written("f")
    assert written("g", temperature=1e-38, seed=3) == cold
    assert written("h", temperature=5.0, top_p=1e-9, seed=3) == cold


def test_a_turn_that_fills_the_window_sleeps_in_its_middle(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 7)
    rig(monkeypatch, says(memory, "bob é " * 20))
    answer = session.generate(max_new_tokens=60)
    assert answer.tokens == 60
    assert not answer.finished
    assert kinds(session) == "t" * 7 + "ts" + "ts" + "t"
    first, second, last = session.messages()[-3:]
    assert [e.data for e in (first, second, last)] == [
        {"generated": True, "open": True},
        {"generated": True, "open": True},
        {"generated": True, "cut": True},
    ]
    written = [*first.token_ids, *second.token_ids, *last.token_ids]
    assert (len(first.token_ids), len(second.token_ids)) == (WINDOW - 42, WINDOW)
    assert written[:1] == memory.chat.prompt()
    assert len(written) == 62
    assert decode_text(memory.chat.tokenizer, written[1:-1]).removeprefix(" ") == answer.text == last.text
    assert answer.snapshot == session.history()[-1].id
    assert {s.trigger for s in session.history()} == {"overflow"}
    assert_whole(session)


def test_a_token_that_was_sampled_before_a_sleep_opens_the_next_window(session: Session, memory: SleepMemory) -> None:
    """Sleep or no sleep, greedy goes on with the logits of the last token read."""
    fill(session, 7)
    session.generate(max_new_tokens=10)
    head = session.history()[0]
    written = [token for message in session.messages()[7:] for token in message.token_ids]
    read = stream_of(session)[: head.tokens]
    assert head.tokens == WINDOW
    with torch.inference_mode():
        logits = memory.backend.model(input_ids=torch.tensor([read])).logits[0, -1]
    assert int(logits.argmax()) == written[WINDOW - 42]


def test_the_policy_is_asked_behind_a_turn(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = opened(SleepPolicy(trigger=("tokens", 8)))
    rig(monkeypatch, says(memory, "alice carol"), says(memory, "alice bob carol dave"))
    with memory.session() as session:
        session.add("user", FACT)
        assert session.history() == []
        session.generate()
        assert kinds(session) == "tts"
        assert (session.window_tokens, session.head and session.head.trigger) == (0, "policy")
        session.generate()
        assert kinds(session) == "ttst"
        assert_whole(session)


def test_a_policy_does_not_part_an_answer_from_its_question(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = opened(SleepPolicy(trigger=("tokens", 12)))
    rig(monkeypatch, says(memory, "alice"))
    with memory.session() as session:
        session.add("tool", FACT)
        before = Trace.of(session)
        aside = session.ask("who comes 1 after bob ?", remember=False, max_new_tokens=1)
        Trace.of(session).assert_same(before)
        rig(monkeypatch, says(memory, "alice"))
        answer = session.ask("who comes 1 after bob ?")
        assert kinds(session) == "tsttt"[:4]  # the fact, a sleep, the question and its answer in one window
        assert session.window_tokens == 10
        assert answer.snapshot == session.history()[0].id
        assert aside.snapshot is None
        rig(monkeypatch, says(memory, "bob alice"))
        session.ask("who comes 2 after bob ?")
        assert kinds(session) == "tstt" + "stt"
        assert_whole(session)


def test_a_turn_slept_on_behind_its_question_when_both_fill_the_window(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = opened(SleepPolicy(trigger=("tokens", 10)))
    rig(monkeypatch, says(memory, "alice"))
    with memory.session() as session:
        session.ask("who comes 1 after bob ?")
        assert kinds(session) == "tts"


# Nothing is remembered


@pytest.mark.parametrize(("facts", "system"), [(0, None), (3, SYSTEM), (7, None)])
def test_an_aside_leaves_no_trace(memory: SleepMemory, facts: int, system: str | None) -> None:
    with memory.session(system=system) as session:
        fill(session, facts)
        session.sleep()
        fill(session, facts)
        before = Trace.of(session)
        answers = [
            session.ask(text, remember=False, max_new_tokens=70, **sampling)  # sleeps in the middle, too
            for text, sampling in (("who comes 2 after bob ?", {}), ("z" * 2 * WINDOW, WARM))
        ]
        Trace.of(session).assert_same(before)
        assert [a.snapshot for a in answers] == [before.head] * 2
        repeated = session.ask("who comes 2 after bob ?", remember=False, max_new_tokens=70)
        assert repeated == answers[0]
        with memory.session("other") as other:
            assert other.messages() == []
        assert_whole(session)


def test_an_aside_hears_what_a_remembered_question_would(memory: SleepMemory) -> None:
    with memory.session() as session:
        fill(session, 6)
        aside = session.ask("who comes 1 after bob ?", remember=False, max_new_tokens=70)
        answer = session.ask("who comes 1 after bob ?", max_new_tokens=70)
        assert (aside.text, aside.tokens) == (answer.text, answer.tokens)
        assert aside.snapshot is None
        assert answer.snapshot is not None


def test_what_is_asked_aside_may_be_refused_without_harm(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(session, 2)
    before = Trace.of(session)

    def fail(*anything: object) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Sampling, "pick", fail)
        with pytest.raises(KeyboardInterrupt):
            session.ask("who comes 1 after bob ?", remember=False)
    Trace.of(session).assert_near(before)


# Tool calls


def test_a_tool_call_is_an_answer_without_text(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig(monkeypatch, calls(memory, "look_up", person="bob"))
    answer = session.generate()
    assert answer.call == ToolCall("look_up", {"person": "bob"})
    assert (answer.text, answer.finished, answer.warning) == ("", True, None)
    assert session.messages()[0].text == '<|call|>{"name": "look_up", "arguments": {"person": "bob"}}'
    assert_whole(session)


@pytest.mark.parametrize("body", ["{", "[]", '{"name": 3, "arguments": {}}', '{"name": "f"}'])
def test_a_malformed_call_is_text_and_a_warning(
    session: Session, memory: SleepMemory, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    rig(monkeypatch, [*calls(memory, "f")[:1], *memory.chat.message("user", body)[2:]])
    answer = session.generate()
    assert (answer.call, answer.text) == (None, body)
    assert answer.warning is not None
    assert "malformed tool call" in answer.warning
    assert session.messages()[0].text == f"<|call|>{body}"
    assert_whole(session)


# Settings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("max_new_tokens", 0),
        ("max_new_tokens", -3),
        ("max_new_tokens", 2.5),
        ("max_new_tokens", True),
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("temperature", "hot"),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("seed", 2**64),
        ("seed", "one"),
    ],
)
def test_a_sampling_out_of_range_is_refused_before_anything_is_read(
    session: Session, setting: str, value: object
) -> None:
    wrong: dict[str, Any] = {setting: value}
    for refused in (
        lambda: session.generate(**wrong),
        lambda: session.generate(stream=True, **wrong),
        lambda: session.ask("bob ?", **wrong),
        lambda: session.ask("bob ?", remember=False, **wrong),
    ):
        with pytest.raises(SettingsError, match=setting):
            refused()
    assert events(session) == []


def test_top_p_keeps_the_smallest_sufficient_set() -> None:
    logits = torch.tensor([0.1, 0.4, 0.2, 0.3]).log()

    def drawn(top_p: float) -> set[int]:
        sampling = Sampling(temperature=1.0, top_p=top_p, seed=0)
        generator = sampling.generator()
        return {sampling.pick(logits, generator) for _ in range(300)}

    assert drawn(0.39) == {1}
    assert drawn(0.41) == {1, 3}
    assert drawn(0.71) == {1, 3, 2}
    assert drawn(1.0) == {0, 1, 2, 3}


def test_temperature_sharpens() -> None:
    logits = torch.tensor([2.0, 0.0])
    share = {}
    for temperature in (0.5, 1.0, 2.0):
        sampling = Sampling(temperature=temperature, seed=1)
        generator = sampling.generator()
        share[temperature] = sum(sampling.pick(logits, generator) for _ in range(500)) / 500
        assert share[temperature] == pytest.approx(1 / (1 + math.exp(2 / temperature)), abs=0.06)
    assert Sampling().pick(logits, None) == 0
