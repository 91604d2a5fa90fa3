"""LangChain's messages as a session reads them, and a session's log as messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from agentsleep.archive import JSON, Event
from agentsleep.chat import Role, ToolCall
from langchain_agentsleep.errors import UnsupportedMessage

NO_OUTPUT = "(no output)"
"""What the model reads of a tool that returned nothing."""
METADATA = "langchain"
"""Under which an event of the log tells of the LangChain message that it comes from."""


def key_of(role: str, text: str, calls: Sequence[ToolCall] = ()) -> str:
    """A hash of what a message says."""
    said = blake2b(f"{role} {text}".encode(errors="surrogatepass"), digest_size=16)
    if calls:
        named = [[call.name, dict(call.arguments)] for call in calls]
        said.update(b"\0" + json.dumps(named, sort_keys=True, default=str).encode())
    return said.hexdigest()


@dataclass(frozen=True)
class Listed:
    """A message of the list that LangChain hands over."""

    role: Role
    text: str
    calls: tuple[ToolCall, ...] = ()
    id: str | None = None

    @cached_property
    def key(self) -> str:
        """A hash of what it says."""
        return key_of(self.role, self.text, self.calls)

    @property
    def asks(self) -> bool:
        """Whether an answer can follow it at once."""
        return self.role in ("user", "tool")

    @property
    def blank(self) -> bool:
        """Whether it says nothing."""
        return not self.calls and not self.text.strip()

    def metadata(self, part: int = 0, parts: int = 1) -> dict[str, JSON]:
        """What the log keeps of it. A message of several calls may take several turns: its ``parts``."""
        return {METADATA: {"id": self.id, "key": self.key, "part": part, "parts": parts}}


@dataclass(frozen=True)
class Logged:
    """A message of a session's log. key: None where its text is not there.

    start, stop: the seqs of its events.  end: tokens of the log up to its last one.
    asked: whether it was read as a question, which an answer follows at once.
    """

    key: str | None
    id: str | None
    start: int
    stop: int
    end: int
    blank: bool = field(default=False, repr=False)
    asked: bool = field(default=False, repr=False)


def listed(messages: Sequence[BaseMessage], *, naming: bool = False) -> tuple[str | None, list[Listed]]:
    """The system message at the head of a list, and the others. Those in which the assistant says nothing are left out.

    Args:
        naming: what is no text is named, as in ``(image)``, for a memory that listens to what another model can see.

    Raises:
        UnsupportedMessage: one of them holds something else than text, or is of an unknown kind.
    """
    count = next((i for i, one in enumerate(messages) if not isinstance(one, SystemMessage)), len(messages))
    system = "\n\n".join(text for one in messages[:count] if (text := text_of(one, naming)).strip())
    rest = [_listed(one, naming) for one in messages[count:]]
    return system or None, [one for one in rest if not (one.role in ("assistant", "system") and one.blank)]


def text_of(message: BaseMessage, naming: bool = False) -> str:
    """The text of a message; ``naming`` as of :func:`listed`.

    Raises:
        UnsupportedMessage: it holds something else.
    """
    if isinstance(message.content, str):
        return message.content
    texts = []
    for block in message.content:
        if isinstance(block, str):
            texts.append(block)
            continue
        kind = block.get("type")
        if kind == "text":
            texts.append(str(block.get("text", "")))
        elif kind in _SAID_ELSEWHERE:
            continue
        elif naming:
            texts.append(f"({kind})")
        else:
            raise UnsupportedMessage(
                f"a {message.type} message holds a block of type {kind!r}; the model reads text: leave the block out, "
                "or describe it in words"
            )
    return "".join(texts)


# In an assistant's message: calls are read from tool_calls, thoughts are not carried over.
_SAID_ELSEWHERE = {"tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call", "reasoning", "thinking"}


def _listed(message: BaseMessage, naming: bool) -> Listed:
    text = text_of(message, naming)
    match message:
        case HumanMessage():
            return Listed("user", text, id=message.id)
        case AIMessage():
            calls = tuple(ToolCall(call["name"], call["args"]) for call in message.tool_calls)
            return Listed("assistant", text, calls, message.id)
        case ToolMessage() | FunctionMessage():
            return Listed("tool", text if text.strip() else NO_OUTPUT, id=message.id)
        case SystemMessage():
            return Listed("system", text, id=message.id)
        case ChatMessage():
            role = {"user": "user", "human": "user", "assistant": "assistant", "ai": "assistant", "tool": "tool"}.get(
                message.role, message.role
            )
            if role in ("user", "assistant", "tool", "system"):
                return Listed(role, text, id=message.id)  # type: ignore[arg-type]
            raise UnsupportedMessage(
                f"a chat message has the role {message.role!r}; use one of user, assistant, tool, system"
            )
    raise UnsupportedMessage(f"a message is a {type(message).__name__}; use human, AI, tool and system messages")


def logged(events: Iterable[Event]) -> list[Logged]:
    """The messages of a stretch of a log that begins where no turn is open. To a turn that has no end, and to a message
    that was not read to its end, nothing is equal."""
    found: list[Logged] = []
    turn: list[Event] = []  # events of one turn
    group: list[tuple[Event, Mapping[str, Any]]] = []  # turns of one message
    for event in events:
        if event.kind != "tokens" or not event.token_ids:
            continue
        turn.append(event)
        if event.data.get("open"):
            continue
        about = _about(event)
        first, turn = turn[0], []
        parts = about.get("parts", 1)
        if parts > 1:
            follows = group and group[-1][1]["part"] + 1 == about["part"] and group[0][1]["key"] == about["key"]
            group = [*group, (first, about)] if follows else [(first, about)]
            if about["part"] + 1 < parts or len(group) != parts:
                found.append(_message(first, event, {**about, "key": None, "id": None}))
                continue
            found = found[: len(found) - (parts - 1)]
            first = group[0][0]
        group = []
        found.append(_message(first, event, about))
    if turn:
        found.append(_message(turn[0], turn[-1], {"key": None}))
    return [one for one in found if not one.blank]


def _about(event: Event) -> Mapping[str, Any]:
    metadata: Any = event.data.get("metadata") or {}
    about: Mapping[str, Any] = metadata.get(METADATA) or {}
    return about


def _message(first: Event, last: Event, about: Mapping[str, Any]) -> Logged:
    end = last.position + len(last.token_ids)
    calls: Any = last.data.get("calls", ())
    said: Any = last.data.get("said", last.text)
    key = about.get("key")
    if "key" not in about and said is not None:
        key = key_of(last.role or "", said, [ToolCall(**call) for call in calls])
    blank = last.role in ("assistant", "system") and said is not None and not said.strip() and not calls
    return Logged(key, about.get("id"), first.seq, last.seq + 1, end, blank, bool(last.data.get("asked")))
