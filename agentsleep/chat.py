"""Messages as tokens: rendered once, one after the other, never again.

The library's own chat format has one marker a turn: ``<|user|> text<|end|>``. A tool call is JSON behind its own
marker: ``<|assistant|><|call|>{"name": ..., "arguments": {...}}<|end|>``. Content is encoded apart from the markers, so
no text can forge a turn. Other checkpoints bring a chat template, see :mod:`agentsleep.chats`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from agentsleep import tokens
from agentsleep.chats import (
    CallForm,
    CallMarkers,
    ChatFormat,
    Reply,
    Role,
    TemplateChat,
    TextForm,
    ToolCall,
    ToolSchema,
)
from agentsleep.errors import EmptyMessage, InputError

__all__ = ["CHAT_TEMPLATE", "Chat", "ChatFormat", "Reply", "Role", "TemplateChat", "ToolCall", "chat_of"]

_MARKERS: dict[str, str] = {
    "system": tokens.SYSTEM,
    "user": tokens.USER,
    "assistant": tokens.ASSISTANT,
    "tool": tokens.TOOL,
}

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|' + message.role + '|>' -}}"
    "{%- if message.tool_calls -%}"
    "{%- for call in message.tool_calls -%}"
    "{{- '<|call|>{\"name\": ' + (call.function.name | tojson) + ', \"arguments\": '"
    " + (call.function.arguments | tojson) + '}' -}}"
    "{%- endfor -%}"
    "{%- else -%}{{- ' ' + message.content -}}{%- endif -%}"
    "{{- '<|end|>' -}}"
    "{%- if tools and loop.first and message.role == 'system' -%}{{ tool_list() }}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)
_TOOL_LIST = (
    "{%- macro tool_list() -%}<|tools|>{%- for tool in tools -%}"
    "{{- ' ' + tool.function.name + '(' + (tool.function.parameters.properties | list | join(', ')) + ')' -}}"
    "{%- endfor -%}<|end|>{%- endmacro -%}"
    "{%- if tools and (not messages or messages[0].role != 'system') -%}{{ tool_list() }}{%- endif -%}"
)
CHAT_TEMPLATE = _TOOL_LIST + CHAT_TEMPLATE


class Chat:
    """The library's own format, for one tokenizer: each message is as it stands, thoughts are not known."""

    drops_thoughts = False

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        known = tokenizer.get_vocab()
        missing = [marker for marker in tokens.SPECIAL_TOKENS if marker not in known]
        if missing:
            raise InputError(f"the tokenizer lacks the markers {missing}; use one made by agentsleep.tokens")
        self._ids: dict[str, int] = {marker: known[marker] for marker in tokens.SPECIAL_TOKENS}
        self.end = self._ids[tokens.END]
        self.close: list[int] = []
        self._call = self._ids[tokens.CALL]

    def with_tools(self, tools: Sequence[ToolSchema]) -> Chat:
        """The same: turns do not depend on the tools on offer."""
        return self

    def head(self, system: str | None, tools: Sequence[ToolSchema]) -> list[int]:
        """What stands at the head of every window: the system message, then the tools, either of them or none.

        Raises:
            EmptyMessage: a system message of blanks.
            KeyError, TypeError: a tool without name or parameters.
        """
        return [*(self.message("system", system) if system else []), *self.tools(tools)]

    def message(self, role: Role, text: str) -> list[int]:
        """A whole turn.

        Raises:
            EmptyMessage: no text.
            InputError: an unknown role.
        """
        if role not in _MARKERS:
            raise InputError(f"role {role!r} is none of {sorted(_MARKERS)}")
        if not text or not text.strip():
            raise EmptyMessage(f"a {role} message has no text ({text!r}); leave it out or give it some")
        return [self._ids[_MARKERS[role]], *tokens.encode_text(self.tokenizer, f" {text}"), self.end]

    def call(self, call: ToolCall) -> list[int]:
        """An assistant's turn that calls a tool."""
        body = tokens.encode_text(self.tokenizer, call.to_json())
        return [*self.prompt(), self._call, *body, self.end]

    def tools(self, schemas: Sequence[ToolSchema]) -> list[int]:
        """The list of tools, from their JSON schemas (``{"function": {"name", "parameters"}}``); empty for none."""
        if not schemas:
            return []
        signatures = [
            f" {s['function']['name']}({', '.join(s['function']['parameters']['properties'])})" for s in schemas
        ]
        body = tokens.encode_text(self.tokenizer, "".join(signatures))
        return [self._ids[tokens.TOOLS], *body, self.end]

    def prompt(self) -> list[int]:
        """What the model continues with its answer."""
        return [self._ids[tokens.ASSISTANT]]

    def text_form(self) -> TextForm:
        """What the model writes around an answer in words: the blank behind the marker."""
        return TextForm((" ",))

    def call_form(self) -> CallForm:
        """What the model writes around a tool call; there is one a turn."""
        return CallForm((self._call, '{"name": "'), ('", "arguments": ',), ("}",))

    @property
    def call_markers(self) -> CallMarkers:
        """What makes a turn be read as a call."""
        return CallMarkers(frozenset({self._call}))

    def _body(self, ids: Sequence[int]) -> list[int]:
        return list(ids[:-1]) if ids and ids[-1] == self.end else list(ids)

    def text(self, ids: Sequence[int]) -> str:
        """All that a turn says. The blank behind the marker belongs to the format."""
        return tokens.decode_text(self.tokenizer, self._body(ids)).removeprefix(" ")

    def shown(self, ids: Sequence[int]) -> str:
        """The text of a turn that is still being written, as far as it is certain; a call is none."""
        return "" if ids and ids[0] == self._call else self.text(ids).rstrip("\ufffd")

    def parse(self, ids: Sequence[int]) -> Reply:
        """A generated turn, with or without its end marker. A malformed call becomes text and a warning."""
        body = self._body(ids)
        if not body or body[0] != self._call:
            return Reply(self.text(ids))
        text = tokens.decode_text(self.tokenizer, body[1:])
        try:
            call = json.loads(text)
            name, arguments = call["name"], call["arguments"]
            if not isinstance(name, str) or not isinstance(arguments, dict):
                raise TypeError("name must be a string and arguments an object")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            return Reply(text, warning=f"malformed tool call ({error!r}): {text!r}")
        return Reply("", ToolCall(name, arguments))

    def without_thought(self, ids: Sequence[int]) -> list[int]:
        """The turn as it is."""
        return list(ids)


def chat_of(tokenizer: PreTrainedTokenizerBase) -> Chat | TemplateChat:
    """The chat format of a tokenizer: the library's own where it has its markers, else its chat template's.

    Raises:
        InputError: it has neither, or it is no fast tokenizer.
        UnsupportedModel: its template cannot be used one message at a time.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"the tokenizer is a {type(tokenizer).__name__}; a fast one is needed, which has a tokenizer.json"
        )
    if set(tokens.SPECIAL_TOKENS) <= tokenizer.get_vocab().keys():
        return Chat(tokenizer)
    if tokenizer.chat_template:
        return TemplateChat(tokenizer)
    raise InputError(
        "the tokenizer has no chat template, so it is not known how its model reads a conversation; set "
        "tokenizer.chat_template to the one of its instruction-tuned version, or use such a checkpoint"
    )
