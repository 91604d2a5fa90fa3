"""LangChain's standard unit tests, on ChatSleep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.unit_tests import ChatModelUnitTests

from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep


class KeptIn:
    """Equal to a memory whose archive lies in a folder; closes it."""

    def __init__(self, home: Path) -> None:
        self.home = home

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, memory: object) -> bool:
        assert isinstance(memory, SleepMemory)
        memory.close()
        return memory.archive.path == self.home / "memory.db"


class TestChatSleep(ChatModelUnitTests):
    memory: SleepMemory
    home: Path

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def shipped(cls, tmp_path_factory: pytest.TempPathFactory) -> Any:
        cls.home = tmp_path_factory.mktemp("home")
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
        return {"AGENTSLEEP_HOME": str(self.home)}, {}, {"memory": KeptIn(self.home)}
