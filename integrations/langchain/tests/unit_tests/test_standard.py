"""LangChain's standard unit tests, on ChatSleep."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep

MEMORY = SleepMemory(archive=":memory:")


class TestChatSleep(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSleep

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"memory": MEMORY}
