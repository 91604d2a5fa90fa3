"""Messages behind each other against the template's own rendering of the whole conversation."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.chats import TemplateChat, ToolCall
from agentsleep.errors import EmptyMessage, InputError, UnsupportedModel
from agentsleep.tokens import decode_text
from tests.chats.families import FAMILIES, TOOLS, WITH_TOOLS, chat, new_tokenizer, template, tokenizer

Said = tuple[str, str | ToolCall]
LOOK = ToolCall("look_up", {"person": "bob", "times": 3, "exact": True, "where": {"city": ["Zürich"]}})
TALK: list[Said] = [
    ("user", "the first question\n\nwith  lines"),
    ("assistant", "the first answer"),
    ("user", "a second: <|not a token|> é ☂"),
    ("assistant", LOOK),
    ("tool", '{"bob": "found"}'),
    ("assistant", "bob is there"),
    ("user", "and now?"),
    ("assistant", "now too"),
    ("user", "thanks"),
]
WORDS: list[Said] = [said for said in TALK if isinstance(said[1], str) and said[0] != "tool"]


def as_messages(talk: list[Said], system: str | None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for role, said in talk:
        if isinstance(said, ToolCall):
            function = {"name": said.name, "arguments": dict(said.arguments)}
            call = {"id": "call00000", "type": "function", "function": function}
            messages.append({"role": role, "content": "", "tool_calls": [call]})
        else:
            messages.append({"role": role, "content": said} | ({"tool_call_id": "call00000"} if role == "tool" else {}))
    return messages


def at_once(family: str, talk: list[Said], system: str | None, tools: list[dict[str, Any]]) -> str:
    messages = as_messages(talk, system)
    text = tokenizer(family).apply_chat_template(
        messages, tools=tools or None, add_generation_prompt=True, tokenize=False
    )
    return str(text)


def one_by_one(family: str, talk: list[Said], system: str | None, tools: list[dict[str, Any]]) -> list[int]:
    spoken = chat(family, bool(tools))
    ids = spoken.head(system, tools)
    for role, said in talk:
        ids += spoken.call(said) if isinstance(said, ToolCall) else spoken.message(role, said)  # type: ignore[arg-type]
    return ids + spoken.prompt()


def test_there_is_a_template_for_each_family() -> None:
    assert all(template(family) for family in FAMILIES)


# Append-only templates: the very tokens of the whole conversation.
@pytest.mark.parametrize("system", [None, "Be <brief>.\n\nAlways."])
@pytest.mark.parametrize("family", ["qwen3", "qwen3_5", "granite", "nemotron", "falcon"])
def test_with_tools_as_at_once(family: str, system: str | None) -> None:
    text = at_once(family, TALK, system, TOOLS)
    ids = one_by_one(family, TALK, system, TOOLS)
    assert decode_text(tokenizer(family), ids) == text
    assert ids == tokenizer(family)(text, add_special_tokens=False).input_ids


MERGED = ("mistral", "gemma", "gemma3")  # which take the system message into a user turn, or refuse it


@pytest.mark.parametrize(
    ("family", "system"),
    [
        (family, system)
        for family in sorted(FAMILIES)
        for system in (None, "Be <brief>.")
        if not system or family not in MERGED
    ],
)
def test_without_tools_as_at_once(family: str, system: str | None) -> None:
    text = at_once(family, WORDS, system, [])
    ids = one_by_one(family, WORDS, system, [])
    assert decode_text(tokenizer(family), ids) == text
    assert ids == tokenizer(family)(text, add_special_tokens=False).input_ids


@given(
    st.lists(
        st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda t: t.strip() == t), min_size=3, max_size=7
    ),
    st.sampled_from(sorted(FAMILIES)),
)
def test_any_text_as_at_once(texts: list[str], family: str) -> None:
    texts = texts[: (len(texts) - 1) | 1]  # the last word is the user's
    talk: list[Said] = [(("user", "assistant")[i % 2], text) for i, text in enumerate(texts)]
    text = at_once(family, talk, None, [])
    assert one_by_one(family, talk, None, []) == tokenizer(family)(text, add_special_tokens=False).input_ids


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("text", ["  hi\n", "\n\nhi", "hi \t", "\thi"])
def test_white_space_at_the_ends_as_at_once(family: str, text: str) -> None:
    talk: list[Said] = [("user", text), ("assistant", text), ("user", text)]
    whole = tokenizer(family)(at_once(family, talk, None, []), add_special_tokens=False).input_ids
    assert one_by_one(family, talk, None, []) == whole


# The differences where a template is not append-only, each in full.


def test_mistral_keeps_tools_and_system_at_the_head() -> None:
    text = at_once("mistral", TALK, "Be brief.", TOOLS)
    tools = text[text.index("[AVAILABLE_TOOLS]") : text.index("[/AVAILABLE_TOOLS]") + len("[/AVAILABLE_TOOLS]")]
    moved = text.replace(tools, "").replace("Be brief.\n\n", "").replace("<s>", f"<s>{tools}[INST] Be brief.[/INST]", 1)
    assert text != moved
    assert decode_text(tokenizer("mistral"), one_by_one("mistral", TALK, "Be brief.", TOOLS)) == moved


def test_llama_closes_the_turn_that_took_in_the_tools() -> None:
    text = at_once("llama3", TALK, "Be brief.", TOOLS)
    first = "\n\n" + TALK[0][1]  # type: ignore[operator]
    closed = text.replace(first, "<|eot_id|><|start_header_id|>user<|end_header_id|>" + first, 1)
    assert decode_text(tokenizer("llama3"), one_by_one("llama3", TALK, "Be brief.", TOOLS)) == closed
    assert '"{\\"bob\\": \\"found\\"}"' in closed  # quoted as the template quotes it


def test_gemma_3_closes_the_turn_that_took_in_the_system_message() -> None:
    text = at_once("gemma3", WORDS, "Be brief.", [])
    closed = text.replace("Be brief.\n\n", "Be brief.<end_of_turn>\n<start_of_turn>user\n", 1)
    assert closed != text
    assert decode_text(tokenizer("gemma3"), one_by_one("gemma3", WORDS, "Be brief.", [])) == closed


def test_a_template_without_system_role_hears_it_as_a_user() -> None:
    told = "<bos><start_of_turn>user\nBe brief.<end_of_turn>\n"
    assert decode_text(tokenizer("gemma"), chat("gemma").head("Be brief.", [])) == told
    assert decode_text(tokenizer("gemma"), chat("gemma").message("system", "Hm.")) == (
        "<start_of_turn>user\nHm.<end_of_turn>\n"
    )


@pytest.mark.parametrize(
    ("family", "before"),
    [("qwen3", "<|im_start|>system\n"), ("qwen3_5", "<|im_start|>user\n"), ("nemotron", "<SPECIAL_11>User\n")],
)
def test_a_system_message_in_the_middle(family: str, before: str) -> None:
    text = decode_text(tokenizer(family), chat(family).message("system", "New rules."))
    assert text.startswith(before + "New rules.")


def test_each_tool_result_is_a_turn_of_its_own() -> None:
    spoken = chat("qwen3", True)
    ids = [*spoken.message("tool", "one"), *spoken.message("tool", "two")]
    turn = "<|im_start|>user\n<tool_response>\n{}\n</tool_response><|im_end|>\n"
    assert decode_text(tokenizer("qwen3"), ids) == turn.format("one") + turn.format("two")


# The head


@pytest.mark.parametrize("family", WITH_TOOLS)
def test_the_head_holds_what_is_asked_for(family: str) -> None:
    spoken = chat(family)
    heads = {
        (system, bool(tools)): decode_text(spoken.tokenizer, spoken.head(system, tools))
        for system in (None, "Be brief.")
        for tools in ([], TOOLS)
    }
    for (system, tools), text in heads.items():
        assert ("Be brief." in text, "look_up" in text) == (bool(system), tools)
    assert spoken.head("", []) == spoken.head(None, [])
    assert chat(family, True).head(None, []) == spoken.head(None, [])


def test_words_of_the_template_at_the_head() -> None:
    assert chat("qwen3").head(None, []) == []
    assert decode_text(tokenizer("gemma"), chat("gemma").head(None, [])) == "<bos>"
    assert "You are a careful helper." in decode_text(tokenizer("granite"), chat("granite").head(None, []))
    dated = TemplateChat(tokenizer("llama3"), {"date_string": "26 Jul 2024"})
    assert "Today Date: 26 Jul 2024\n" in decode_text(tokenizer("llama3"), dated.head(None, []))


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_beginning_token_is_at_the_head_alone(family: str) -> None:
    bos = tokenizer(family).bos_token_id
    ids = one_by_one(family, WORDS, "Be brief.", [])
    assert bos is None or [place for place, i in enumerate(ids) if i == bos] == [0]


def test_tools_that_a_template_leaves_out() -> None:
    with pytest.raises(UnsupportedModel, match=r"leaves out tools.*tokenizer\.chat_template"):
        chat("gemma").head(None, TOOLS)


@pytest.mark.parametrize("tool", [{}, {"function": {}}, {"type": "function"}, {"function": {"name": 3}}])
def test_tools_that_a_template_cannot_write(tool: dict[str, Any]) -> None:
    listed = "{% for tool in tools or [] %}{{ '[' + tool.function.name + ']' }}{% endfor %}"
    plain = "{% for m in messages %}{{ '<|im_start|>' + m.role + ':' + m.content + '<|im_end|>' }}{% endfor %}"
    spoken = TemplateChat(new_tokenizer(listed + plain, eos="<|im_end|>"))
    assert "[look_up]" in decode_text(spoken.tokenizer, spoken.head(None, TOOLS))
    with pytest.raises(InputError, match=r"does not write these tools.*must be of the form"):
        spoken.head(None, [tool])


@pytest.mark.parametrize("blank", [" ", "\n\t"])
def test_blank_messages(blank: str) -> None:
    with pytest.raises(EmptyMessage, match="system message has no text"):
        chat("qwen3").head(blank, [])
    for role in ("user", "assistant", "tool", "system"):
        with pytest.raises(EmptyMessage, match=f"a {role} message has no text"):
            chat("qwen3").message(role, blank)  # type: ignore[arg-type]


def test_unknown_roles() -> None:
    with pytest.raises(InputError, match=r"role 'ipython' is none of \['assistant', 'system', 'tool', 'user'\]"):
        chat("llama3").message("ipython", "hello")  # type: ignore[arg-type]


# End, prompt and what stands between turns


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_prompt_answer_end_and_close_are_the_assistants_turn(family: str) -> None:
    for tools in (False, True)[: 1 + (family in WITH_TOOLS)]:
        spoken = chat(family, tools)
        turn = spoken.message("assistant", "noted")
        assert turn[len(turn) - len(spoken.close) - 1 :] == [spoken.end, *spoken.close]
        if family not in ("qwen3_5", "nemotron"):  # whose prompts open a thought, which is not past yet
            assert turn[: len(spoken.prompt())] == spoken.prompt()
    ends = {"qwen3": "<|im_end|>", "nemotron": "<SPECIAL_12>", "mistral": "</s>", "gemma": "<end_of_turn>"}
    if family in ends:
        assert spoken.tokenizer.convert_ids_to_tokens(spoken.end) == ends[family]


def test_turns_may_depend_on_whether_there_are_tools() -> None:
    assert decode_text(tokenizer("falcon"), chat("falcon").close) == "\n"
    assert chat("falcon", True).close == []
    assert chat("falcon", True).with_tools([]).close == chat("falcon").close


def test_variables_of_the_template() -> None:
    for family in ("qwen3", "qwen3_5"):
        still = TemplateChat(tokenizer(family), {"enable_thinking": False})
        assert decode_text(tokenizer(family), still.prompt()) == "<|im_start|>assistant\n<think>\n\n</think>\n\n"


# Templates that cannot be used


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ raise_exception('no chats today') }}", "no chats today"),
        (
            "{% for m in messages %}{{ m.role }}{% endfor %}",
            "leaves out, repeats or moves the content of a user message",
        ),
        ("{% for m in messages %}{{ m.content + m.content }}{% endfor %}", "leaves out, repeats or moves"),
        ("{% for m in messages | reverse %}{{ m.content }}|{% endfor %}", "moves the content"),
        (
            "{% for m in messages %}<{{ m.content }}{{ '>!' if loop.last else '>' }}{% endfor %}",
            "ends a user turn otherwise",
        ),
        ("{% for m in messages %}<{{ m.content | replace('\n', ' ') }}>{% endfor %}", "rewrites a content"),
        ("{% for m in messages %}<{{ loop.index }}:{{ m.content }}>{% endfor %}", "differently from one place"),
        ("{{ messages | missing }}", "missing"),
    ],
)
def test_templates_that_cannot_be_used(source: str, why: str) -> None:
    with pytest.raises(UnsupportedModel, match=why) as raised:
        TemplateChat(new_tokenizer(source, eos="<|im_end|>"))
    assert "set tokenizer.chat_template" in str(raised.value)


def test_a_template_that_rewrites_for_the_prompt() -> None:
    source = "{{ 'P' if add_generation_prompt else '' }}{% for m in messages %}<{{ m.content }}>{% endfor %}"
    with pytest.raises(UnsupportedModel, match="rewrites the conversation to add a prompt"):
        TemplateChat(new_tokenizer(source, eos="<|im_end|>"))


def test_a_turn_without_an_end_token() -> None:
    source = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(UnsupportedModel, match=r"no eos_token.*set tokenizer\.eos_token"):
        TemplateChat(new_tokenizer(source))
    spoken = TemplateChat(new_tokenizer(source, eos="<|im_end|>"))
    assert spoken.end == spoken.tokenizer.eos_token_id
    assert decode_text(spoken.tokenizer, spoken.close) == "\n"


def test_roles_that_a_template_lacks() -> None:
    with pytest.raises(UnsupportedModel, match=r"no tool turn.*must alternate"):
        chat("gemma").message("tool", "found")
    with pytest.raises(UnsupportedModel, match="no call turn"):
        chat("gemma").call(LOOK)


def test_a_template_for_tools_of_its_own() -> None:
    named = {"default": template("gemma"), "tool_use": template("mistral")}
    special = (*FAMILIES["gemma"][0], *FAMILIES["mistral"][0])
    both = TemplateChat(new_tokenizer(named, special, (), "<bos>", "</s>"))  # type: ignore[arg-type]
    assert "<start_of_turn>user" in decode_text(both.tokenizer, both.message("user", "hi"))
    assert "[INST] hi[/INST]" in decode_text(both.tokenizer, both.with_tools(TOOLS).message("user", "hi"))
