"""What a chat template writes in front of a conversation: the system message and the tools, together."""

from __future__ import annotations

from collections.abc import Sequence

from agentsleep.chats.controls import Controls, Part
from agentsleep.chats.turns import REMEDY, Manner, Message, Refused, Renderer, Turn
from agentsleep.chats.values import ToolSchema
from agentsleep.errors import InputError, UnsupportedModel


class NoSystem(Exception):
    """The template takes no system message."""


def head(
    renderer: Renderer, controls: Controls, user: Turn, system: str | None, tools: Sequence[ToolSchema]
) -> list[Part]:
    """The text that stands in front of the first message.

    Args:
        user: the user's turn in the middle of a conversation.

    Raises:
        NoSystem: there is a system message, and the template has no place for it.
        InputError: the template does not write these tools.
        UnsupportedModel: it writes no tools at all, or no head that ends before the first message.
    """
    schemas, found = controls.shield([dict(tool) for tool in tools])
    slot, messages, manner = controls.slot("system"), [renderer.said("user")], Manner()
    if system:
        try:
            manner = renderer.system(bool(tools))
        except Refused:
            raise NoSystem from None
        messages.insert(0, {"role": "system", "content": slot})
    text = _before_first(_render(renderer, messages, schemas), renderer.slot(0), user)
    before, _, after = text.partition(slot)
    said = [Part(manner.write(system), True)] if system else []
    return [*controls.parts(before, found), *said, *controls.parts(after, found)]


def _render(renderer: Renderer, messages: list[Message], schemas: Sequence[ToolSchema]) -> str:
    """The head and the first user turn."""
    try:
        text = renderer.render(messages, schemas)
    except Refused as refused:
        raise InputError(
            f"the chat template does not write these tools: {refused}; each must be of the form "
            '{"type": "function", "function": {"name": ..., "description": ..., "parameters": {...}}}'
        ) from refused
    if schemas and text == renderer.render(messages):
        raise UnsupportedModel(
            "the chat template leaves out tools, so the model would not know of them; offer none, or set "
            "tokenizer.chat_template to one that writes them"
        )
    return text


def _before_first(text: str, slot: str, user: Turn) -> str:
    """What stands in front of the first user turn. A turn that has also taken in what belongs to the head is closed
    behind that."""
    head = text[: text.index(slot)]
    if head.endswith(user.before):
        return head.removesuffix(user.before)
    if user.before.endswith(head):
        return ""
    if user.before.strip() in head:
        return head.rstrip() + user.after
    raise UnsupportedModel(
        f"the chat template begins the first user turn with {head[-80:]!r} and others with {user.before!r}; {REMEDY}"
    )
