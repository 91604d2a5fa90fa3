"""What every chat format can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from transformers import PreTrainedTokenizerFast

from agentsleep.chats.forms import CallForm, CallMarkers, TextForm
from agentsleep.chats.values import Reply, Role, ToolCall, ToolSchema


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
