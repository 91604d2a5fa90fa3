"""How many tokens messages are for a model behind an API: by its own tokenizer, by tiktoken, or approximately."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, MessageLikeRepresentation, convert_to_messages
from langchain_core.messages.utils import count_tokens_approximately

from agentsleep.errors import SettingsError
from langchain_agentsleep.chat_model import ChatSleep

if TYPE_CHECKING:
    import tiktoken

TokenCounter = Callable[[Iterable[MessageLikeRepresentation]], int]
"""As ``SummarizationMiddleware(token_counter=)`` and ``SleepMiddleware(token_counter=)`` take it."""
PER_MESSAGE = 3
"""Tokens around each message; ``tokens_per_message`` of OpenAI's cookbook, see :func:`tiktoken_counter`."""
PER_NAME = 1
"""Tokens around a name; the cookbook's ``tokens_per_name``."""
PER_REPLY = 3
"""Tokens that open the reply; the cookbook: "every reply is primed with <|start|>assistant<|message|>"."""
PER_IMAGE = 85
"""Of an image, whatever its size: OpenAI's price at low detail, which LangChain's approximate counter takes as well."""

_ROLES = {"human": "user", "ai": "assistant"}
_IMAGES = ("image", "image_url", "input_image")


def tiktoken_counter(encoding: str | tiktoken.Encoding) -> TokenCounter:
    """A counter for models behind an API: role, name, text and tool calls (name and JSON arguments) in tokens of an
    encoding, 3 more a message, 1 a name, 85 an image, and 3 for the reply. Control tokens that a text spells count as
    text. What the API adds besides, such as the tools on offer, and blocks of other kinds (audio, files) are not in it.

    The overheads are those of OpenAI's cookbook, "How to count tokens with tiktoken":
    https://github.com/openai/openai-cookbook/blob/main/examples/How_to_count_tokens_with_tiktoken.ipynb

    Args:
        encoding: an encoding, its name ("o200k_base"), or that of a model ("gpt-4o"). A name is looked up at once; its
            ranks are downloaded when they are not in tiktoken's cache.

    Raises:
        SettingsError: no such encoding or model, tiktoken is not installed, or the ranks could not be downloaded.
    """
    encode = (_fetched(encoding) if isinstance(encoding, str) else encoding).encode_ordinary
    return _by_text(lambda text: len(encode(text)))


def counter_for(model: BaseChatModel, encoding: str | tiktoken.Encoding | None = None) -> TokenCounter:
    """The most truthful counter for a model. The first of these that there is:

    1. the model's own tokenizer: that of :class:`ChatSleep` with its chat format, or the function that the model was
       given as ``custom_get_token_ids``;
    2. for a message that a model wrote, what its provider reported for it in ``usage_metadata``: the output's tokens,
       without those of the reasoning, which is not sent again;
    3. tiktoken, with ``encoding`` as of :func:`tiktoken_counter`;
    4. LangChain's approximation.

    Only a message's own part of the reported usage is taken: the total counts what stood before it at that time. A
    part of a list, or a list from which messages were removed since, would seem as long as the whole one was.

    Raises:
        As tiktoken_counter.
    """
    if isinstance(model, ChatSleep):
        return lambda messages: model.get_num_tokens_from_messages(convert_to_messages(messages))
    ids = model.custom_get_token_ids
    if ids is not None:
        return _by_text(lambda text: len(ids(text)))
    count = count_tokens_approximately if encoding is None else tiktoken_counter(encoding)

    def counted(messages: Iterable[MessageLikeRepresentation]) -> int:
        listed = convert_to_messages(messages)
        reported = [_reported(one) for one in listed]
        others = [one for one, known in zip(listed, reported, strict=True) if known is None]
        return sum(known + PER_MESSAGE for known in reported if known is not None) + count(others)

    return counted


def _reported(message: BaseMessage) -> int | None:
    """Tokens that a model wrote for this message, by its provider; None where it tells none."""
    usage = message.usage_metadata if isinstance(message, AIMessage) else None
    if usage is None:
        return None
    said = usage["output_tokens"] - usage.get("output_token_details", {}).get("reasoning", 0)
    return said if said > 0 else None


def _by_text(length: Callable[[str], int]) -> TokenCounter:
    def price(message: BaseMessage) -> int:
        count = PER_MESSAGE + length(_role(message))
        if message.name:
            count += PER_NAME + length(message.name)
        blocks = [message.content] if isinstance(message.content, str) else message.content
        for block in blocks:
            if isinstance(block, str):
                count += length(block)
            elif block.get("type") == "text":
                count += length(str(block.get("text") or ""))
            elif block.get("type") in _IMAGES:
                count += PER_IMAGE
        for call in message.tool_calls if isinstance(message, AIMessage) else ():
            count += length(call["name"]) + length(json.dumps(call["args"], ensure_ascii=False, default=str))
        return count

    def counted(messages: Iterable[MessageLikeRepresentation]) -> int:
        listed = convert_to_messages(messages)
        return sum(map(price, listed)) + PER_REPLY if listed else 0

    return counted


def _role(message: BaseMessage) -> str:
    return str(getattr(message, "role", None) or _ROLES.get(message.type, message.type))


def _fetched(name: str) -> tiktoken.Encoding:
    try:
        import tiktoken
    except ImportError:
        raise SettingsError(
            f"tiktoken is not installed, so {name!r} cannot be looked up; "
            "pip install 'langchain-agentsleep[tiktoken]', or leave the encoding out to count approximately"
        ) from None
    known = tiktoken.list_encoding_names()
    try:
        encoding = name if name in known else tiktoken.encoding_name_for_model(name)
    except KeyError:
        raise SettingsError(
            f"{name!r} is no encoding and no model that tiktoken knows; use one of {', '.join(known)}, or give a "
            "tiktoken.Encoding"
        ) from None
    try:
        return tiktoken.get_encoding(encoding)
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; bytes that fail their hash a ValueError
        raise SettingsError(
            f"the ranks of {encoding!r} could not be downloaded ({type(error).__name__}); call this once with the "
            "network at hand and TIKTOKEN_CACHE_DIR set to a folder that stays, or give a tiktoken.Encoding"
        ) from error
