"""The tokenizer of a closed English: one token a word or fixed phrase, bytes for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock

from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from agentsleep.errors import InputError

PAD, END, SYSTEM, TOOLS, USER, ASSISTANT, TOOL, CALL = SPECIAL_TOKENS = (
    "<|pad|>",
    "<|end|>",
    "<|system|>",
    "<|tools|>",
    "<|user|>",
    "<|assistant|>",
    "<|tool|>",
    "<|call|>",
)
_encoding = Lock()  # the switch below belongs to the tokenizer, which threads may share


def build_tokenizer(pieces: Sequence[str], chat_template: str) -> PreTrainedTokenizerFast:
    """A tokenizer whose vocabulary is the 256 bytes, ``pieces`` (text, spaces included) and the special tokens.

    A text is cut into the fewest tokens. What no piece covers becomes its UTF-8 bytes, so any text round-trips.
    """
    as_bytes = ByteLevel(add_prefix_space=False, use_regex=False)
    spelled = [as_bytes.pre_tokenize_str(piece)[0][0] for piece in pieces]
    vocabulary = list(dict.fromkeys([*sorted(ByteLevel.alphabet()), *spelled]))
    # Equal scores make the most probable segmentation the shortest one.
    tokenizer = Tokenizer(Unigram([(token, -1.0) for token in vocabulary], unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = as_bytes
    tokenizer.decoder = ByteLevelDecoder()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        chat_template=chat_template,
        clean_up_tokenization_spaces=False,
    )


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Token ids of plain text. Markers such as ``<|end|>`` inside it stay text: content cannot forge a turn.

    Raises:
        InputError: half of a surrogate pair, for which there is no UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"the text has no UTF-8 form ({error}); replace what stands there") from None
    backend = tokenizer.backend_tokenizer
    with _encoding:
        before, backend.encode_special_tokens = backend.encode_special_tokens, True
        try:
            ids: list[int] = backend.encode(text, add_special_tokens=False).ids
        finally:
            backend.encode_special_tokens = before
    return ids


def decode_text(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> str:
    """The text of ids, markers included; the inverse of :func:`encode_text`."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
