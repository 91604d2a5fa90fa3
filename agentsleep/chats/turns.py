"""The turns that a chat template writes, found as differences between its renderings of a fixed little conversation.

A template renders whole conversations. What it writes around one message is found by rendering a conversation whose
contents are slots, once whole and once up to each message, and cutting the whole where the shorter ones end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from agentsleep.chats.controls import Controls

Message = dict[str, Any]
Turned = Literal["user", "assistant", "tool", "call", "system"]
REMEDY = "set tokenizer.chat_template to one that writes each message in its place"
CALL_ID = "call00000"  # nine letters and digits, as Mistral's templates demand
_TOOL = "look"
STAND_IN_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": _TOOL,
        "description": "Looks.",
        "parameters": {"type": "object", "properties": {"at": {"type": "string", "description": "At what."}}},
    },
}
# Little conversations in which a turn is looked for, in the order in which they are tried.
_CHAINS: dict[Turned, tuple[tuple[Turned, ...], ...]] = {
    "user": (("user", "assistant", "user", "assistant", "user"),),
    "assistant": (("user", "assistant", "user", "assistant", "user"),),
    "tool": (("user", "call", "tool", "assistant", "user"), ("user", "assistant", "tool", "assistant", "user")),
    "call": (("user", "call", "tool", "assistant", "user"),),
    "system": (("user", "assistant", "system", "user"),),
}
_AWKWARD = '"é\n'


class Refused(Exception):
    """The template does not write what was asked of it; the message says how it behaves."""


@dataclass(frozen=True)
class Manner:
    """How a template writes a content.

    left, right: characters that it takes off at either end; None for all white space.
    quote: "raw", or how it escapes the content as JSON.
    """

    left: str | None = ""
    right: str | None = ""
    quote: Literal["raw", "json", "ascii"] = "raw"

    def write(self, text: str) -> str:
        """The content as it stands in the rendering."""
        text = text.lstrip(self.left) if self.left != "" else text
        text = text.rstrip(self.right) if self.right != "" else text
        return text if self.quote == "raw" else json.dumps(text, ensure_ascii=self.quote == "ascii")[1:-1]


@dataclass(frozen=True)
class Turn:
    """What a template writes before and after the content of a message, and how it writes the content."""

    before: str
    after: str
    manner: Manner = Manner()


def called(name: str, arguments: Any) -> Message:
    """An assistant's message with a tool call, as templates take it."""
    function = {"name": name, "arguments": arguments}
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": CALL_ID, "type": "function", "function": function}],
    }


class Renderer:
    """A chat template and the turns it writes.

    Args:
        variables: further variables of the template, such as ``enable_thinking`` or ``date_string``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerFast, controls: Controls, template: str, variables: dict[str, Any]
    ) -> None:
        self._tokenizer, self._controls = tokenizer, controls
        self._template, self._variables = template, variables
        self._turns: dict[tuple[Turned, bool], Turn | Refused] = {}
        self._systems: dict[bool, Manner | Refused] = {}

    def render(self, messages: Sequence[Message], tools: Sequence[Any] = (), *, prompt: bool = False) -> str:
        """The text of a conversation.

        Raises:
            Refused: the template raises.
        """
        try:
            text = self._tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                chat_template=self._template,
                add_generation_prompt=prompt,
                tokenize=False,
                **self._variables,
            )
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:
            raise Refused(f"it raises {type(error).__name__}: {error}") from error
        return str(text)

    def said(self, role: Turned, place: int = 0, content: str | None = None) -> Message:
        """A message of a little conversation; its content is the slot of its place, unless told otherwise."""
        text = self.slot(place) if content is None else content
        if role == "call":
            return called(_TOOL, {"at": text})
        return {"role": role, "content": text} | ({"tool_call_id": CALL_ID, "name": _TOOL} if role == "tool" else {})

    def slot(self, place: int) -> str:
        """The content of the message at this place of a little conversation."""
        return self._controls.slot(str(place))

    def turn(self, role: Turned, tools: bool) -> Turn:
        """What the template writes for a message in the middle of a conversation that offers tools, or none.

        Raises:
            Refused: there is no such turn, or it depends on what else is said.
        """
        key = (role, tools)
        if key not in self._turns:
            for chain in _CHAINS[role]:
                try:
                    self._turns[key] = self._find(role, chain, tools)
                    break
                except Refused as refused:
                    self._turns.setdefault(key, refused)
        found = self._turns[key]
        if isinstance(found, Refused):
            raise found
        return found

    def system(self, tools: bool) -> Manner:
        """How the template writes the content of a system message at the head.

        Raises:
            Refused: it writes none.
        """
        slot = self._controls.slot("system")

        def with_content(content: str) -> str:
            messages = [{"role": "system", "content": content}, self.said("user")]
            text = self.render(messages, [STAND_IN_TOOL] if tools else [])
            if slot not in text:
                raise Refused("it leaves out the system message")
            return text

        if tools not in self._systems:
            try:
                self._systems[tools] = self.manner(with_content, slot)
            except Refused as refused:
                self._systems[tools] = refused
        found = self._systems[tools]
        if isinstance(found, Refused):
            raise found
        return found

    def _find(self, role: Turned, chain: Sequence[Turned], tools: bool) -> Turn:
        offered = [STAND_IN_TOOL] if tools else []
        messages = [self.said(who, place) for place, who in enumerate(chain)]
        turns = self.cut(messages, offered)
        place = next(place for place, who in enumerate(chain) if who == role and place > 0)
        for other, who in enumerate(chain):
            if who == role and other > place and turns[other] != turns[place]:
                raise Refused(f"it writes {role} turns differently from one place of a conversation to another")
        if role == "call":
            return turns[place]

        def with_content(content: str) -> str:
            changed = [*messages]
            changed[place] = self.said(role, content=content)
            return self.render(changed, offered)

        found = turns[place]
        return Turn(found.before, found.after, self.manner(with_content, self.slot(place)))

    def cut(self, messages: Sequence[Message], tools: Sequence[Any]) -> list[Turn]:
        """The turns of a conversation of slots; the first one's ``before`` holds all that stands in front of it.

        Raises:
            Refused: a content is left out or repeated, or earlier turns end otherwise once others follow.
        """
        whole = self.render(messages, tools)
        turns: list[Turn] = []
        place = 0
        for i, message in enumerate(messages):
            slot, role = self.slot(i), message["role"]
            if whole.count(slot) != 1 or whole.index(slot) < place:
                raise Refused(f"it leaves out, repeats or moves the content of a {role} message")
            start = whole.index(slot)
            shorter = whole if i == len(messages) - 1 else self.render(messages[: i + 1], tools)
            after = shorter.rpartition(slot)[2] if slot in shorter else ""
            if slot not in shorter or not whole.startswith(after, start + len(slot)):
                raise Refused(f"it ends a {role} turn otherwise once another turn follows")
            turns.append(Turn(whole[place:start], after))
            place = start + len(slot) + len(after)
        return turns

    def manner(self, with_content: Callable[[str], str], slot: str) -> Manner:
        """How a content is written, found by writing awkward ones.

        Raises:
            Refused: the content does not come through.
        """
        before, _, after = with_content(slot).partition(slot)

        def written(content: str) -> str:
            text = with_content(content)
            if not (text.startswith(before) and text.endswith(after) and len(text) >= len(before) + len(after)):
                raise Refused("what it writes around a content depends on the content")
            return text[len(before) : len(text) - len(after)]

        awkward = written(slot + _AWKWARD + slot)
        for quote in ("raw", "json", "ascii"):
            if Manner(quote=quote).write(slot + _AWKWARD + slot) == awkward:
                break
        else:
            raise Refused(f"it rewrites a content: {_AWKWARD!r} becomes {awkward.replace(slot, '')!r}")
        sides = {white: written(f"{white}{slot}{white}").partition(slot) for white in "\n "}
        left, right = ("".join(w for w, parts in sides.items() if not parts[end]) for end in (0, 2))
        every = "\n "
        return Manner(None if left == every else left, None if right == every else right, quote)
