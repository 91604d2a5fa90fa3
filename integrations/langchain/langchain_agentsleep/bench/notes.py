"""SummarizationMiddleware: with the same model as its summariser, and with one that writes lossless notes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage
from langgraph.runtime import Runtime

from agentsleep.tasks import rota
from langchain_agentsleep.bench.plain import PlainChat
from langchain_agentsleep.bench.views import Count


class Notes(SummarizationMiddleware):
    """The middleware as it is, but for the sentence "Here is a summary of the conversation to date:" before a summary:
    a model of 386 tokens spells it in 49 of the 112 tokens of its window, and was never taught English.

    Args:
        write: messages to their summary.
        as_facts: each line becomes a tool's message, the very form in which the model learnt facts; otherwise the
            summary is a message of the user, as the middleware has it.
        room: tokens that messages may take up; above it, all but the newest message are summarised.
    """

    def __init__(
        self, model: PlainChat, write: Callable[[list[Any]], str], count: Count, room: int, *, as_facts: bool
    ) -> None:
        super().__init__(
            model,
            trigger=("tokens", room + 1),
            keep=("messages", 1),
            token_counter=lambda messages: count(list(messages)),  # type: ignore[arg-type]
            trim_tokens_to_summarize=None,
            summarizer=write,
        )
        self._as_facts = as_facts

    def _build_new_messages(self, summary: str) -> list[Any]:  # type: ignore[override]
        if not self._as_facts:
            return [HumanMessage(summary)] if summary.strip() else []
        return [ToolMessage(line, tool_call_id=f"note_{i}") for i, line in enumerate(summary.splitlines())]

    def reduced(self, messages: list[BaseMessage]) -> list[BaseMessage]:
        """The list as the middleware would have it before the model is called."""
        state: Any = {"messages": messages}
        update = self.before_model(state, Runtime())
        if update is None:
            return messages
        return [one for one in update["messages"] if not isinstance(one, RemoveMessage)]


def by_model(writer: PlainChat) -> Callable[[list[Any]], str]:
    """The same model as summariser. It reads the messages themselves, in a window in which they and the summary fit: in
    its closed English there are no words for what a summary is, and it was never taught to write one."""

    def write(messages: list[Any]) -> str:
        return str(writer.invoke([SystemMessage(rota.SYSTEM), *messages]).text)

    return write


def by_oracle(count: Count, budget: int) -> Callable[[list[Any]], str]:
    """Lossless notes: the facts themselves, the newest kept first, as many as fit."""

    def write(messages: Sequence[Any]) -> str:
        kept: list[str] = []
        left = budget
        facts = (one for one in reversed(messages) if isinstance(one, ToolMessage) and one.content != rota.UNKNOWN)
        for fact in facts:
            size = count([fact])
            if fact.content not in kept and size <= left:
                kept.insert(0, str(fact.content))
                left -= size
        return "\n".join(kept)

    return write
