"""Agents of `create_agent` whose model says what it is told, and plain sessions that hear the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import Field
from tests.talk import Says, config, same, saying

from agentsleep import tokens
from agentsleep.chat import ToolCall
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep import ChatSleep, Handle, SleepMiddleware
from langchain_agentsleep.conversation import Conversation

QUESTION = "who comes 2 after bob ?"
LOOK = "ask around ."
FOUND = "erin hands over to bob ."
Line = str | ToolCall


def look_up(person: str) -> str:
    """Tells to whom somebody hands over."""
    return f"{person} hands over to bob ."


CALL = ToolCall("look_up", {"person": "erin"})


class Actor(ChatSleep):
    """Answers a message by the line that ``lines`` has for its text; any other one greedily, and never by a call."""

    lines: dict[str, Line] = Field(default_factory=lambda: {LOOK: CALL})
    before: Callable[[int], None] = lambda number: None
    """Called before each token of a line."""

    def _conversation(
        self, messages: Sequence[BaseMessage], stop: Sequence[str] | None, options: Mapping[str, Any], tell: Any
    ) -> Conversation:
        line = self.lines.get(str(messages[-1].text))
        if line is None:
            options = {**words(self.memory), "max_tokens": 6, **options}
        else:
            ids = said(self.memory, line)
            options = {**options, "logits_processor": [Says(ids, self.before)], "max_tokens": len(ids) + 20}
        return super()._conversation(messages, stop, options, tell)


def said(memory: SleepMemory, line: Line) -> list[int]:
    """The tokens with which an assistant says it."""
    chat = memory.chat
    return (chat.call(line) if isinstance(line, ToolCall) else chat.message("assistant", line))[1:]


class Scripted(BaseChatModel):
    """A model behind an API, of another provider: answers by the messages of its script, then with "fine"."""

    script: list[AIMessage] = Field(default_factory=list)
    seen: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Any, **options: Any) -> Any:
        """Takes any."""
        return self

    def _generate(self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **_: Any) -> ChatResult:
        self.seen.append(list(messages))
        message = self.script.pop(0) if self.script else AIMessage("fine")
        message.response_metadata["model_provider"] = "scripted"
        return ChatResult(generations=[ChatGeneration(message=message)])


def agent_of(
    model: BaseChatModel, *middleware: Any, tools: Sequence[Any] = (look_up,), saver: Any = None, **options: Any
) -> Any:
    """An agent with these middlewares."""
    return create_agent(model, tools, middleware=middleware, checkpointer=saver, **options)


def invoke(agent: Any, text: str, thread: str = "t", **options: Any) -> list[AnyMessage]:
    """The list of messages after a turn of the user."""
    messages: list[AnyMessage] = agent.invoke({"messages": [HumanMessage(text)]}, config(thread), **options)["messages"]
    return messages


def handle_in(agent: Any, thread: str = "t") -> Handle:
    """What the agent's state tells of its memory."""
    handle: Handle = agent.get_state(config(thread)).values["agentsleep"]
    return handle


def opened_at(memory: SleepMemory, handle: Handle, policy: SleepPolicy | None = None) -> Session:
    """The session that a handle names."""
    record = memory.archive.user("default", "default").session(handle["session"])
    return memory.session(record.scope.thread, create=False, tools=None, policy=policy)


def twin(memory: SleepMemory, middleware: SleepMiddleware, name: str = "twin") -> Session:
    """A plain session with the pins and the policy that an agent's has."""
    session = memory.session(name, policy=middleware.policy)
    session.pin(tools=[convert_to_openai_tool(look_up)])
    return session


def hear(session: Session, memory: SleepMemory, text: str, line: Line | None = None) -> str:
    """The user says something, and the model answers: what is given, else as :class:`Actor` does."""
    session.add("user", text, asked=True)
    return answer(session, memory, line)


def answer(session: Session, memory: SleepMemory, line: Line | None = None) -> str:
    """The model's turn."""
    if line is not None:
        ids = said(memory, line)
        return session.generate(logits_processor=[Says(ids)], max_new_tokens=len(ids)).text
    return session.generate(max_new_tokens=6, **words(memory)).text


def words(memory: SleepMemory) -> dict[str, Any]:
    """Options with which a model that has learnt nothing says something, and calls nothing."""
    return {"suppress_tokens": [memory.backend.tokenizer.convert_tokens_to_ids(tokens.CALL)], "min_new_tokens": 2}


def assert_same(one: Session, other: Session) -> None:
    """Bit-equal states, equal windows, and equal answers."""
    assert same(one.state, other.state)
    assert one.window.ids == other.window.ids
    assert asked(one) == asked(other)


def asked(session: Session) -> str:
    """A greedy answer that leaves no trace."""
    return session.ask(QUESTION, remember=False, max_new_tokens=12).text


def told(session: Session) -> list[tuple[str | None, str | None]]:
    """Who said what."""
    return [(m.role, m.text) for m in session.messages() if m.token_ids and not m.data.get("open")]


def ids(messages: Sequence[AnyMessage]) -> list[str]:
    """Of messages."""
    return [str(one.id) for one in messages]


def assert_unsplit(messages: Sequence[AnyMessage]) -> None:
    """No result of a tool without its call, and no call without its results."""
    calls = [call["id"] for one in messages if isinstance(one, AIMessage) for call in one.tool_calls]
    assert sorted(map(str, calls)) == sorted(one.tool_call_id for one in messages if isinstance(one, ToolMessage))


__all__ = [
    "CALL",
    "FOUND",
    "LOOK",
    "QUESTION",
    "Actor",
    "Scripted",
    "agent_of",
    "answer",
    "asked",
    "assert_same",
    "assert_unsplit",
    "handle_in",
    "hear",
    "ids",
    "invoke",
    "look_up",
    "opened_at",
    "said",
    "saying",
    "told",
    "twin",
]


class Heard(BaseCallbackHandler):
    """Keeps custom events, and the runs of models."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any], Any]] = []
        self.models: list[Any] = []

    def on_custom_event(self, name: str, data: Any, *, run_id: Any, **_: Any) -> None:
        self.events.append((name, data, run_id))

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **_: Any) -> None:
        self.models.append(run_id)
