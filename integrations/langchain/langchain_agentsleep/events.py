"""Sleeps as LangChain's custom events: ``sleep_started`` and ``sleep_finished``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig

from agentsleep.memory import SleepFinished, SleepStarted

Told = SleepStarted | SleepFinished
Tell = Callable[[Told], None]


def name_of(told: Told) -> str:
    """Of the event."""
    return "sleep_started" if isinstance(told, SleepStarted) else "sleep_finished"


def teller(config: RunnableConfig | None) -> Tell:
    """Sends sleeps to whoever listens to a run. Where it has no callbacks, to nobody."""
    if config is None:
        return lambda told: None
    return lambda told: dispatch_custom_event(name_of(told), asdict(told), config=config)


def async_teller(config: RunnableConfig | None) -> Tell:
    """The same from a worker thread, for a run in the event loop that runs now; it is not waited for."""
    if config is None:
        return lambda told: None
    loop = asyncio.get_running_loop()

    def tell(told: Told) -> None:
        asyncio.run_coroutine_threadsafe(adispatch_custom_event(name_of(told), asdict(told), config=config), loop)

    return tell


def within(run: CallbackManagerForLLMRun | AsyncCallbackManagerForLLMRun | None) -> RunnableConfig | None:
    """A config whose events belong to the run of a model."""
    if run is None:
        return None
    kind: Any = AsyncCallbackManager if isinstance(run, AsyncCallbackManagerForLLMRun) else CallbackManager
    manager = kind(
        handlers=run.handlers,
        inheritable_handlers=run.inheritable_handlers,
        parent_run_id=run.run_id,
        tags=run.tags,
        inheritable_tags=run.inheritable_tags,
        metadata=run.metadata,
        inheritable_metadata=run.inheritable_metadata,
    )
    return RunnableConfig(callbacks=manager)
