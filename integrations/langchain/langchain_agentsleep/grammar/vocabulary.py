"""A tokenizer as llguidance wants it: the bytes of each token, and which tokens are controls and spell nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from agentsleep.chat import ChatFormat
from agentsleep.errors import InputError


@dataclass(frozen=True)
class Vocabulary:
    """What grammars need of a tokenizer.

    guidance: llguidance's view of it; its end-of-sequence token is the one that ends a turn.
    spelt: the bytes of each token; control tokens spell none.
    lengths: of those, ``[vocab]``.
    controls: ids of the control tokens.
    end: the token that ends a turn.
    """

    guidance: LLTokenizer
    spelt: tuple[bytes, ...]
    lengths: NDArray[np.int32]
    controls: frozenset[int]
    end: int

    def __len__(self) -> int:
        return len(self.spelt)

    def allowed(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        """Which tokens a matcher takes next, ``[vocab]``."""
        bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
        return np.unpackbits(bits, count=len(self.spelt), bitorder="little").view(np.bool_)


_known: WeakKeyDictionary[PreTrainedTokenizerFast, dict[tuple[int, int], Vocabulary]] = WeakKeyDictionary()
_making = Lock()


def vocabulary_of(chat: ChatFormat) -> Vocabulary:
    """The vocabulary of a chat format's tokenizer; made once a tokenizer and end token, and kept as long as that lives.

    Raises:
        InputError: the tokenizer's tokens spell no bytes, so that no grammar can be asked of them.
    """
    tokenizer = chat.tokenizer
    with _making:
        made = _known.setdefault(tokenizer, {})
        key = (len(tokenizer), chat.end)
        if key not in made:
            made[key] = _make(tokenizer, chat.end)
        return made[key]


def _make(tokenizer: PreTrainedTokenizerFast, end: int) -> Vocabulary:
    added = tokenizer.added_tokens_decoder
    # Added white space (Gemma's) is text; all other added tokens are controls, special or not (Qwen's <tool_call>).
    controls = frozenset(i for i, token in added.items() if token.special or not token.content.isspace()) | {end}
    vocabulary = tokenizer.get_vocab()
    spell = _speller(tokenizer)
    spelt = [b""] * (max([*vocabulary.values(), *added]) + 1)
    for token, i in vocabulary.items():
        if i not in controls:
            spelt[i] = token.encode() if i in added else spell(token)
    return Vocabulary(
        LLTokenizer(TokenizerWrapper(_Tokens(tuple(spelt), controls, end, added))),
        tuple(spelt),
        np.array([len(one) for one in spelt], dtype=np.int32),
        controls,
        end,
    )


class _Tokens:
    """What llguidance asks of a tokenizer. It refers to none, so that nothing keeps the tokenizer alive."""

    bos_token_id = None

    def __init__(self, spelt: tuple[bytes, ...], controls: frozenset[int], end: int, added: dict[int, Any]) -> None:
        self.eos_token_id, self.special_token_ids = end, sorted(controls)
        self.tokens = list(spelt)
        for i in controls:  # a name alone: llguidance keeps the tokens named above apart from text
            self.tokens[i] = f"<{i}>".encode() if i not in added else added[i].content.encode()
        self._bytes = {one[0]: i for i, one in enumerate(spelt) if len(one) == 1}

    def __call__(self, text: bytes | str) -> list[int]:
        """Token ids of a text, a byte each. llguidance asks for them to go forward by itself, which is not used."""
        return [self._bytes[byte] for byte in (text.encode() if isinstance(text, str) else text) if byte in self._bytes]


def _speller(tokenizer: PreTrainedTokenizerFast) -> Any:
    """How a token's name becomes bytes, by the tokenizer's decoder."""
    decoder = tokenizer.backend_tokenizer.decoder
    parts = list(_parts(json.loads(decoder.__getstate__()))) if decoder is not None else []
    kinds = {part["type"] for part in parts}
    if "ByteLevel" in kinds:
        return _of_byte_level
    spaces = [part["replacement"] for part in parts if part["type"] == "Metaspace"]
    spaces += [
        part["pattern"].get("String", "") for part in parts if part["type"] == "Replace" and part["content"] == " "
    ]
    if not spaces or not spaces[0]:
        raise InputError(
            f"the tokenizer's decoder ({', '.join(sorted(kinds)) or 'none'}) does not say which bytes a token stands "
            "for; grammars need a byte-level tokenizer, or one with a mark for spaces: ask for no tool and no format"
        )
    space, fallback = spaces[0], "ByteFallback" in kinds

    def spell(token: str) -> bytes:
        if fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes([int(token[3:5], 16)])
        return token.replace(space, " ").encode()

    return spell


def _parts(decoder: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _parts(part)
    else:
        yield decoder


@cache
def _alphabet() -> dict[str, int]:
    """The letters of byte-level tokenizers: printable bytes of Latin-1 stand for themselves, the others for the code
    points from 256 on, in order (GPT-2's ``bytes_to_unicode``)."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = (byte for byte in range(256) if byte not in shown)
    return {chr(byte): byte for byte in shown} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


def _of_byte_level(token: str) -> bytes:
    alphabet = _alphabet()
    if all(letter in alphabet for letter in token):
        return bytes(alphabet[letter] for letter in token)
    return token.encode()
