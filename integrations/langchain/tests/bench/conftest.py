"""The shipped model, and its tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from langchain_core.messages import BaseMessage

from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep.bench.arms import size_of

Count = Callable[[list[BaseMessage]], int]


@pytest.fixture(scope="session")
def shipped() -> Iterator[SleepMemory]:
    """nap-mini; it sleeps only when it must."""
    with SleepMemory(archive=":memory:", policy=SleepPolicy(trigger=None, passes=4)) as memory:
        yield memory


@pytest.fixture(scope="session")
def count(shipped: SleepMemory) -> Count:
    """Tokens of messages."""
    return lambda messages: size_of(shipped.chat, messages)
