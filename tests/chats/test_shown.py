"""What a stream may show of a turn while it is being written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.chats import ToolCall
from agentsleep.chats.calls import CallReader
from tests.chats.families import WITH_TOOLS, chat, template, tokenizer
from tests.chats.test_calls import generated, written

CALL = ToolCall("look_up", {"person": "bob", "times": 3})


def grown(family: str, ids: list[int]) -> str:
    """The text shown behind the last token; before it, never anything that is taken back."""
    format_, shown = chat(family, True), ""
    for count in range(len(ids) + 1):
        now = format_.shown(ids[:count])
        assert now.startswith(shown), (shown, now)
        shown = now
    return shown


def behind_thought(family: str) -> str:
    """Some prompts open a thought."""
    opens = "<think>" in tokenizer(family).decode(chat(family, True).prompt())
    return "why ?</think>\n\n" if opens else ""


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_a_call_is_never_shown(family: str) -> None:
    ids = generated(chat(family, True), chat(family, True).call(CALL))
    assert grown(family, ids).strip() == ""
    assert chat(family, True).parse(ids).calls == (CALL,)


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_plain_text_is_shown_as_it_comes(family: str) -> None:
    ids = written(family, behind_thought(family) + "it is 日本 of course .")
    shown = grown(family, ids)
    assert shown
    assert chat(family, True).parse(ids).text.startswith(shown)
    assert len(shown) >= len("it is 日本 of cours")


def test_thoughts_and_words_before_a_call() -> None:
    thought = "<think>\nbob < alice <tool_call>\n</think>\n\n"
    ids = written("qwen3", thought + 'I look <b>once</b>. <tool_call>\n{"name": 3')
    assert grown("qwen3", ids) == "I look <b>once</b>."


def test_the_head_of_a_marker_waits() -> None:
    spoken = chat("nemotron", True)
    plain = tokenizer("nemotron").encode(behind_thought("nemotron") + "a <TOOLC", add_special_tokens=False)
    assert spoken.shown(plain) == "a"
    more = tokenizer("nemotron").encode(behind_thought("nemotron") + "a <TOOLCHEST>", add_special_tokens=False)
    assert spoken.shown(more) == "a <TOOLCHEST>"


@given(st.text(st.sampled_from('ab <>|[]{}"TOL_CAtoolcahink/\n'), max_size=40))
def test_what_is_shown_begins_what_is_said(text: str) -> None:
    for family in ("qwen3", "mistral", "llama3"):
        reader = CallReader(template(family))
        shown = reader.before(text)
        assert text.startswith(shown)
        for count in range(len(text)):
            assert shown.startswith(before) if len(before := reader.before(text[:count])) <= len(shown) else False
        try:
            said, calls = reader.read(text)
        except ValueError:
            continue
        if not calls:
            assert said.startswith(shown)
