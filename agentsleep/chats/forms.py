"""How a model writes behind its prompt: the text around an answer, and around tool calls, as values."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from agentsleep.chats.values import ToolCall

Piece: TypeAlias = str | int  # text, or the id of a control token


@dataclass(frozen=True)
class TextForm:
    """What a model writes around an answer in words.

    lead: between the prompt and the answer; a thought that the prompt has opened is closed here, empty.
    close: between the answer and the end token.
    """

    lead: tuple[Piece, ...] = ()
    close: tuple[Piece, ...] = ()


@dataclass(frozen=True)
class CallMarkers:
    """What makes a turn be read as a call.

    tokens: control tokens that begin one.
    texts: what begins one wherever it stands in the text, also if it is spelt in other tokens.
    bare: a regular expression for the beginning of a turn that is a call without any marker; None for no such turn.
    """

    tokens: frozenset[int] = frozenset()
    texts: tuple[str, ...] = ()
    bare: str | None = None


@dataclass(frozen=True)
class Tags:
    """Arguments one by one instead of a JSON object: ``before_key KEY before_value VALUE after_value`` each.

    A value that is a string stands there as it is, all others as JSON.
    """

    before_key: tuple[Piece, ...]
    before_value: tuple[Piece, ...]
    after_value: tuple[Piece, ...]


@dataclass(frozen=True)
class CallForm:
    """What a model writes around the names and the arguments of its tool calls:
    ``lead NAME middle ARGUMENTS (joint NAME middle ARGUMENTS)* close``, then the end token.

    lead: from the prompt on; a thought that the prompt has opened is closed here, empty.
    joint: from the arguments of one call to the name of the next; None where the format has one call a turn.
    separators: between the items of a JSON value, and behind its keys.
    tags: how arguments are written that are no JSON object.
    """

    lead: tuple[Piece, ...]
    middle: tuple[Piece, ...]
    close: tuple[Piece, ...]
    joint: tuple[Piece, ...] | None = None
    separators: tuple[str, str] = (", ", ": ")
    tags: Tags | None = None

    def name(self, name: str) -> str:
        """A tool's name as it stands in a call."""
        quoted = isinstance(self.lead[-1], str) and self.lead[-1].endswith('"') if self.lead else False
        return json.dumps(name, ensure_ascii=False)[1:-1] if quoted else name

    def json(self, value: Any) -> str:
        """A JSON value as it stands in a call."""
        return json.dumps(value, ensure_ascii=False, separators=self.separators)

    def write(self, calls: Sequence[ToolCall]) -> list[Piece]:
        """These calls (at least one) as a model writes them, without the end token."""
        pieces: list[Piece] = [*self.lead]
        for place, call in enumerate(calls):
            pieces += (self.joint or ()) if place else ()
            pieces += [self.name(call.name), *self.middle, *self._arguments(call)]
        return [*pieces, *self.close]

    def _arguments(self, call: ToolCall) -> Iterable[Piece]:
        if self.tags is None:
            yield self.json(dict(call.arguments))
            return
        for key, value in call.arguments.items():
            text = value if isinstance(value, str) else self.json(value)
            yield from (*self.tags.before_key, key, *self.tags.before_value, text, *self.tags.after_value)
