"""Whatever is done to a session in whatever order: its state is a function of its log, and it comes back the same."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentsleep.errors import MessageTooLong, SessionBusy
from agentsleep.memory import Session, SleepMemory, Stream
from agentsleep.policy import SleepPolicy
from tests.memory.helpers import SYSTEM, Trace, assert_whole, schema, stream_of

TRIGGERS = [None, ("fraction", 0.9), ("messages", 3), [("tokens", 20), {"messages": 5, "fraction": 0.2}]]
TEXTS = st.one_of(
    st.sampled_from(["bob hands over to alice .", "noted", "who comes 2 after bob ?", "x" * 40, "ü" * 60]),
    st.text(min_size=1, max_size=20).filter(lambda text: bool(text.strip())),
)


class Machine(RuleBasedStateMachine):
    """A session, the forks that were made of it, and everything a user may do."""

    nap: Path

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="agentsleep-test-"))
        self.memory: SleepMemory | None = None

    @initialize(trigger=st.sampled_from(TRIGGERS), system=st.sampled_from([None, SYSTEM]))
    def begin(self, trigger: Any, system: str | None) -> None:
        policy = SleepPolicy(trigger=trigger, passes=2, max_windows=8)
        self.memory = SleepMemory(self.nap, archive=self.folder / "memory.db", policy=policy)
        self.thread = "t"
        self.tools: list[Any] = []
        self.session = self.memory.session(self.thread, system=system)
        self.said: list[str | None] = []
        self.stream: Stream | None = None

    @property
    def open_memory(self) -> SleepMemory:
        assert self.memory is not None
        return self.memory

    @rule(role=st.sampled_from(["user", "tool", "assistant"]), text=TEXTS)
    def add(self, role: Any, text: str) -> None:
        try:
            self.session.add(role, text)
        except SessionBusy:
            assert self.stream is not None
        else:
            self.said.append(text)

    @rule(text=TEXTS, tokens=st.integers(1, 12), seed=st.integers(0, 3))
    def ask(self, text: str, tokens: int, seed: int) -> None:
        if self.stream is None:
            answer = self.session.ask(text, max_new_tokens=tokens, temperature=1.0, seed=seed)
            self.said += [text, None]
            assert 1 <= answer.tokens <= tokens
            head = self.session.head
            assert answer.snapshot is None or head is not None

    @rule(text=TEXTS)
    def ask_aside(self, text: str) -> None:
        if self.stream is None:
            before = Trace.of(self.session)
            one = self.session.ask(text, remember=False, max_new_tokens=5)
            assert self.session.ask(text, remember=False, max_new_tokens=5) == one
            Trace.of(self.session).assert_same(before)

    @rule(tokens=st.integers(1, 60), seed=st.integers(0, 3))
    def generate(self, tokens: int, seed: int) -> None:
        if self.stream is None:
            self.session.generate(max_new_tokens=tokens, temperature=1.0, seed=seed)
            self.said.append(None)

    @rule(seed=st.integers(0, 3))
    def begin_stream(self, seed: int) -> None:
        if self.stream is None:
            self.stream = self.session.generate(stream=True, max_new_tokens=30, temperature=1.0, seed=seed)
            self.said.append(None)
            if not next(self.stream, ""):
                self.stream = None

    @precondition(lambda self: self.stream is not None)
    @rule(pieces=st.integers(0, 20), how=st.sampled_from(["go on", "close", "abandon"]))
    def go_on(self, pieces: int, how: str) -> None:
        assert self.stream is not None
        over = any(next(self.stream, None) is None for _ in range(pieces))
        if how == "close":
            self.stream.close()
        if how != "go on" or over:
            self.stream = None

    @rule(deep=st.booleans(), passes=st.integers(1, 3), rounds=st.integers(1, 2), windows=st.sampled_from([None, 1, 2]))
    def sleep(self, deep: bool, passes: int, rounds: int, windows: int | None) -> None:
        if self.stream is None:
            slept = self.session.sleep(deep=deep, passes=passes, rounds=rounds, windows=windows)
            assert self.session.window_tokens == self.session.stats().pinned_tokens
            assert slept is None or slept == self.session.head

    @rule(system=st.sampled_from([None, "", SYSTEM, "z" * 12]), tools=st.sampled_from([None, [], [schema()]]))
    def pin(self, system: str | None, tools: list[Any] | None) -> None:
        if self.stream is None:
            try:
                self.session.pin(system=system, tools=tools)
            except MessageTooLong:
                return
            self.tools = self.tools if tools is None else tools

    @rule()
    def reopen(self) -> None:
        """In a new memory, as a new process would."""
        over = self.stream is None
        before = Trace.of(self.session)
        policy = self.open_memory.policy
        self.session.close()
        self.stream = None
        self.open_memory.close()
        self.memory = SleepMemory(self.nap, archive=self.folder / "memory.db", policy=policy)
        self.session = Session(
            self.memory.shared,
            self.memory.archive.user("default", "default").session(self.session.id),
            system=None,
            tools=self.tools,
            timeout=0.0,
        )
        if over:
            Trace.of(self.session).assert_near(before)

    @rule()
    def fork_now(self) -> None:
        """The user goes on in a fork of the newest snapshot: what is not slept on is not there."""
        if self.stream is None and self.session.head is not None:
            head, known = self.session.head, self.session.history()
            self.session.close()
            self.session = self.open_memory.fork(head)
            self.tools = []
            assert self.session.history()[: len(known)] == known
            self.said = self.heard()

    def heard(self) -> list[str | None]:
        """The messages of the log; None for what the model said, one for each turn."""
        whole = [m for m in self.session.messages() if not m.data.get("open")]
        return [None if m.data.get("generated") else m.text for m in whole]

    @invariant()
    def is_whole(self) -> None:
        if self.memory is None or self.stream is not None:
            return
        assert_whole(self.session)
        assert self.heard() == self.said
        assert stream_of(self.session).count(self.open_memory.chat.end) >= len(self.said)

    def teardown(self) -> None:
        if self.memory is not None:
            self.session.close()
            assert_whole(self.session)
            self.memory.close()
        shutil.rmtree(self.folder)


def test_any_sequence(nap: Path) -> None:
    Machine.nap = nap
    run_state_machine_as_test(Machine, settings=settings(max_examples=12, stateful_step_count=12))  # type: ignore[no-untyped-call]


@pytest.mark.slow
def test_any_long_sequence(nap: Path) -> None:
    Machine.nap = nap
    run_state_machine_as_test(Machine, settings=settings(max_examples=120, stateful_step_count=40))  # type: ignore[no-untyped-call]
