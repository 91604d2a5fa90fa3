"""What every chat format takes and gives."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from transformers import PreTrainedTokenizerFast

from agentsleep.chats.forms import CallForm, CallMarkers, TextForm

Role = Literal["system", "user", "assistant", "tool"]
ToolSchema: TypeAlias = Mapping[str, Any]  # {"type": "function", "function": {"name", "description", "parameters"}}


@dataclass(frozen=True)
class ToolCall:
    """A call that the model wrote."""

    name: str
    arguments: Mapping[str, Any]

    def to_json(self) -> str:
        """The call as JSON: ``{"name": ..., "arguments": {...}}``."""
        return json.dumps({"name": self.name, "arguments": dict(self.arguments)}, ensure_ascii=False)


@dataclass(frozen=True)
class Reply:
    """What the model answered.

    text: what it said besides calls and thoughts.
    call: the first of its calls.
    warning: why a call could not be read; the text then holds what was written.
    calls: all of its calls, in order.
    thought: what it wrote between its thinking markers; None for nothing.
    """

    text: str
    call: ToolCall | None = None
    warning: str | None = None
    calls: tuple[ToolCall, ...] = ()
    thought: str | None = None

    def __post_init__(self) -> None:
        if self.call is not None and not self.calls:
            object.__setattr__(self, "calls", (self.call,))
        if self.calls and self.call is None:
            object.__setattr__(self, "call", self.calls[0])


class ChatFormat(Protocol):
    """Renders messages to token ids, each once and for itself, and reads replies back."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """Whose ids these are."""

    @property
    def end(self) -> int:
        """The token that ends an assistant's turn."""

    @property
    def close(self) -> list[int]:
        """What stands between that token and the next turn. It is read, not written by the model."""

    @property
    def drops_thoughts(self) -> bool:
        """Whether the format leaves thoughts out of turns that are past, see :meth:`without_thought`."""

    def with_tools(self, tools: Sequence[ToolSchema]) -> ChatFormat:
        """This format in a conversation that offers these tools."""

    def head(self, system: str | None, tools: Sequence[ToolSchema]) -> list[int]:
        """What stands at the head of every window: the system message and the tools, either of them or none.

        Raises:
            EmptyMessage: a system message of blanks.
        """

    def message(self, role: Role, text: str) -> list[int]:
        """A whole turn.

        Raises:
            EmptyMessage: no text.
            InputError: an unknown role, or text that cannot be told from the format's own tokens.
        """

    def call(self, call: ToolCall) -> list[int]:
        """An assistant's turn that calls a tool."""

    def prompt(self) -> list[int]:
        """What the model continues with its answer."""

    def text_form(self) -> TextForm:
        """What the model writes around an answer in words, behind the prompt."""

    def call_form(self) -> CallForm:
        """What the model writes around tool calls, behind the prompt.

        Raises:
            UnsupportedModel: the format has no calls, or writes them in a way that no form describes.
        """

    @property
    def call_markers(self) -> CallMarkers:
        """What makes a turn be read as a call."""

    def text(self, ids: Sequence[int]) -> str:
        """All that a generated turn says, calls and thoughts as they were written, without its end."""

    def shown(self, ids: Sequence[int]) -> str:
        """What is certain of the answer's text while a turn is still being written: no thought, no call, no half of a
        character, nothing that could yet become one of them."""

    def parse(self, ids: Sequence[int]) -> Reply:
        """A generated turn, with or without its end token. A malformed call becomes text and a warning."""

    def without_thought(self, ids: Sequence[int]) -> list[int]:
        """A generated turn, prompt included, as it stands in the conversation once it is past."""
