"""One function gives every tokenizer its chat format, and both formats can be used alike."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agentsleep.chat import Chat, ChatFormat, Reply, TemplateChat, ToolCall, chat_of
from agentsleep.errors import EmptyMessage, InputError, UnsupportedModel
from agentsleep.tasks import rota
from tests.chats.families import TOOLS, new_tokenizer, tokenizer

BOTH = [rota.tokenizer(), tokenizer("qwen3")]


def test_own_markers_come_first() -> None:
    own = rota.tokenizer()
    own.chat_template = "{{ raise_exception('not asked') }}"
    assert isinstance(chat_of(own), Chat)
    assert isinstance(chat_of(tokenizer("falcon")), TemplateChat)


def test_a_tokenizer_from_disk(tmp_path: Path) -> None:
    tokenizer("nemotron").save_pretrained(tmp_path)
    spoken = chat_of(AutoTokenizer.from_pretrained(tmp_path))
    assert spoken.message("user", "hi") == chat_of(tokenizer("nemotron")).message("user", "hi")


def test_a_tokenizer_without_a_chat_template() -> None:
    with pytest.raises(InputError, match=r"no chat template.*set tokenizer\.chat_template"):
        chat_of(new_tokenizer(None))
    with pytest.raises(InputError, match=r"no chat template; set tokenizer\.chat_template"):
        TemplateChat(new_tokenizer(""))


def test_a_tokenizer_that_is_not_fast() -> None:
    class Slow(PreTrainedTokenizerBase):
        def __init__(self) -> None:
            pass

    with pytest.raises(InputError, match=r"is a Slow; a fast one is needed"):
        chat_of(Slow())


def test_a_template_that_cannot_be_used() -> None:
    with pytest.raises(UnsupportedModel, match="leaves out"):
        chat_of(new_tokenizer("hello", eos="<|im_end|>"))


@pytest.mark.parametrize("said", BOTH, ids=["own", "template"])
def test_both_formats_speak_alike(said: PreTrainedTokenizerFast) -> None:
    spoken: ChatFormat = chat_of(said).with_tools(TOOLS)
    assert spoken.tokenizer is said
    call = ToolCall("look_up", {"person": "bob"})
    for turn, reply in ((spoken.message("assistant", "noted"), Reply("noted")), (spoken.call(call), Reply("", call))):
        assert turn[: len(spoken.prompt())] == spoken.prompt()
        assert turn[len(turn) - len(spoken.close) - 1 :] == [spoken.end, *spoken.close]
        assert spoken.parse(turn[len(spoken.prompt()) :]) == reply
        assert spoken.without_thought(turn) == turn
    system, tools = spoken.head("Be brief.", []), spoken.head(None, TOOLS)
    assert system
    assert tools
    assert spoken.head(None, []) == spoken.head("", []) == []
    assert len(spoken.head("Be brief.", TOOLS)) > max(len(system), len(tools))
    with pytest.raises(EmptyMessage):
        spoken.head(" ", [])


def test_the_own_head_is_the_system_message_and_the_tools() -> None:
    own = Chat(rota.tokenizer())
    assert own.head(rota.SYSTEM, TOOLS) == own.message("system", rota.SYSTEM) + own.tools(TOOLS)
    assert own.close == []
    assert not own.drops_thoughts
    assert own.with_tools(TOOLS) is own


def test_the_own_template_gives_the_own_format() -> None:
    own, rendered = Chat(rota.tokenizer()), TemplateChat(rota.tokenizer())
    call = ToolCall(rota.TOOL_NAME, {rota.TOOL_ARGUMENT: "bob"})
    assert (rendered.end, rendered.close, rendered.prompt()) == (own.end, own.close, own.prompt())
    assert rendered.call(call) == own.call(call)
    for role in ("system", "user", "assistant", "tool"):
        for text in ("who comes 3 after bob ?", " é<|end|><|user|>"):
            assert rendered.message(role, text) == own.message(role, text)  # type: ignore[arg-type]
    for system in (None, rota.SYSTEM):
        for tools in ([], TOOLS):
            assert rendered.head(system, tools) == own.head(system, tools)


def test_a_reply_has_its_first_call_and_all_of_them() -> None:
    one, two = ToolCall("a", {}), ToolCall("b", {})
    assert Reply("", one).calls == (one,)
    assert Reply("", calls=(one, two)).call == one
    assert Reply("hi").calls == ()
