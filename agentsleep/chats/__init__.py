"""Chat formats: how messages become tokens and replies become messages, for checkpoints with a chat template."""

from __future__ import annotations

from agentsleep.chats.chatformat import ChatFormat
from agentsleep.chats.forms import CallForm, CallMarkers, Piece, Tags, TextForm
from agentsleep.chats.template import TemplateChat
from agentsleep.chats.values import Reply, Role, ToolCall, ToolSchema

__all__ = [
    "CallForm",
    "CallMarkers",
    "ChatFormat",
    "Piece",
    "Reply",
    "Role",
    "Tags",
    "TemplateChat",
    "TextForm",
    "ToolCall",
    "ToolSchema",
]
