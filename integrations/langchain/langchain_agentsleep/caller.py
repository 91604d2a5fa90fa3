"""Who calls a tool: the thread, where its memory stands by the agent's state, and what the agent has in view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import InjectedToolArg

from agentsleep.archive import Scope
from agentsleep.errors import SettingsError
from langchain_agentsleep.branches import Handle
from langchain_agentsleep.conversation import HANDLE
from langchain_agentsleep.scopes import scope_of

Runtime: TypeAlias = Annotated[ToolRuntime[Any, Any] | None, InjectedToolArg]
"""What LangGraph puts in for a tool's parameter ``runtime``; None where no graph runs the tool."""


@dataclass(frozen=True)
class Caller:
    """Who calls a tool. Outside of an agent there is only a thread.

    state: the agent's.  call: the id of the tool call.  calling: the message that it stands in.
    """

    scope: Scope
    handle: Handle | None = None
    state: Any = None
    call: str | None = None
    calling: AIMessage | None = None

    @property
    def messages(self) -> Sequence[BaseMessage]:
        """The agent's list."""
        return _messages(self.state)

    @property
    def first(self) -> bool:
        """Whether no other call of the same message calls the same tool before."""
        calls = self.calling.tool_calls if self.calling else ()
        names = {call["name"] for call in calls if call["id"] == self.call}
        return self.call == next((call["id"] for call in calls if call["name"] in names), self.call)


def caller_of(runtime: ToolRuntime[Any, Any] | None, user: str, tenant: str) -> Caller:
    """Who calls, by the config of the run.

    Args:
        user, tenant: where the config names none.

    Raises:
        SettingsError: the run names no thread.
    """
    scope = scope_of(ensure_config(), user, tenant)
    if scope is None:
        raise SettingsError(
            'this run names no thread, so there is no memory; pass config={"configurable": {"thread_id": ...}}'
        )
    if runtime is None:
        return Caller(scope)
    state, call = runtime.state, runtime.tool_call_id
    calling = next(
        (one for one in reversed(_messages(state)) if isinstance(one, AIMessage) and _makes(one, call)), None
    )
    # A model that sleeps tells it with each message; else it is what the middleware has put into the state.
    handle = calling.response_metadata.get(HANDLE) if calling else None
    return Caller(scope, handle or _part(state, HANDLE), state, call, calling)


def _makes(message: AIMessage, call: str | None) -> bool:
    return call is not None and any(one["id"] == call for one in message.tool_calls)


def _messages(state: Any) -> Sequence[BaseMessage]:
    return state if isinstance(state, list) else _part(state, "messages") or ()


def _part(state: Any, name: str) -> Any:
    return state.get(name) if isinstance(state, Mapping) else getattr(state, name, None)
