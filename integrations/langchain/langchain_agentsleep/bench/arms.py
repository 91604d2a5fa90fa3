"""Agents of ``create_agent`` on the same weights, which differ in how their list comes to fit the window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.memory import InMemorySaver

from agentsleep.backends import Backend
from agentsleep.chat import ChatFormat
from agentsleep.errors import AgentsleepError
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.tasks import rota
from langchain_agentsleep.bench.dialogues import Dialogue
from langchain_agentsleep.bench.notes import Notes, by_model, by_oracle
from langchain_agentsleep.bench.plain import PlainChat
from langchain_agentsleep.bench.views import Shown, View, chained, retrieved, trimmed, whole
from langchain_agentsleep.chat_model import ChatSleep
from langchain_agentsleep.counting import count_messages
from langchain_agentsleep.middleware import SleepMiddleware

REPLY = 8  # tokens: an answer is a name and an end, a call of the tool has five
WIDE = 8192  # tokens of the window of "full context"
_TURN = 17  # tokens of a look-up before its last answer: request, call, result
_RUN: RunnableConfig = {"configurable": {"thread_id": "run"}}


class Table:
    """What the tool knows at present, and how often it was called."""

    def __init__(self) -> None:
        self.episode: rota.Episode | None = None
        self.calls = 0

    def look_up(self, person: str) -> str:
        """Tells to whom a person on the rota hands over."""
        self.calls += 1
        if self.episode is None or person not in self.episode.cycle:
            return rota.UNKNOWN
        return rota.fact(person, self.episode.successor(person))


class Arm(Protocol):
    """One way."""

    name: str
    what: str
    converses: bool
    """Whether it is an agent, which can take turns."""

    def turn(self, text: str) -> list[BaseMessage]:
        """A turn of the agent in its one long conversation; returns what its list then holds."""

    def answers(self, dialogue: Dialogue, thread: str) -> list[str]:
        """Of the dialogue's questions, each asked when the dialogue is over, none of them remembered."""


class Sleeping:
    """ChatSleep with SleepMiddleware: messages leave the list once they were slept on."""

    converses = True

    def __init__(self, backend: Backend, table: Table, passes: int) -> None:
        self.name, self.what = f"sleep-{passes}", f"sleep, N = {passes}"
        self.memory = SleepMemory(backend, archive=":memory:", policy=SleepPolicy(passes=passes))
        self._model = ChatSleep(self.memory, max_tokens=REPLY)
        # It sleeps when its window is nearly full, as in training, and not after each task as well.
        self._agent: Any = create_agent(
            self._model,
            [table.look_up],
            system_prompt=rota.SYSTEM,
            middleware=[SleepMiddleware(self.memory, after=None)],
            checkpointer=InMemorySaver(),
        )

    def turn(self, text: str) -> list[BaseMessage]:
        """See Arm."""
        return list(self._agent.invoke({"messages": [HumanMessage(text)]}, _RUN)["messages"])

    def answers(self, dialogue: Dialogue, thread: str) -> list[str]:
        """See Arm. The agent reads the dialogue and gives its last answer itself; the tool is withdrawn before the
        questions, each of which is asked of a fork in memory of the thread's session.

        Raises:
            AgentsleepError: a fact is still in the list, or in the window.
        """
        config = {"configurable": {"thread_id": thread}}
        left = self._agent.invoke({"messages": dialogue.messages()[:-1]}, config)["messages"]
        self._model.close()
        with self.memory.session(thread, tools=(), create=False) as session:
            facts = {message.text: message for message in session.messages() if message.role == "tool"}
            now = session.stats()
            slept = now.tokens - (now.window_tokens - now.pinned_tokens)
            awake = [text for text, one in facts.items() if one.position + len(one.token_ids) > slept]
            if len(facts) != len(dialogue.facts()) or awake or any(one.text in facts for one in left):
                raise AgentsleepError(f"{len(awake)} of {len(facts)} facts are not slept on; nothing was measured")
            asked = [session.ask(q.text, remember=False, max_new_tokens=REPLY) for q in dialogue.questions]
        return [answer.text for answer in asked]


class Stateless:
    """A plain chat model that is shown a view of the list, which itself is never cut."""

    converses = True

    def __init__(self, name: str, what: str, model: PlainChat, table: Table, view: View) -> None:
        self.name, self.what, self.model, self.view = name, what, model, view
        self._list: list[BaseMessage] = []
        self._agent: Any = create_agent(
            model, [table.look_up], system_prompt=rota.SYSTEM, middleware=[Shown(view, room_in(model, [table.look_up]))]
        )

    def turn(self, text: str) -> list[BaseMessage]:
        """See Arm."""
        self._list = self._agent.invoke({"messages": [*self._list, HumanMessage(text)]})["messages"]
        return self._list

    def answers(self, dialogue: Dialogue, thread: str) -> list[str]:
        """See Arm."""
        return [self._answer(self.view, [*dialogue.messages(), HumanMessage(q.text)]) for q in dialogue.questions]

    def _answer(self, view: View, messages: list[BaseMessage]) -> str:
        shown = view(messages, room_in(self.model))
        return str(self.model.invoke([SystemMessage(rota.SYSTEM), *shown]).text)


class Chained(Stateless):
    """Retrieval that knows the answer: what the window could do if nothing else were in it. It is no agent, since what
    a turn needs is known for questions alone."""

    converses = False

    def __init__(self, model: PlainChat, table: Table) -> None:
        super().__init__("facts-alone", "the needed facts alone", model, table, whole)

    def answers(self, dialogue: Dialogue, thread: str) -> list[str]:
        """See Arm."""
        told = dialogue.messages()
        return [
            self._answer(
                chained([rota.fact(p, dialogue.episode.successor(p)) for p in q.chain]), [*told, HumanMessage(q.text)]
            )
            for q in dialogue.questions
        ]


class Summarising:
    """A plain chat model behind SummarizationMiddleware."""

    converses = True

    def __init__(self, name: str, what: str, model: PlainChat, table: Table, notes: Notes) -> None:
        self.name, self.what, self.model, self.notes = name, what, model, notes
        self._list: list[BaseMessage] = []
        self._agent: Any = create_agent(model, [table.look_up], system_prompt=rota.SYSTEM, middleware=[notes])

    def turn(self, text: str) -> list[BaseMessage]:
        """See Arm."""
        self._list = self._agent.invoke({"messages": [*self._list, HumanMessage(text)]})["messages"]
        return self._list

    def answers(self, dialogue: Dialogue, thread: str) -> list[str]:
        """See Arm. The list is summarised along the dialogue, wherever the model would have been called."""
        kept: list[BaseMessage] = []
        for message in dialogue.messages():
            if isinstance(message, AIMessage):
                kept = self.notes.reduced(kept)
            kept.append(message)
        said = []
        for q in dialogue.questions:
            shown = self.notes.reduced([*kept, HumanMessage(q.text)])
            said.append(str(self.model.invoke([SystemMessage(rota.SYSTEM), *shown]).text))
        return said


def room_in(model: PlainChat, tools: Sequence[Any] = ()) -> int:
    """Tokens that messages may take up, besides the head of the window and the answer."""
    return model.window - model.get_num_tokens_from_messages([SystemMessage(rota.SYSTEM)], tools) - model.max_tokens


def size_of(chat: ChatFormat, messages: list[BaseMessage]) -> int:
    """Tokens of messages alone."""
    return count_messages(chat, messages) - len(chat.prompt())


@contextmanager
def arms(model: Any, passes: Sequence[int], table: Table) -> Iterator[tuple[SleepMemory, list[Arm]]]:
    """A memory with the model, and every arm on its weights.

    Raises:
        CheckpointMissing, CheckpointDamaged: the model cannot be loaded.
    """
    sleeping: list[Sleeping] = []
    with SleepMemory(model, archive=":memory:") as memory:
        backend, chat = memory.backend, memory.chat
        wide = replace(backend, settings=replace(backend.settings, window=WIDE))
        plain = PlainChat(backend=backend, chat=chat, max_tokens=REPLY)
        full = PlainChat(backend=wide, chat=chat, max_tokens=REPLY)

        def count(messages: list[BaseMessage]) -> int:
            return size_of(chat, messages)

        room = room_in(plain, [table.look_up])
        budget = room - _TURN
        writer = PlainChat(backend=wide, chat=chat, max_tokens=budget)
        by_itself = Notes(plain, by_model(writer), count, room, as_facts=False)
        lossless = Notes(plain, by_oracle(count, budget), count, room, as_facts=True)
        once, again = retrieved(count, iterated=False), retrieved(count, iterated=True)
        try:
            for n in passes:
                sleeping.append(Sleeping(backend, table, n))
            yield (
                memory,
                [
                    *sleeping,
                    Stateless("trim", "trim_messages", plain, table, trimmed(count)),
                    Summarising("summary", "summary, by the same model", plain, table, by_itself),
                    Summarising("summary-oracle", "summary, lossless notes", plain, table, lossless),
                    Stateless("retrieval", "retrieval, BM25", plain, table, once),
                    Stateless("retrieval-iterated", "retrieval, BM25, iterated", plain, table, again),
                    Chained(plain, table),
                    Stateless("full", "full context", full, table, whole),
                ],
            )
        finally:
            for arm in sleeping:
                arm.memory.close()
