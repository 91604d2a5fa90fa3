"""LangChain's standard integration tests, on ChatSleep."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests

from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep

MEMORY = SleepMemory(archive=":memory:", settings={"window": 448})


class TestChatSleep(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSleep

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"memory": MEMORY, "max_tokens": 60}
