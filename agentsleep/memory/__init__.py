"""SleepMemory and Session: what a user of agentsleep touches."""

from __future__ import annotations

from agentsleep.archive import default_archive
from agentsleep.memory.agent import Agent
from agentsleep.memory.aio import AsyncSession, AsyncSleepMemory, AsyncStream
from agentsleep.memory.memory import SleepMemory
from agentsleep.memory.session import Session
from agentsleep.memory.stream import Stream
from agentsleep.memory.toolbox import Tool, Toolbox
from agentsleep.memory.values import Answer, Position, SleepFinished, SleepStarted, Stats

__all__ = [
    "Agent",
    "Answer",
    "AsyncSession",
    "AsyncSleepMemory",
    "AsyncStream",
    "Position",
    "Session",
    "SleepFinished",
    "SleepMemory",
    "SleepStarted",
    "Stats",
    "Stream",
    "Tool",
    "Toolbox",
    "default_archive",
]
