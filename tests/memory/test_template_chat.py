"""Sessions on a model of another family, with a chat template: windows with a head, turns with thoughts and calls."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsleep.chats import TemplateChat
from agentsleep.conformance.families import make_model
from agentsleep.errors import UntrainedSleep
from agentsleep.memory import Agent, Session, SleepMemory
from agentsleep.policy import SleepPolicy
from tests.chats.families import tokenizer
from tests.memory.helpers import Trace, events, kinds, rig, same

WINDOW = 640  # bytes, most of them: a head of tools alone takes hundreds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("qwen")
    spoken = tokenizer("qwen3")
    make_model("qwen3_5", vocab_size=len(spoken), sleep_window=WINDOW, sleep_passes=2).save_pretrained(out)
    spoken.save_pretrained(out)
    return out


@pytest.fixture
def memory(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SleepMemory]:
    monkeypatch.setenv("AGENTSLEEP_HOME", str(tmp_path / "home"))
    with SleepMemory(folder, archive=tmp_path / "memory.db", policy=SleepPolicy(trigger=None)) as opened:
        assert isinstance(opened.chat, TemplateChat)
        yield opened


def spell(memory: SleepMemory, text: str) -> list[int]:
    """A turn as the model would write it, up to its end."""
    return [*memory.backend.tokenizer.encode(text, add_special_tokens=False), memory.chat.end]


def calling(person: str) -> str:
    return f'<tool_call>\n{{"name": "look_up", "arguments": {{"person": "{person}"}}}}\n</tool_call>'


def heard(session: Session) -> str:
    return str(session._backend.tokenizer.decode(session.window.ids))


def test_a_thought_goes_when_its_answer_is_said(
    memory: SleepMemory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with memory.session("t", system="be brief") as session:
        rig(monkeypatch, spell(memory, "<think>\nhm, bob or alice?\n</think>\n\nbob"))
        answer = session.ask("who is it?")
        assert (answer.text, answer.thought) == ("bob", "hm, bob or alice?")
        assert answer.finished
        said = heard(session)
        assert "hm, bob" not in said
        assert said.count("<|im_start|>") == 3
        assert said.endswith("bob<|im_end|>\n")
        assert said == memory.backend.tokenizer.apply_chat_template(
            [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": "who is it?"},
                {"role": "assistant", "content": "bob"},
                {"role": "user", "content": "so?"},
            ],
            tokenize=False,
        ).removesuffix("<|im_start|>user\nso?<|im_end|>\n")
        turn = session.messages()[-1]
        assert turn.data["unthought"] > 10  # type: ignore[operator]
        assert turn.text.startswith("<think>")  # what was said is on record, what is read is not
        before = Trace.of(session)
    with SleepMemory(folder, archive=memory.archive.path, policy=memory.policy) as again, again.session("t") as session:
        before.assert_near(Trace.of(session))


def test_what_slept_stays_as_it_was_read(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory.session("t") as session:
        long = "<think>\n" + "so and so, " * 70 + "\n</think>\n\nbob"
        rig(monkeypatch, spell(memory, long))
        answer = session.ask("who is it?", max_new_tokens=2000)
        assert answer.text == "bob"
        assert "s" in kinds(session)
        whole = memory.backend.tokenizer.decode([token for event in events(session) for token in event.token_ids])
        assert whole.count("so and so") == 70
        assert same(session.replay(), session.state)


def test_calls_run_in_order_and_are_not_streamed(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    def look_up(person: str) -> str:
        """Looks a person up."""
        ran.append(person)
        return f"{person} is well"

    calls = f"{calling('bob')}\n{calling('al')}"
    with memory.session("t", system="be brief") as session:
        agent = Agent(session, [look_up])
        rig(monkeypatch, spell(memory, calls), spell(memory, "both are well"))
        answer = agent.run("how are they?", max_new_tokens=400)
        assert answer.text == "both are well"
        assert ran == ["bob", "al"]
        roles = [event.role for event in session.messages()]
        assert roles == ["user", "assistant", "tool", "tool", "assistant"]
        rig(monkeypatch, spell(memory, f"I look. {calls}"))
        stream = session.generate(stream=True, max_new_tokens=400)
        assert "".join(stream) == "I look."
        assert stream.answer is not None
        assert [call.arguments["person"] for call in stream.answer.calls] == ["bob", "al"]


def test_a_malformed_call_is_text_and_a_warning(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory.session("t") as session:
        rig(monkeypatch, spell(memory, '<tool_call>{"name": "look_up", "arg</tool_call>'))
        answer = session.ask("well?", max_new_tokens=400)
        assert answer.call is None
        assert "<tool_call>" in answer.text
        assert answer.warning is not None
        assert "malformed" in answer.warning
        assert session.messages()[-1].data["warning"] == answer.warning


def test_after_twenty_windows_it_still_has_its_instructions_and_tools(
    memory: SleepMemory, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(person: str) -> str:
        """Looks a person up."""
        return person

    with memory.session("t", system="obey the rule of seven", tools=[look_up]) as session:
        head = heard(session)
        assert "rule of seven" in head
        assert "look_up" in head
        while session.stats().snapshots < 20:
            session.add("user", "and then, " * 20)
            rig(monkeypatch, spell(memory, "yes, " * 10))
            session.generate(max_new_tokens=100)
        assert heard(session).startswith(head)
        assert same(session.replay(), session.state)
        rig(monkeypatch, spell(memory, calling("bob")))
        answer = session.ask("who?", max_new_tokens=400)
        assert answer.call is not None
        assert answer.call.name == "look_up"
        before = Trace.of(session)
    with SleepMemory(folder, archive=memory.archive.path, policy=memory.policy) as again:
        with again.session("t", tools=[look_up]) as session:
            after = Trace.of(session)
        assert (after.log, after.window) == (before.log, before.window)


def test_a_head_with_a_date_is_read_as_it_was(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dated = tmp_path / "dated"
    make_model("qwen3_5", vocab_size=len(tokenizer("llama3")), sleep_window=WINDOW).save_pretrained(dated)
    tokenizer("llama3").save_pretrained(dated)
    place: dict[str, Any] = {"archive": tmp_path / "memory.db"}
    with SleepMemory(dated, **place) as memory, memory.session("t", system="be brief") as session:
        session.add("user", "hello")
        before = session.window.ids
    with SleepMemory(dated, **place) as memory:
        other = memory.chat.head("be brief", ())
        monkeypatch.setattr(TemplateChat, "head", lambda *_: [*other[:-1], 65, other[-1]])  # another day
        with memory.session("t") as session:
            assert session.window.ids == before
            session.pin(system="be kind")
            assert 65 in session.window.ids[: len(other) + 1]


def test_a_model_that_was_not_trained_to_sleep_says_so_once(folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    make_model("qwen3_5", vocab_size=len(tokenizer("qwen3"))).save_pretrained(plain)
    tokenizer("qwen3").save_pretrained(plain)
    with pytest.warns(UntrainedSleep, match=r"makes 1 a window; 'agentsleep probe --model'"):
        SleepMemory(plain, archive=":memory:").close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SleepMemory(folder, archive=":memory:").close()
        SleepMemory(plain, archive=":memory:", settings={"window": 64, "passes": 2}).close()
