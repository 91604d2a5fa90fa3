"""How many tokens messages are: by the model's own format, or by tiktoken for models behind an API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage

from agentsleep.chat import ChatFormat
from langchain_agentsleep.messages import listed


def count_messages(chat: ChatFormat, messages: Sequence[BaseMessage], tools: Sequence[Mapping[str, Any]] = ()) -> int:
    """Tokens of messages in a chat format: the head (system message and tools), every turn, and the prompt of the
    answer.

    Raises:
        UnsupportedMessage: a message that the model cannot read.  EmptyMessage: one without text.
    """
    system, said = listed(messages)
    chat = chat.with_tools(tools)
    count = len(chat.head(system, tools)) + len(chat.prompt())
    for one in said:
        turns = [chat.call(call) for call in one.calls] or [chat.message(one.role, one.text)]
        count += sum(map(len, turns))
    return count
