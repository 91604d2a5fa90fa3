"""Sleeps as LangChain's custom events: ``sleep_started`` and ``sleep_finished``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterator
from contextlib import aclosing, closing, contextmanager
from contextvars import ContextVar
from dataclasses import asdict
from typing import Any, TypeVar, cast

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForLLMRun,
    CallbackManager,
    CallbackManagerForLLMRun,
    Callbacks,
    adispatch_custom_event,
    dispatch_custom_event,
)
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config
from langchain_core.utils.uuid import uuid7

from agentsleep.memory import SleepFinished, SleepStarted

T = TypeVar("T")
Told = SleepStarted | SleepFinished
Tell = Callable[[Told], None]


_running: ContextVar[RunnableConfig | None] = ContextVar("langchain_agentsleep_running", default=None)


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
    """A config whose events belong to the run of a model; without one, to that which :func:`running` tells."""
    if run is None:
        return _running.get()
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


@contextmanager
def running(config: RunnableConfig | None) -> Iterator[None]:
    """In here models belong to this run: LangChain does not tell it to ``_stream`` and ``_astream``."""
    token = _running.set(config)
    try:
        yield
    finally:
        _running.reset(token)


def identified(
    config: RunnableConfig | None, own: Callbacks, kind: type[CallbackManager | AsyncCallbackManager]
) -> tuple[RunnableConfig, RunnableConfig]:
    """A config that says under which id a model's run will go, and one whose events belong to that run.

    Args:
        own: callbacks of the model.
    """
    config = ensure_config(config)
    run_id = config.get("run_id") or uuid7()
    manager = kind.configure(config.get("callbacks"), own)
    manager.parent_run_id = run_id
    return {**config, "run_id": run_id}, RunnableConfig(callbacks=manager)


def streamed(chunks: Iterator[T], config: RunnableConfig) -> Iterator[T]:
    """The chunks of a model's stream, which begins within the run that a config tells."""
    with closing(cast("Generator[T]", chunks)) as stream:
        with running(config):
            first = next(stream, None)
        if first is not None:
            yield first
            yield from stream


async def astreamed(chunks: AsyncIterator[T], config: RunnableConfig) -> AsyncIterator[T]:
    """The same for asyncio."""
    async with aclosing(cast("AsyncGenerator[T]", chunks)) as stream:
        with running(config):
            first = await anext(stream, None)
        if first is not None:
            yield first
            async for chunk in stream:
                yield chunk
