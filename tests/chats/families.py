"""Tokenizers of many families, made here: bytes, a few merges, the family's tokens, and a template like its own."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from agentsleep.chats import TemplateChat

_TEMPLATES = Path(__file__).parent / "templates"
_IM = ("<|im_start|>", "<|im_end|>")
_THINK = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
_ROLE = ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "<|tool_call|>")
_INST = ("[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]")
_HEADER = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|python_tag|>")
_TURN = ("<bos>", "<start_of_turn>", "<end_of_turn>")
_SPECIAL = ("<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>")

# Of each family: its special tokens, added tokens that are not special, the beginning and the end token.
FAMILIES: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None, str]] = {
    "qwen3": (_IM, _THINK, None, "<|im_end|>"),
    "qwen3_5": (_IM, _THINK, None, "<|im_end|>"),
    "granite": (_ROLE, (), None, "<|end_of_text|>"),
    "nemotron": (_SPECIAL, ("<think>", "</think>", "<TOOLCALL>"), None, "<SPECIAL_12>"),
    "falcon": (("<|begin_of_text|>", "<|system|>", *_IM), (), "<|begin_of_text|>", "<|im_end|>"),
    "mistral": (("<s>", "</s>", *_INST, "[/TOOL_RESULTS]"), (), "<s>", "</s>"),
    "gemma": ((*_TURN, "<eos>"), ("\n\n",), "<bos>", "<eos>"),
    "gemma3": ((*_TURN, "<eos>"), ("\n\n",), "<bos>", "<eos>"),
    "llama3": (_HEADER, (), "<|begin_of_text|>", "<|eot_id|>"),
}
WITH_TOOLS = [name for name in FAMILIES if not name.startswith("gemma")]
MERGES = [
    ("Ċ", "Ċ"),
    ("h", "e"),
    ("l", "l"),
    ("Ġ", "t"),
    ("Ġt", "he"),
    ("<", "|"),
    ("i", "m"),
    ("Ġ", "Ġ"),
    ("e", "r"),
    ("er", "Ċ"),
]


def template(family: str) -> str:
    return (_TEMPLATES / f"{family}.jinja").read_text()


def new_tokenizer(
    chat_template: str | None,
    special: tuple[str, ...] = _IM,
    added: tuple[str, ...] = (),
    bos: str | None = None,
    eos: str | None = None,
    **more: Any,
) -> PreTrainedTokenizerFast:
    alphabet = sorted(ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, *(a + b for a, b in MERGES)])}
    backend = Tokenizer(BPE(vocab, MERGES))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = ByteLevelDecoder()
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, special=False, normalized=False) for token in added])
    named = {"bos_token": bos, "eos_token": eos}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
        additional_special_tokens=list(special),
        **{name: token for name, token in named.items() if token},
        **more,
    )


@cache
def tokenizer(family: str) -> PreTrainedTokenizerFast:
    return new_tokenizer(template(family), *FAMILIES[family])


@cache
def chat(family: str, with_tools: bool = False) -> TemplateChat:
    made = TemplateChat(tokenizer(family))
    return made.with_tools(TOOLS) if with_tools else made


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Looks a person up.",
            "parameters": {
                "type": "object",
                "properties": {
                    "person": {"type": "string", "description": "Whom."},
                    "times": {"type": "integer"},
                    "exact": {"type": "boolean"},
                    "where": {"type": ["object", "null"]},
                    "ways": {"type": "array", "items": {"type": "string"}},
                    "share": {"anyOf": [{"type": "number"}, {"type": "null"}]},
                },
                "required": ["person"],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "now", "description": "The time.", "parameters": {"type": "object", "properties": {}}},
    },
]
