"""Thoughts: read apart from the answer, and taken out of past turns as the template would."""

from __future__ import annotations

import pytest

from agentsleep.chats import Reply, TemplateChat, ToolCall
from agentsleep.errors import InputError
from agentsleep.tokens import decode_text
from tests.chats.families import TOOLS, chat, new_tokenizer, template, tokenizer

BOB = ToolCall("look_up", {"person": "bob"})
CALL = '<tool_call>\n{"name": "look_up", "arguments": {"person": "bob"}}\n</tool_call>'
DROPPING = ["qwen3", "qwen3_5", "nemotron"]


def written(family: str, text: str) -> list[int]:
    ids: list[int] = tokenizer(family)(text, add_special_tokens=False).input_ids
    return ids


def opened(family: str) -> str:
    """What the model itself writes to begin a thought."""
    return "<think>\n" if family == "qwen3" else ""


def turn(family: str, text: str) -> list[int]:
    spoken = chat(family)
    trail = "\n" if family == "nemotron" else ""
    return [*spoken.prompt(), *written(family, text + trail), spoken.end, *spoken.close]


@pytest.mark.parametrize("family", DROPPING)
def test_thoughts_are_read_apart(family: str) -> None:
    ids = written(family, f"{opened(family)}let me see\nmore\n</think>\n\nyes, bob")
    assert chat(family).parse(ids) == Reply("yes, bob", thought="let me see\nmore")
    assert chat(family).parse(written(family, f"{opened(family)}\n</think>\n\nyes")) == Reply("yes")


def test_a_thought_before_a_call() -> None:
    reply = chat("qwen3").parse(written("qwen3", f"<think>\nhm\n</think>\n\n{CALL}"))
    assert reply == Reply("", BOB, thought="hm")


def test_a_call_inside_a_thought_is_none() -> None:
    reply = chat("qwen3").parse(written("qwen3", f"<think>\n{CALL}\n</think>\n\nno"))
    assert reply.calls == ()
    assert reply.text == "no"
    assert reply.thought == CALL


def test_a_thought_that_does_not_end() -> None:
    for family, text in (("qwen3", "<think>\nlet me"), ("qwen3_5", "let me")):
        reply = chat(family).parse(written(family, text))
        assert (reply.text, reply.thought) == ("", "let me")
        assert "ends inside its thought" in (reply.warning or "")


def test_thoughts_of_a_model_whose_template_knows_none() -> None:
    assert chat("gemma").parse(written("gemma", "<think>hm</think>yes")) == Reply("yes", thought="hm")


@pytest.mark.parametrize("family", DROPPING)
def test_a_past_turn_is_as_the_template_writes_it(family: str) -> None:
    spoken = chat(family)
    assert spoken.drops_thoughts
    thinking = f"{opened(family)}let me see é\n</think>\n\nyes, bob"
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": thinking},
        {"role": "user", "content": "!"},
    ]
    text = str(tokenizer(family).apply_chat_template(messages, tokenize=False))
    ids = [
        *spoken.head(None, []),
        *spoken.message("user", "?"),
        *spoken.without_thought(turn(family, thinking)),
        *spoken.message("user", "!"),
    ]
    assert decode_text(tokenizer(family), ids) == text
    assert spoken.without_thought(turn(family, thinking)) == spoken.message("assistant", "yes, bob")


def test_past_calls_stay_as_they_were_written() -> None:
    spoken = chat("qwen3", True)
    odd = '<tool_call>{"arguments":{"person":"bob"},  "name":"look_up"}</tool_call>'
    ids = spoken.without_thought(turn("qwen3", f"<think>\nhm\n</think>\n\n{odd}"))
    assert decode_text(tokenizer("qwen3"), ids) == f"<|im_start|>assistant\n{odd}<|im_end|>\n"
    control = tokenizer("qwen3").convert_tokens_to_ids("<tool_call>")
    assert control in ids
    assert decode_text(tokenizer("qwen3"), spoken.call(BOB)) == f"<|im_start|>assistant\n{CALL}<|im_end|>\n"


def test_text_that_spells_a_token_stays_text() -> None:
    spoken = chat("qwen3")
    said = spoken.message("assistant", "<|im_end|>")[len(spoken.prompt()) :]
    ids = spoken.without_thought([*spoken.prompt(), *written("qwen3", "<think>\nhm</think>\n\n"), *said])
    assert ids == spoken.message("assistant", "<|im_end|>")


def test_turns_that_stay_as_they_are() -> None:
    for family, text in (("qwen3", "yes"), ("gemma", "<think>hm</think>yes"), ("falcon", "<think>hm</think>yes")):
        ids = turn(family, text)
        assert chat(family).without_thought(ids) == ids
    assert not chat("gemma").drops_thoughts
    assert not chat("falcon").drops_thoughts


def test_turns_that_were_cut_off() -> None:
    for family in DROPPING:
        spoken = chat(family)
        past = spoken.message("assistant", "x")
        empty = past[: past.index(*written(family, "x"))]
        whole = turn(family, f"{opened(family)}let me")
        assert spoken.without_thought(whole)[: len(empty)] == empty
        assert "let me" not in decode_text(spoken.tokenizer, spoken.without_thought(whole))
        no_end = [*spoken.prompt(), *written(family, f"{opened(family)}hm</think>yes")]
        assert decode_text(spoken.tokenizer, spoken.without_thought(no_end)).endswith("yes")
        assert "hm" not in decode_text(spoken.tokenizer, spoken.without_thought(no_end))


def test_a_thought_that_ends_inside_a_token() -> None:
    spoken = TemplateChat(new_tokenizer(template("qwen3"), eos="<|im_end|>", added=("</think>\n\nYes", " no")))
    ids = spoken.tokenizer("<think>hm</think>\n\nYes!<|im_end|>\n", add_special_tokens=False).input_ids
    past = spoken.without_thought([*spoken.prompt(), *ids])
    assert decode_text(spoken.tokenizer, past) == "<|im_start|>assistant\nYes!<|im_end|>\n"
    ids = spoken.tokenizer("<think>hm</think> no<|im_end|>", add_special_tokens=False).input_ids
    past = spoken.without_thought([*spoken.prompt(), *ids])
    assert decode_text(spoken.tokenizer, past) == "<|im_start|>assistant\nno<|im_end|>"


def test_an_empty_thought_of_the_prompt() -> None:
    for family in ("qwen3", "qwen3_5"):
        spoken = TemplateChat(tokenizer(family), {"enable_thinking": False})
        ids = written(family, "yes, bob<|im_end|>\n")
        assert spoken.parse(ids) == Reply("yes, bob")
        assert spoken.without_thought([*spoken.prompt(), *ids]) == spoken.message("assistant", "yes, bob")


def test_a_turn_of_somebody_else() -> None:
    with pytest.raises(InputError, match="not with the prompt"):
        chat("qwen3").without_thought(chat("qwen3").message("user", "hello"))


def test_thoughts_in_a_template_that_only_cuts_them_out_of_contents() -> None:
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.split('</think>')[-1].lstrip() }}"
        "{{ '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\n<think>\n' if add_generation_prompt else '' }}"
    )
    spoken = TemplateChat(new_tokenizer(source, eos="<|im_end|>"))
    assert spoken.drops_thoughts
    ids = [*spoken.prompt(), *spoken.tokenizer("hm</think>\n\nyes<|im_end|>", add_special_tokens=False).input_ids]
    assert spoken.without_thought(ids) == spoken.message("assistant", "yes")


def test_thoughts_with_other_markers() -> None:
    source = (
        "{# [THINK] [/THINK] #}{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{{ '[THINK]' + m.reasoning_content + '[/THINK]' if m.reasoning_content and loop.last else '' }}"
        "{{ m.content + '<|im_end|>' }}{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}"
    )
    spoken = TemplateChat(new_tokenizer(source, eos="<|im_end|>")).with_tools(TOOLS)
    ids = spoken.tokenizer("[THINK]hm[/THINK]yes", add_special_tokens=False).input_ids
    assert spoken.parse(ids) == Reply("yes", thought="hm")
    assert (
        decode_text(spoken.tokenizer, spoken.without_thought([*spoken.prompt(), *ids])) == "<|im_start|>assistant\nyes"
    )
