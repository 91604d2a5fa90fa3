"""LangChain's standard integration tests, on ChatSleep with the shipped nap-mini. Those that it cannot pass are listed,
with their reasons, in docs/standard-tests.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import pytest
from langchain_core.exceptions import OutputParserException
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_tests.integration_tests import ChatModelIntegrationTests

from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep


def beyond(reason: str) -> pytest.MarkDecorator:
    """A test that a model which was trained on one small task cannot pass. It runs, and may fail only in what the model
    says."""
    return pytest.mark.xfail(reason=reason, raises=(AssertionError, OutputParserException))


class TestChatSleep(ChatModelIntegrationTests):
    memory: SleepMemory

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def shipped(cls) -> Any:
        # The signatures of the suite's tools, spelt in bytes, take more than half of the 112 tokens that it has else.
        with SleepMemory(archive=":memory:", settings={"window": 448}) as cls.memory:
            yield

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatSleep

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # Of small talk it knows nothing, and would end such an answer at once.
        return {"memory": self.memory, "max_tokens": 88, "generation": {"min_new_tokens": 2}}

    @property
    def model_override_value(self) -> str:
        return "nap"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True  # its form of texts, thoughts and tools

    @property
    def supported_usage_metadata_details(self) -> dict[Literal["invoke", "stream"], list[Any]]:
        return {"invoke": ["cache_read_input"], "stream": ["cache_read_input"]}

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model, config = ChatSleep(self.memory, max_tokens=8), RunnableConfig(configurable={"thread_id": f"{stream}"})
        said: list[BaseMessage] = [HumanMessage("bob hands over to alice .")]
        said += [model.invoke(said, config), HumanMessage("who comes after bob ?")]
        if not stream:
            return model.invoke(said, config)
        chunks = list(model.stream(said, config))
        return sum(chunks[1:], chunks[0])

    @property
    def enable_vcr_tests(self) -> bool:
        return True  # test_stream_time runs; there is no network to record

    @beyond("the model has to copy a number from the question")
    def test_tool_calling(self, model: BaseChatModel) -> None:
        super().test_tool_calling(model)

    @beyond("the model has to copy a number from the question")
    async def test_tool_calling_async(self, model: BaseChatModel) -> None:
        await super().test_tool_calling_async(model)

    @beyond("the model has to copy Chinese and Japanese names from the question")
    def test_unicode_tool_call_integration(
        self,
        model: BaseChatModel,
        *,
        tool_choice: str | None = None,  # noqa: PT028  # the suite's own signature
        force_tool_call: bool = True,  # noqa: PT028
    ) -> None:
        super().test_unicode_tool_call_integration(model, tool_choice=tool_choice, force_tool_call=force_tool_call)

    @beyond("the model has to decide by itself that it needs a tool which it was not trained with")
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @beyond("the model has to follow an instruction: the keys of the object are told in words only")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)


# What is told of it

PAGE = Path(__file__).parents[2] / "docs" / "standard-tests.md"


def listed(title: str) -> dict[str, str]:
    """A table of the page: tests and their reasons."""
    section = PAGE.read_text().split(f"## {title}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(test_\w+)` \| (.+) \|$", section, re.MULTILINE))


def test_the_page_lists_what_is_expected_to_fail() -> None:
    marks = {
        name: mark.kwargs["reason"]
        for name, test in vars(TestChatSleep).items()
        for mark in getattr(test, "pytestmark", ())
        if mark.name in ("skip", "skipif", "xfail")
    }
    assert listed("Expected to fail") == marks


def test_the_page_lists_what_is_skipped(request: pytest.FixtureRequest) -> None:
    """Of what has run so far, which is the whole suite: this test comes last."""
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None:
        pytest.skip("the reports of the other tests are in other processes")
    ran = {kind: _names(reporter.stats.get(kind, [])) for kind in ("skipped", "passed", "xfailed")}
    expected = set(listed("Skipped"))
    assert ran["skipped"] <= expected
    assert not expected & (ran["passed"] | ran["xfailed"])


def _names(reports: list[Any]) -> set[str]:
    return {one.nodeid.rsplit("::", 1)[-1].split("[")[0] for one in reports if "test_standard.py" in one.nodeid}
