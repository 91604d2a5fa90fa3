"""Agents that sleep.

Before its context window is evicted, an agent *sleeps*: the model reads the window a few more times without emitting
a token and consolidates it into its fast weights, which are archived in SQL and can be restored, forked and replayed.

    from agentsleep import SleepMemory

    memory = SleepMemory()
    with memory.session("thread-7") as session:
        session.add("tool", "bob hands over to alice .")
        session.sleep()

The names below are loaded on first use, so that `import agentsleep` costs nothing: torch comes with the first one
that needs it. What agentsleep raises on purpose is in `agentsleep.errors`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentsleep.memory import Answer, AsyncSession, AsyncSleepMemory, Session, SleepMemory, Stats
    from agentsleep.policy import SleepPolicy

__all__ = [
    "Answer",
    "AsyncSession",
    "AsyncSleepMemory",
    "Session",
    "SleepMemory",
    "SleepPolicy",
    "Stats",
    "__version__",
]

__version__ = "0.1.0"

_HOMES = {
    "Answer": "agentsleep.memory",
    "AsyncSession": "agentsleep.memory",
    "AsyncSleepMemory": "agentsleep.memory",
    "Session": "agentsleep.memory",
    "SleepMemory": "agentsleep.memory",
    "SleepPolicy": "agentsleep.policy",
    "Stats": "agentsleep.memory",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it exports {', '.join(__all__)}")
    value: object = getattr(import_module(home), name)
    globals()[name] = value  # the next look-up does not come here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
