"""LangChain and LangGraph agents whose chat model sleeps: a memory inside the network, archived in SQL."""

from __future__ import annotations

from langchain_agentsleep.branches import Handle
from langchain_agentsleep.chat_model import ChatSleep
from langchain_agentsleep.counters import counter_for, tiktoken_counter
from langchain_agentsleep.errors import AmbiguousHistory, UnsupportedMessage
from langchain_agentsleep.middleware import SleepMiddleware, SleepState
from langchain_agentsleep.tools import memory_tools

__all__ = [
    "AmbiguousHistory",
    "ChatSleep",
    "Handle",
    "SleepMiddleware",
    "SleepState",
    "UnsupportedMessage",
    "counter_for",
    "memory_tools",
    "tiktoken_counter",
]
