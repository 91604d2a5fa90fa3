"""The forms of calls and answers, as models would write them: read back by the same format."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsleep.chat import Chat, chat_of
from agentsleep.chats import CallForm, ChatFormat, Piece, TemplateChat, ToolCall
from agentsleep.chats.calls import types_of
from agentsleep.errors import UnsupportedModel
from agentsleep.tasks.rota import tokenizer as own_tokenizer
from agentsleep.tokens import decode_text, encode_text
from tests.chats.families import TOOLS, WITH_TOOLS, chat, new_tokenizer, template, tokenizer

LOOK = ToolCall("look_up", {"person": "Zoë\n<b>", "times": 3, "exact": False, "ways": ["a", "b"], "where": {"x": None}})
NOW = ToolCall("now", {})
SEVERAL = {"qwen3", "qwen3_5", "granite", "nemotron", "falcon", "mistral"}


def spoken(family: str) -> ChatFormat:
    return chat_of(own_tokenizer()) if family == "own" else chat(family, True)


def spelt(form: ChatFormat, pieces: list[Piece]) -> list[int]:
    ids: list[int] = []
    for piece in pieces:
        ids += [piece] if isinstance(piece, int) else encode_text(form.tokenizer, piece)
    return [*ids, form.end]


@pytest.mark.parametrize("family", [*WITH_TOOLS, "own"])
@pytest.mark.parametrize("call", [LOOK, NOW])
def test_a_call_in_its_form_is_read_back(family: str, call: ToolCall) -> None:
    format_ = spoken(family)
    reply = format_.parse(spelt(format_, format_.call_form().write([call])))
    assert (reply.calls, reply.text, reply.warning, reply.thought) == ((call,), "", None, None)


@pytest.mark.parametrize("family", [*WITH_TOOLS, "own"])
def test_several_calls_where_there_are_several(family: str) -> None:
    format_ = spoken(family)
    form = format_.call_form()
    assert (form.joint is not None) == (family in SEVERAL)
    if form.joint is not None:
        assert format_.parse(spelt(format_, form.write([NOW, LOOK, NOW]))).calls == (NOW, LOOK, NOW)


@settings(max_examples=20)
@given(
    st.sampled_from([family for family in WITH_TOOLS if family != "qwen3_5"]),
    st.dictionaries(
        st.text(min_size=1).filter(lambda text: "think" not in text),
        st.recursive(st.none() | st.integers() | st.booleans(), lambda inner: st.lists(inner, max_size=3)),
        max_size=3,
    ),
)
def test_any_arguments(family: str, arguments: dict[str, Any]) -> None:
    format_, call = spoken(family), ToolCall("look_up", arguments)
    assert format_.parse(spelt(format_, format_.call_form().write([call]))).calls == (call,)


# What a past turn says is what the form writes, but for thoughts and what indents JSON.
@pytest.mark.parametrize("family", ["qwen3", "qwen3_5", "granite", "mistral", "llama3"])
def test_the_form_is_the_templates_own(family: str) -> None:
    format_ = chat(family, True)
    written = decode_text(format_.tokenizer, spelt(format_, format_.call_form().write([LOOK])))
    past = decode_text(format_.tokenizer, format_.call(LOOK))
    assert written.partition("</think>\n\n")[2] in past if "</think>" in written else written in past


def test_the_thought_that_a_prompt_opens_is_closed_first() -> None:
    for family, closed in (("qwen3_5", "\n</think>\n\n"), ("nemotron", "</think>\n\n")):
        format_ = chat(family, True)
        for form in (format_.call_form(), format_.text_form()):
            lead = [[piece] if isinstance(piece, int) else encode_text(format_.tokenizer, piece) for piece in form.lead]
            assert decode_text(format_.tokenizer, [i for ids in lead for i in ids]).startswith(closed)
        answer = [*format_.text_form().lead, "yes", *format_.text_form().close]
        reply = format_.parse(spelt(format_, answer))
        assert (reply.text, reply.thought, reply.warning) == ("yes", None, None)
    still = TemplateChat(tokenizer("qwen3_5"), {"enable_thinking": False}).with_tools(TOOLS)
    assert still.text_form().lead == ()
    assert still.parse(spelt(still, still.call_form().write([LOOK]))).calls == (LOOK,)


@pytest.mark.parametrize("family", [*WITH_TOOLS, "gemma", "own"])
def test_an_answer_in_its_form_is_read_back(family: str) -> None:
    format_ = spoken(family)
    form = format_.text_form()
    assert format_.parse(spelt(format_, [*form.lead, "[1]", *form.close])).text == "[1]"


def test_forms_in_full() -> None:
    own = Chat(own_tokenizer())
    mark = next(iter(own.call_markers.tokens))
    assert own.call_form() == CallForm((mark, '{"name": "'), ('", "arguments": ',), ("}",))
    assert chat("llama3", True).call_form() == CallForm(('{"name": "',), ('", "parameters": ',), ("}",))
    tags = chat("qwen3_5", True).call_form().tags
    assert tags is not None
    assert (tags.before_key, tags.before_value, tags.after_value) == (("<parameter=",), (">\n",), ("\n</parameter>\n",))


def test_separators_as_the_template_writes_them() -> None:
    compact = template("qwen3").replace("(call.function.arguments | tojson)", "packed(call.function.arguments)")
    macro = (
        "{%- macro packed(items) -%}{{- '{' -}}{%- for k, v in items.items() -%}"
        "{{- (k | tojson) + ':' + (v | tojson) + ('' if loop.last else ',') -}}{%- endfor -%}{{- '}' -}}"
        "{%- endmacro -%}"
    )
    format_ = TemplateChat(new_tokenizer(macro + compact, eos="<|im_end|>")).with_tools(TOOLS)
    assert format_.call_form().separators == (",", ":")
    assert format_.call_form().json({"a": 1, "b": [1, 2]}) == '{"a":1,"b":[1,2]}'
    assert chat("falcon", True).call_form().separators == (", ", ": ")  # on one line, though it indents its own


# Templates whose calls have no form


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            ("function.arguments | tojson", "function.arguments | tojson | tojson"),
            "each argument as a tag, a string as",
        ),
        (("(call.function.arguments | tojson)", "'{}'"), "leaves out, repeats or moves the content"),
        (("+ call.function.name +", "+ 'look' +"), "leaves out or repeats the name or the arguments"),
        (('{"name": "', '{"function_name": "'), "not read back"),
        (("'<tool_call>\\n{", "'<call>\\n{"), "not read back"),
        (
            (
                '+ call.function.name + \'", "arguments": \'',
                "+ (call.function.arguments | tojson) + call.function.name",
            ),
            "leaves out, repeats or moves the content",
        ),
    ],
)
def test_calls_without_a_form(change: tuple[str, str], why: str) -> None:
    source = template("qwen3").replace(*change)
    assert source != template("qwen3")
    format_ = TemplateChat(new_tokenizer(source, eos="<|im_end|>")).with_tools(TOOLS)
    with pytest.raises(UnsupportedModel, match=why) as raised:
        format_.call_form()
    assert "tokenizer.chat_template" in str(raised.value)


def test_arguments_before_the_name() -> None:
    before, _, rest = template("qwen3").partition('{{- \'<tool_call>\\n{"name"')
    after = rest.partition("</tool_call>' -}}")[2]
    turned = '{{- \'<tool_call>{"arguments": \' + (call.function.arguments | tojson) + \', "name": "\' -}}'
    turned += "{{- call.function.name + '\"}</tool_call>' -}}"
    format_ = TemplateChat(new_tokenizer(before + turned + after, eos="<|im_end|>")).with_tools(TOOLS)
    with pytest.raises(UnsupportedModel, match="writes the arguments of a call before its name"):
        format_.call_form()


@pytest.mark.parametrize("family", ["gemma", "gemma3"])
def test_formats_without_calls(family: str) -> None:
    with pytest.raises(UnsupportedModel, match="no call turn"):
        chat(family).call_form()
    assert not chat(family).call_markers.tokens


@pytest.mark.parametrize("family", [*WITH_TOOLS, "own"])
def test_markers_begin_what_is_read_as_a_call(family: str) -> None:
    format_ = spoken(family)
    markers, form = format_.call_markers, format_.call_form()
    text = decode_text(format_.tokenizer, spelt(format_, form.write([NOW])))
    by_text = any(marker in text for marker in markers.texts)
    assert by_text or markers.bare or markers.tokens & set(form.lead)


def test_types_behind_references() -> None:
    whole = {"$defs": {"Color": {"enum": ["red", 1]}, "Loop": {"$ref": "#/$defs/Loop"}, "P/a": {"type": "object"}}}
    assert types_of({"$ref": "#/$defs/Color"}, whole) == {"string", "integer"}
    assert types_of({"anyOf": [{"$ref": "#/$defs/P~1a"}, {"type": "null"}]}, whole) == {"object", "null"}
    assert types_of({"const": [1]}, whole) == {"array"}
    for nothing in ({}, True, {"$ref": "#/$defs/Loop"}, {"$ref": "#/none"}, {"$ref": "other.json"}):
        assert types_of(nothing, whole) == set()


def test_a_tag_has_the_type_that_a_reference_names() -> None:
    parameters = {
        "type": "object",
        "properties": {"place": {"$ref": "#/$defs/Place"}},
        "$defs": {"Place": {"type": "object", "properties": {"x": {"type": "integer"}}}},
    }
    tool = {"type": "function", "function": {"name": "go", "description": "Goes.", "parameters": parameters}}
    format_ = chat("qwen3_5").with_tools([tool])
    call = ToolCall("go", {"place": {"x": 3}})
    assert format_.parse(spelt(format_, format_.call_form().write([call]))).calls == (call,)
