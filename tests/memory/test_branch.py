"""A branch equals a session that went no further: at every message, bit for bit, and it forgets what that one forgets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from tests.memory.helpers import SYSTEM, assert_near, assert_whole, events, same, schema

POLICIES = [
    SleepPolicy(trigger=None, passes=2),
    SleepPolicy(trigger=("fraction", 0.7), passes=1, keep=("messages", 1)),
    SleepPolicy(trigger=("messages", 3), passes=1, keep=("messages", 2)),
    SleepPolicy(trigger=[("tokens", 30), {"messages": 4, "fraction": 0.2}], passes=2, keep=("tokens", 14)),
    SleepPolicy(trigger=None, passes=1, keep=("fraction", 0.4)),
]
TEXTS = ["bob hands over to alice .", "noted", "who comes 2 after bob ?", "x" * 30, "ü" * 60]
Op = tuple[Any, ...]
OPS = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(["user", "tool", "assistant"]), st.sampled_from(TEXTS)),
    st.tuples(st.just("asked"), st.sampled_from(["user", "tool"]), st.sampled_from(TEXTS)),
    st.tuples(st.just("generate"), st.integers(1, 60), st.integers(0, 3)),
    st.tuples(st.just("sleep"), st.booleans(), st.integers(1, 2), st.sampled_from([None, 1, 2])),
    st.tuples(st.just("pin"), st.sampled_from([None, "", SYSTEM, "z" * 12]), st.sampled_from([None, [], [schema()]])),
)


@dataclass
class Moment:
    """What a session is, but for its id and its log."""

    events: int
    said: list[tuple[Any, ...]]
    window: list[int]
    logits: Tensor | None
    state: FastWeights
    digests: list[str]

    @classmethod
    def of(cls, session: Session) -> Moment:
        window = session.window
        said = [(e.role, e.text, e.token_ids, e.data, not e.data.get("open") and e.created) for e in session.messages()]
        logits = None if window.logits is None else window.logits.clone()
        digests = [one.state_digest for one in session.history()]
        return cls(session.events, said, [*window.ids], logits, session.state, digests)

    def assert_same(self, other: Moment) -> None:
        """Not a bit apart, but for the rounding of logits: a turn that was written token by token is read at once."""
        assert (self.events, self.said, self.window) == (other.events, other.said, other.window)
        assert self.digests == other.digests
        assert same(self.state, other.state)
        assert (self.logits is None) == (other.logits is None)
        if self.logits is not None:
            assert_near(self.logits, other.logits)


def do(session: Session, op: Op) -> None:
    match op:
        case "add", role, text:
            session.add(role, text)
        case "asked", role, text:
            session.add(role, text, asked=True)
        case "generate", tokens, seed:
            session.generate(max_new_tokens=tokens, min_new_tokens=tokens // 2, temperature=1.0, seed=seed)
        case "sleep", deep, passes, windows:
            session.sleep(deep=deep, passes=passes, rounds=1, windows=windows)
        case "pin", system, tools:
            session.pin(system=system, tools=tools)


def lived(session: Session, ops: Sequence[Op]) -> list[Moment]:
    """What the session was after each step."""
    moments = [Moment.of(session)]
    for op in ops:
        do(session, op)
        moments.append(Moment.of(session))
    return moments


@given(ops=st.lists(OPS, min_size=3, max_size=9), policy=st.sampled_from(POLICIES))
@settings(max_examples=25, phases=[Phase.generate])
def test_at_every_message_it_is_the_session_that_went_no_further(nap: Path, ops: list[Op], policy: SleepPolicy) -> None:
    with SleepMemory(nap, archive=":memory:", policy=policy) as memory, memory.session("t") as session:
        moments = lived(session, ops)
        for moment in moments:
            with memory.branch(session, moment.events) as branch:
                Moment.of(branch).assert_same(moment)
                assert_whole(branch)
