"""The same weights as an ordinary chat model: it reads the list that it is given, answers, and keeps nothing."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.exceptions import ContextOverflowError
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolCall
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field

from agentsleep.backends import Backend, LiveWindow
from agentsleep.chat import ChatFormat
from agentsleep.state import FastWeights
from langchain_agentsleep.counting import count_messages
from langchain_agentsleep.messages import listed


class PlainChat(BaseChatModel):
    """What a stateless ChatSleep answers, without the archive and the sleep that it would not use: the whole list in
    one forward, then greedily one token after the other. An agent's costs with it are the model's."""

    # Any: pydantic would look into a dataclass, and a protocol is no class to it.
    backend: Any = Field(exclude=True, repr=False)
    """The model, a Backend."""
    chat: Any = Field(exclude=True, repr=False)
    """Its chat format, a ChatFormat."""
    max_tokens: int = 8
    """Where an answer is cut."""

    @property
    def _llm_type(self) -> str:
        return "agentsleep-plain"

    @property
    def window(self) -> int:
        """Tokens that it can read and write."""
        backend: Backend = self.backend
        return backend.settings.window

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Offers tools."""
        return self.bind(tools=[convert_to_openai_tool(tool) for tool in tools])

    def get_num_tokens_from_messages(self, messages: list[BaseMessage], tools: Sequence[Any] | None = None) -> int:
        """Tokens in the model's own format, tools at the head and the prompt of the answer included."""
        return count_messages(self.chat, messages, [convert_to_openai_tool(tool) for tool in tools or ()])

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        tools = kwargs.get("tools") or ()
        chat: ChatFormat = self.chat.with_tools(tools)
        system, said = listed(messages)
        ids = chat.head(system, tools)
        for one in said:
            for turn in [chat.call(call) for call in one.calls] or [chat.message(one.role, one.text)]:
                ids += turn
        ids += chat.prompt()
        if len(ids) + self.max_tokens > self.window:
            raise ContextOverflowError(
                f"{len(ids)} tokens and an answer of {self.max_tokens} do not fit into a window of {self.window}"
            )
        reply = chat.parse(self._written(ids, chat.end))
        calls = [
            ToolCall(name=call.name, args=dict(call.arguments), id=f"call_{uuid.uuid4().hex[:12]}", type="tool_call")
            for call in reply.calls
        ]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(content=reply.text, tool_calls=calls))])

    def _written(self, ids: Sequence[int], end: int) -> list[int]:
        window = LiveWindow(self.backend, FastWeights())
        window.read(ids)
        written: list[int] = []
        while True:
            assert window.logits is not None, "the prompt was read"
            written.append(int(window.logits.argmax()))
            if written[-1] == end or len(written) == self.max_tokens:
                return written
            window.read(written[-1:])
