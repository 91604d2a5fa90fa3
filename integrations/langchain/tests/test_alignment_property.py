"""Whatever happens to a thread's list of messages: the session behind its answers is the one that heard them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from tests.talk import SCOPE, assert_whole, config, same, saying

from agentsleep.archive import Archive
from agentsleep.backends import Backend, load_backend
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep import AmbiguousHistory, ChatSleep, Handle
from langchain_agentsleep.choices import Link
from langchain_agentsleep.threads import threads_of

TEXTS = ("ok", "noted", "the build is late today .", "bob hands over to alice .", "look up bob .")
# Each sleeps early enough for a whole turn to fit behind: where a turn that the model writes fills the window, a sleep
# falls into its middle, and where the same turn is read as a whole, before it.
POLICIES = {
    "tokens": SleepPolicy(trigger=("tokens", 30)),
    "tokens, keep": SleepPolicy(trigger=("tokens", 34), keep=("tokens", 12)),
    "fraction": SleepPolicy(trigger=("fraction", 0.6)),
    "fraction, keep": SleepPolicy(trigger=("fraction", 0.7), keep=("messages", 2)),
}
WINDOW = 48


@dataclass
class Entry:
    """A message of the conversation, and the handle that the agent's state had when it was the last one."""

    message: BaseMessage
    handle: Handle | None = None


class Broken(Exception):
    """What a failing call fails with."""


class Walk:
    """An agent's thread, as its client keeps it. The truth: all that was said, what has left the list included.

    Args:
        ids: whether the user's messages have ids, and the answers keep theirs.
        handles: whether the state's handle is handed over.
    """

    def __init__(
        self, model: Backend, archive: Archive, policy: SleepPolicy, *, ids: bool, handles: bool, seed: int
    ) -> None:
        self.model, self.archive, self.policy, self.ids, self.handles = model, archive, policy, ids, handles
        self.random = random.Random(seed)
        self.entries: list[Entry] = []
        self.gone = 0  # entries at the head that are no longer in the list
        self.count = 0
        self.edited = False
        self.memory = self._opened()

    def _opened(self) -> SleepMemory:
        return SleepMemory(self.model, archive=self.archive, policy=self.policy)

    def _text(self) -> str:
        return self.random.choice(TEXTS)

    def _message(self, kind: type[HumanMessage] | type[AIMessage], text: str) -> Entry:
        self.count += 1
        return Entry(kind(text, id=f"m{self.count}" if self.ids else None))

    @property
    def handle(self) -> Handle | None:
        """What the state holds."""
        return next((one.handle for one in reversed(self.entries) if one.handle), None) if self.handles else None

    # What may happen

    def extend(self) -> None:
        """The user says something, and perhaps more."""
        for _ in range(self.random.choice((1, 1, 2))):
            self.entries.append(self._message(HumanMessage, self._text()))
        self.answer()

    def other_model(self) -> None:
        """Another model gave the answer; then the user speaks again."""
        self.entries.append(self._message(HumanMessage, self._text()))
        self.entries.append(self._message(AIMessage, self._text()))
        self.extend()

    def evict(self) -> None:
        """What is consolidated leaves the head of the list, but for the last messages."""
        if not self.ids and not self.handles:
            return self.extend()
        keep = self.random.choice((1, 2))
        self.gone = max(self.gone, min(self._consolidated(), len(self.entries) - keep))
        self.extend()

    def edit(self) -> None:
        """A message of the user says something else, and what followed stays."""
        # Without ids nothing tells that the first message of a list is another one's successor.
        first = self.gone + (not self.ids)
        places = [i for i, one in enumerate(self.entries) if i >= first and one.message.type == "human"]
        if not places or not self._tells():
            return self.extend()
        place, self.edited = self.random.choice(places), True
        before = self.entries[place].message
        after = before.model_copy(update={"content": f"{self._text()} ?"})
        handle = self.handle
        self.entries[place] = Entry(after)
        if self.entries[-1].handle is None:
            self.entries[-1].handle = handle
        self.extend()

    def rewind(self) -> None:
        """The thread goes back to an earlier checkpoint, and takes the state's handle along."""
        if len(self.entries) - self.gone < 2 or not self._tells():
            return self.extend()
        self.entries = self.entries[: self.random.randrange(self.gone + 1, len(self.entries))]
        self.extend()

    def fail(self) -> None:
        """A call breaks off in the middle of its answer, and is done again."""
        self.entries.append(self._message(HumanMessage, self._text()))

        def breaking(number: int) -> None:
            if number == 1:
                raise Broken

        with suppress(Broken):
            self._call(saying(self.memory, "the coffee is cold today .", breaking))
            raise AssertionError("it should have broken off")
        self.answer()

    def again(self) -> None:
        """The last answer is thrown away, and the same list is answered again."""
        while self.entries and self.entries[-1].message.type == "ai" and len(self.entries) > self.gone + 1:
            self.entries.pop()
        if not self.entries or self.entries[-1].message.type == "ai":
            return self.extend()
        self.answer()

    def restart(self) -> None:
        """The process ends, and another one goes on."""
        threads_of(self.memory).close()
        self.memory = self._opened()
        self.extend()

    def elsewhere(self) -> None:
        """Another process gives the next answer."""
        here, self.memory = self.memory, self._opened()
        try:
            self.extend()
        finally:
            threads_of(self.memory).close()
            self.memory = here

    def _tells(self) -> bool:
        """Whether a list shows where it parts; by texts that repeat, only while nothing can be missing before them."""
        return self.ids or not self._consolidated()

    def _consolidated(self) -> int:
        """How many entries were slept on, counted from the first."""
        handle = next((one.handle for one in reversed(self.entries) if one.handle), None)
        if handle is None:
            return 0
        family = threads_of(self.memory).family(SCOPE)
        with family.use(handle, 5.0) as session:
            assert session is not None
            slept = session.position().slept_on
            ends = [e.position + len(e.token_ids) for e in _messages(session)]
        return sum(end <= slept for end in ends)

    # What follows

    def _call(self, options: dict[str, Any]) -> AIMessage:
        chat = ChatSleep(self.memory, timeout=5.0)
        messages = [one.message for one in self.entries[self.gone :]]
        options["max_tokens"] = options.pop("max_new_tokens")
        return chat.invoke(messages, config(), agentsleep=Link(handle=self.handle, policy=None), **options)

    def answer(self) -> None:
        """The model answers the list as it is; then all is compared with the truth."""
        said = self._text()
        try:
            answer = self._call(saying(self.memory, said))
        except AmbiguousHistory:
            assert not self.ids
            assert not self.handles or self.edited or self.gone
            # What cannot be told apart is a new conversation.
            self.entries, self.gone, self.edited = [], 0, False
            self.memory.forget("t")
            for record in self.memory.sessions():
                self.memory.forget(record.scope.thread)
            return
        assert answer.content == said
        handle = answer.response_metadata["agentsleep"]
        if not self.ids:
            answer = answer.model_copy(update={"id": None})
        self.entries.append(Entry(answer, handle))
        self.check(handle)

    def check(self, handle: Handle) -> None:
        """The session equals its log's replay, and one that reads the whole conversation from nothing."""
        family = threads_of(self.memory).family(SCOPE)
        with family.use(handle, 5.0) as session:
            assert session is not None
            assert session.id == handle["session"]
            assert session.position().events == handle["position"]
            assert_whole(session)
            events = _messages(session)
            assert [(e.role, e.text) for e in events] == [_said(one.message) for one in self.entries]
            with self.memory.scratch() as fresh:
                for event in events:
                    fresh.add(event.role, event.text, asked=bool(event.data.get("asked")))  # type: ignore[arg-type]
                self._compare(session, fresh)
            for place, event in enumerate(events[:-1]):
                if event.role == "user" and events[place + 1].role == "assistant":
                    assert event.data.get("asked")

    def _compare(self, session: Session, fresh: Session) -> None:
        assert same(session.state, fresh.state)
        assert session.window.ids == fresh.window.ids
        assert _greedy(session) == _greedy(fresh)


def _greedy(session: Session) -> str:
    return session.ask("who comes 2 after bob ?", remember=False, max_new_tokens=6).text


def _messages(session: Session) -> Sequence[Any]:
    """The messages of a log, turns in parts as one."""
    return [e for e in session.messages() if not e.data.get("open")]


def _said(message: BaseMessage) -> tuple[str, str]:
    return {"human": "user", "ai": "assistant"}[message.type], str(message.content)


MOVES = ("extend", "extend", "other_model", "evict", "evict", "edit", "rewind", "fail", "again", "restart", "elsewhere")


@pytest.fixture(scope="module")
def model(nap: Path) -> Backend:
    """Read once; a memory of its own stands for a process of its own."""
    return load_backend(nap, settings={"window": WINDOW})


def walked(model: Backend, policy: SleepPolicy, moves: Sequence[str], *, ids: bool, handles: bool, seed: int) -> None:
    """Goes through the moves, and checks after each call."""
    with Archive(":memory:") as archive:
        walk = Walk(model, archive, policy, ids=ids, handles=handles, seed=seed)
        for move in moves:
            getattr(walk, move)()


WAYS = pytest.mark.parametrize(("ids", "handles"), [(True, True), (True, False), (False, True), (False, False)])
WALKS = given(
    policy=st.sampled_from(sorted(POLICIES)),
    moves=st.lists(st.sampled_from(MOVES), min_size=6, max_size=9),
    seed=st.integers(0, 10**6),
)
FOUND = (Phase.explicit, Phase.generate)  # a walk that fails is told as it is: to shorten it takes minutes


@WAYS
@settings(max_examples=3, phases=FOUND)
@WALKS
def test_a_session_is_what_its_list_says(
    model: Backend, policy: str, moves: list[str], seed: int, ids: bool, handles: bool
) -> None:
    walked(model, POLICIES[policy], moves, ids=ids, handles=handles, seed=seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@WAYS
@settings(max_examples=60, phases=FOUND)
@WALKS
def test_a_session_is_what_its_list_says_on_many_walks(
    model: Backend, policy: str, moves: list[str], seed: int, ids: bool, handles: bool
) -> None:
    walked(model, POLICIES[policy], moves, ids=ids, handles=handles, seed=seed)
