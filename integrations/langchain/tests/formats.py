"""Chat formats of many families, with tokenizers made here, and a model that says anything at random."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers
from tokenizers.models import BPE, WordPiece
from transformers import LogitsProcessor, PreTrainedTokenizerFast

from agentsleep.chat import ChatFormat, chat_of
from agentsleep.chats import TemplateChat
from agentsleep.tasks import rota

_CORE = Path(__file__).parents[3] / "tests" / "chats" / "families.py"
_spec = importlib.util.spec_from_file_location("families", _CORE)
assert _spec is not None
assert _spec.loader is not None
families = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(families)

TOOLS: list[dict[str, Any]] = families.TOOLS
FAMILIES = [*families.WITH_TOOLS, "own", "metaspace"]


@cache
def metaspace() -> PreTrainedTokenizerFast:
    """A tokenizer such as Llama 2's: a mark for spaces, bytes for what it has no token for; Mistral's tokens."""
    special, _, bos, eos = families.FAMILIES["mistral"]
    letters = [chr(code) for code in range(0x21, 0x7F) if chr(code) not in "%~"]
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters, "▁t", "he", "▁the", '"}']
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ('"', "}")]
    vocabulary = {piece: place for place, piece in enumerate(pieces)}
    backend = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]  # type: ignore[list-item]
    )
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=families.template("mistral"),
        clean_up_tokenization_spaces=False,
        bos_token=bos,
        eos_token=eos,
        unk_token="<unk>",
    )


def wordpiece() -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens do not say which bytes they stand for."""
    backend = Tokenizer(WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.decoder = decoders.WordPiece()
    template = "{% for m in messages %}{{ '<' + m.role + '>' + m.content + '<|im_end|>' }}{% endfor %}"
    backend.add_special_tokens(["<|im_end|>", "<user>", "<assistant>", "<system>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, chat_template=template, eos_token="<|im_end|>")


@cache
def chat(family: str) -> ChatFormat:
    """The format of a family, in conversations with TOOLS."""
    if family == "own":
        return chat_of(rota.tokenizer())
    if family == "metaspace":
        return TemplateChat(metaspace()).with_tools(TOOLS)
    found: ChatFormat = families.chat(family, True)
    return found


def said(
    spoken: ChatFormat, guides: list[LogitsProcessor], most: int, seed: int, liked: dict[int, float] | None = None
) -> list[int]:
    """What a model says whose scores are random; its vocabulary is a little wider than the tokenizer's.

    Args:
        liked: what is added to the scores of tokens.
    """
    random = torch.Generator().manual_seed(seed)
    width = max(spoken.tokenizer.get_vocab().values()) + 8
    ids, written = spoken.prompt() or [0], list[int]()
    while len(written) < most and spoken.end not in written:
        scores = torch.randn(1, width, generator=random) * 4
        for token, more in (liked or {}).items():
            scores[0, token] += more
        for guide in guides:
            scores = guide(torch.tensor([[*ids, *written]]), scores)  # type: ignore[arg-type,assignment]
        written.append(int(scores[0].argmax()))
    return written
