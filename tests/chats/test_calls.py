"""Calls: written by the template and read back, then everything that a model may write instead."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsleep.chats import Reply, TemplateChat, ToolCall
from agentsleep.tokens import decode_text
from tests.chats.families import TOOLS, WITH_TOOLS, chat, new_tokenizer, template

LOOK = ToolCall("look_up", {"person": "Zoë\n<b>", "times": 3, "exact": False, "ways": ["a", "b"], "where": {"x": None}})
MARKED = {
    "qwen3": "<tool_call>\n{}\n</tool_call>",
    "falcon": "<tool_call>\n[{}]\n</tool_call>",
    "granite": "<|tool_call|>[{}]",
    "nemotron": "</think><TOOLCALL>[{}]</TOOLCALL>",
    "mistral": "[TOOL_CALLS] [{}]",
}
ONE = '{"name": "look_up", "arguments": {"person": "bob"}}'
BOB = ToolCall("look_up", {"person": "bob"})


def written(family: str, text: str) -> list[int]:
    """What a model writes after the prompt: markers are tokens."""
    ids: list[int] = chat(family).tokenizer(text, add_special_tokens=False).input_ids
    return ids


def parse(family: str, text: str) -> Reply:
    return chat(family, True).parse(written(family, text))


def generated(spoken: TemplateChat, turn: list[int]) -> list[int]:
    """A past turn as if it had just been written."""
    head = decode_text(spoken.tokenizer, turn)
    prompt = decode_text(spoken.tokenizer, spoken.prompt())
    for marker in ("<think>\n\n", "<think>\n"):
        prompt = prompt.removesuffix(marker)
    ids: list[int] = spoken.tokenizer(head.removeprefix(prompt), add_special_tokens=False).input_ids
    if decode_text(spoken.tokenizer, spoken.prompt()) != prompt:
        ids = spoken.tokenizer("\n</think>\n\n", add_special_tokens=False).input_ids + ids
    return ids


@pytest.mark.parametrize("family", WITH_TOOLS)
@pytest.mark.parametrize("call", [LOOK, BOB, ToolCall("now", {})])
def test_a_call_that_was_written_is_read(family: str, call: ToolCall) -> None:
    spoken = chat(family, True)
    assert spoken.parse(generated(spoken, spoken.call(call))) == Reply("", call)


@settings(max_examples=20)
@given(
    st.sampled_from([f for f in WITH_TOOLS if f != "qwen3_5"]),
    st.text(),
    st.dictionaries(st.text(min_size=1), st.recursive(st.none() | st.integers() | st.text(), st.lists), max_size=3),
)
def test_any_arguments_as_json(family: str, text: str, arguments: dict[str, Any]) -> None:
    spoken = chat(family, True)
    call = ToolCall("look_up", {"person": text, **arguments})
    ids = spoken.call(call)
    # As tokens: generated() reads text again, and a content may spell a marker.
    prompt = spoken.prompt()
    assumed = ids[len(prompt) :] if ids[: len(prompt)] == prompt else generated(spoken, ids)
    assert spoken.parse(assumed).calls == (call,)


@given(st.text(st.characters(codec="utf-8")).filter(lambda t: "<" not in t and t == t.strip("\n") and "\r" not in t))
def test_any_text_as_a_tag(text: str) -> None:
    spoken = chat("qwen3_5", True)
    call = ToolCall("look_up", {"person": text})
    assert spoken.parse(generated(spoken, spoken.call(call))).calls == (call,)


@pytest.mark.parametrize(
    ("values", "meant"),
    [
        ({"times": "7"}, {"times": 7}),
        ({"times": "seven"}, {"times": "seven"}),
        ({"exact": "True"}, {"exact": True}),
        ({"exact": "no"}, {"exact": "no"}),
        ({"person": "7"}, {"person": "7"}),
        ({"person": "null"}, {"person": "null"}),
        ({"where": '{"city": "Köln"}'}, {"where": {"city": "Köln"}}),
        ({"where": "null"}, {"where": None}),
        ({"share": "0.5"}, {"share": 0.5}),
        ({"share": "null"}, {"share": None}),
        ({"ways": '["a"]'}, {"ways": ["a"]}),
        ({"unknown": "7"}, {"unknown": "7"}),
        ({"person": "</parameter> and <parameter=x> inside"}, {"person": "</parameter> and <parameter=x> inside"}),
        ({"person": ""}, {"person": ""}),
        ({}, {}),
    ],
)
def test_tags_have_the_types_of_the_schema(values: dict[str, str], meant: dict[str, Any]) -> None:
    tags = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in values.items())
    text = f"</think>\n\n<tool_call>\n<function=look_up>\n{tags}</function>\n</tool_call>"
    assert parse("qwen3_5", text).call == ToolCall("look_up", meant)
    untyped = chat("qwen3_5").parse(written("qwen3_5", text)).call
    assert untyped == ToolCall("look_up", values)


@pytest.mark.parametrize("family", sorted(MARKED))
def test_several_calls(family: str) -> None:
    two = MARKED[family].replace("{}", f'{ONE}, {{"name": "now", "arguments": {{}}}}')
    if family == "qwen3":
        two = (
            MARKED[family].replace("{}", ONE) + "\n" + MARKED[family].replace("{}", '{"name": "now", "arguments": {}}')
        )
    reply = parse(family, two)
    assert reply.calls == (BOB, ToolCall("now", {}))
    assert reply.call == BOB


def test_words_around_calls() -> None:
    reply = parse("qwen3", f"Let me look.\n<tool_call>{ONE}</tool_call>\n")
    assert reply == Reply("Let me look.", BOB)
    assert parse("granite", f"One moment <|tool_call|>[{ONE}]") == Reply("One moment", BOB)


@pytest.mark.parametrize(
    "item",
    [
        ONE,
        f'{{"type": "function", "function": {ONE}}}',
        '{"name": "look_up", "parameters": {"person": "bob"}}',
        '{"name": "look_up", "arguments": "{\\"person\\": \\"bob\\"}"}',
        '{"arguments": {"person": "bob"}, "name": "look_up", "id": "1"}',
        f"\n  {ONE}  \n",
    ],
)
@pytest.mark.parametrize("family", sorted(MARKED))
def test_manners_of_writing_a_call(family: str, item: str) -> None:
    assert parse(family, MARKED[family].replace("{}", item)).calls == (BOB,)


def test_a_closing_marker_inside_an_argument_and_one_that_is_missing() -> None:
    inside = '<tool_call>{"name": "look_up", "arguments": {"person": "</tool_call>"}}</tool_call>'
    assert parse("qwen3", inside).call == ToolCall("look_up", {"person": "</tool_call>"})
    assert parse("qwen3", f"<tool_call>{ONE}").call == BOB
    assert parse("nemotron", f"</think><TOOLCALL>[{ONE}]").call == BOB


@pytest.mark.parametrize("family", sorted(MARKED))
@pytest.mark.parametrize(
    "item",
    [
        "",
        "look_up(bob)",
        ONE[:-5],
        '{"name": "look_up"}',
        '{"arguments": {}}',
        '{"name": 7, "arguments": {}}',
        '{"name": "look_up", "arguments": ["bob"]}',
        '{"name": "look_up", "arguments": "bob"}',
        '{"function": "look_up"}',
        '["look_up"]',
        '"look_up"',
        "null",
        f"{ONE} and more",
        "[" * 20_000,
    ],
)
def test_a_malformed_call_is_text_with_a_warning(family: str, item: str) -> None:
    if (family, item) in {("granite", ""), ("falcon", ""), ("nemotron", ""), ("mistral", "")}:
        assert parse(family, MARKED[family].replace("{}", item)).calls == ()  # a list of no calls
        return
    text = MARKED[family].replace("{}", item)
    reply = parse(family, text)
    assert (reply.call, reply.calls) == (None, ())
    assert reply.text == text.removeprefix("</think>")
    assert reply.warning is not None
    assert "malformed tool call" in reply.warning


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=look_up>\n<parameter=person>\nbob\n</parameter>\n</tool_call>",
        "<tool_call>\n<function=look_up>\n<parameter=person>\nbob",
        "<tool_call>\n<function=look_up>\nbob\n</function>\n</tool_call>",
        "<tool_call>\n<function=>\n</function>\n</tool_call>",
        "<tool_call>\n<function=look_up>\n</function>\nwords</tool_call>",
    ],
)
def test_malformed_tags(text: str) -> None:
    reply = parse("qwen3_5", f"</think>{text}")
    assert reply.calls == ()
    assert reply.text == text
    assert "malformed tool call" in (reply.warning or "")


def test_json_as_the_whole_turn() -> None:
    assert parse("llama3", '{"name": "look_up", "parameters": {"person": "bob"}}') == Reply("", BOB)
    assert parse("llama3", '<|python_tag|>{"name": "look_up", "parameters": {"person": "bob"}}') == Reply("", BOB)
    assert parse("llama3", '{"colour": "red"}') == Reply('{"colour": "red"}')
    assert "malformed" in (parse("llama3", '{"name": "look_up", "parameters": {').warning or "")
    assert "malformed" in (parse("llama3", ONE + " so be it").warning or "")


def test_a_template_without_calls_reads_none() -> None:
    assert chat("gemma").parse(written("gemma", ONE)) == Reply(ONE)
    assert chat("gemma").parse(written("gemma", f"<tool_call>{ONE}</tool_call>")).calls == ()


@given(st.sampled_from([*WITH_TOOLS, "gemma"]), st.text(st.characters(codec="utf-8"), min_size=1))
def test_words_that_were_said_are_read(family: str, text: str) -> None:
    if not text.strip() or text != text.strip() or any(mark in text for mark in ("<", "[", "{")):
        return
    spoken = chat(family)
    turn = spoken.message("assistant", text)
    assert spoken.parse(generated(spoken, turn)) == Reply(text)


def test_what_stands_behind_the_end_is_not_read() -> None:
    spoken = chat("qwen3")
    ids = [*written("qwen3", "yes"), spoken.end, *spoken.close]
    assert spoken.parse(ids) == spoken.parse(ids[:-1]) == spoken.parse(written("qwen3", "yes")) == Reply("yes")
    assert spoken.parse([]) == spoken.parse([spoken.end]) == Reply("")


def test_ids_that_no_token_has() -> None:
    spoken = chat("qwen3")
    beyond = len(spoken.tokenizer) + 3  # a row of the embedding that pads it
    assert spoken.parse([*written("qwen3", "yes"), beyond, spoken.end]) == Reply("yes")


def test_bytes_that_are_no_text() -> None:
    broken = chat("qwen3").tokenizer.convert_tokens_to_ids("Ã")  # the first byte of two
    assert chat("qwen3").parse([broken]) == Reply("\ufffd")


# Checkpoints that carry a response template

RESPONSE = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "reasoning_content": {"open": "<think>", "close": "</think>", "content": "text"},
        "tool_calls": {
            "open_pattern": r"\s*<tool_call>",
            "close": "</tool_call>",
            "repeats": True,
            "content": "json",
            "transform": {"type": "function", "function": "{content}"},
        },
        "content": {"close_pattern": r"\s*<\|im_end\|>", "content": "text"},
    },
}


def with_response_template() -> TemplateChat:
    tokenizer = new_tokenizer(template("qwen3_5"), eos="<|im_end|>", response_template=RESPONSE)
    return TemplateChat(tokenizer).with_tools(TOOLS)


def test_a_response_template_comes_first() -> None:
    spoken = with_response_template()
    ids = spoken.tokenizer(f"hm\n</think>\n\nI look.<tool_call>{ONE}</tool_call>", add_special_tokens=False).input_ids
    assert spoken.parse([*ids, spoken.end]) == Reply("I look.", BOB, thought="hm")  # qwen3_5's own markers are tags
    two = spoken.tokenizer(f"</think><tool_call>{ONE}</tool_call><tool_call>{ONE}</tool_call>").input_ids
    assert spoken.parse(two).calls == (BOB, BOB)


@pytest.mark.parametrize(
    "item", ["{", "look_up(bob)", '"look_up"', "[]x", '{"name": 3, "arguments": {}}', "[" * 20_000]
)
def test_a_malformed_call_under_a_response_template(item: str) -> None:
    spoken = with_response_template()
    text = f"</think><tool_call>{item}</tool_call>"
    reply = spoken.parse(spoken.tokenizer(text, add_special_tokens=False).input_ids)
    assert reply.calls == ()
    assert reply.text == text
    assert "malformed tool call" in (reply.warning or "")
