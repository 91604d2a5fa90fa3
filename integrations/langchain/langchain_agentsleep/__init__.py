"""LangChain and LangGraph agents whose chat model sleeps: a memory inside the network, archived in SQL."""

from __future__ import annotations

from langchain_agentsleep.chat_model import ChatSleep
from langchain_agentsleep.errors import AmbiguousHistory, UnsupportedMessage
from langchain_agentsleep.middleware import SleepMiddleware, SleepState
from langchain_agentsleep.threads import Handle

__all__ = ["AmbiguousHistory", "ChatSleep", "Handle", "SleepMiddleware", "SleepState", "UnsupportedMessage"]
