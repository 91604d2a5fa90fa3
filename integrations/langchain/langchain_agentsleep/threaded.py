"""A chat model that knows its thread: what the config says is handed down to where the answer is made."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.config import ensure_config

from agentsleep.archive import Scope
from langchain_agentsleep.events import astreamed, identified, running, streamed, within
from langchain_agentsleep.scopes import scope_of


class ThreadedChatModel(BaseChatModel):
    """LangChain does not hand the config down to ``_generate`` and its like: the thread goes along as an option,
    ``scope``, and the run as a context, to which sleeps are told."""

    user: str = "default"
    """Whose memory it is, where the config has no ``user_id``."""
    tenant: str = "default"
    """Of the user, where the config has no ``tenant_id``."""

    def invoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """The answer to a list of messages."""
        return super().invoke(input, config, stop=stop, **self._scoped(config, kwargs))

    async def ainvoke(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AIMessage:
        """The answer to a list of messages."""
        return await super().ainvoke(input, config, stop=stop, **self._scoped(config, kwargs))

    def stream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> Iterator[AIMessageChunk]:
        """The answer as it is written."""
        config, told = identified(config, self.callbacks, CallbackManager)
        return streamed(super().stream(input, config, stop=stop, **self._scoped(config, kwargs)), told)

    def astream(
        self,
        input: LanguageModelInput,
        config: RunnableConfig | None = None,
        *,
        stop: list[str] | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[AIMessageChunk]:
        """The answer as it is written."""
        config, told = identified(config, self.callbacks, AsyncCallbackManager)
        return astreamed(super().astream(input, config, stop=stop, **self._scoped(config, kwargs)), told)

    def _generate_with_cache(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with running(within(run_manager)):
            return super()._generate_with_cache(messages, stop, run_manager, **kwargs)

    async def _agenerate_with_cache(
        self, messages: list[BaseMessage], stop: list[str] | None = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        with running(within(run_manager)):
            return await super()._agenerate_with_cache(messages, stop, run_manager, **kwargs)

    def _scoped(self, config: RunnableConfig | None, options: Mapping[str, Any]) -> dict[str, Any]:
        scope = scope_of(ensure_config(config), self.user, self.tenant)
        return {**options} if scope is None else {"scope": scope, **options}

    def _scope(self, options: Mapping[str, Any]) -> Scope | None:
        """The thread of a call of ``_generate`` and its like."""
        return options.get("scope") or scope_of(ensure_config(), self.user, self.tenant)
