"""LangChain's standard unit tests, on ChatSleep."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep


class TestChatSleep(ChatModelUnitTests):
    memory: SleepMemory

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def shipped(cls) -> Any:
        with SleepMemory(archive=":memory:") as cls.memory:
            yield

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSleep

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"memory": self.memory}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        """The environment says where the archive of the default memory lies: see test_chat_model.py."""
        return {"AGENTSLEEP_HOME": "/dev/null"}, self.chat_model_params, {"memory": self.memory}
