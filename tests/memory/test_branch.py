"""A branch equals a session that went no further, at every message, and it forgets what that one forgets."""

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

from agentsleep.archive import Retention
from agentsleep.errors import InputError
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, SYSTEM, assert_whole, events, fill, kinds, same, schema

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
        return cls(len(events(session)), said, [*window.ids], logits, session.state, digests)

    def assert_same(self, other: Moment) -> None:
        """Not a bit apart, but for the rounding of logits: a turn that was written token by token is read at once."""
        assert (self.events, self.said, self.window) == (other.events, other.said, other.window)
        assert self.digests == other.digests
        assert same(self.state, other.state)
        assert (self.logits is None) == (other.logits is None)
        if self.logits is not None and other.logits is not None:
            torch.testing.assert_close(self.logits, other.logits, rtol=1e-4, atol=1e-4)


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
@settings(max_examples=10, phases=[Phase.explicit, Phase.generate])
def test_at_every_message_it_is_the_session_that_went_no_further(nap: Path, ops: list[Op], policy: SleepPolicy) -> None:
    compare(nap, ops, policy)


@pytest.mark.slow
@given(ops=st.lists(OPS, min_size=3, max_size=20), policy=st.sampled_from(POLICIES))
@settings(max_examples=150, phases=[Phase.explicit, Phase.generate])
def test_at_every_message_of_long_logs(nap: Path, ops: list[Op], policy: SleepPolicy) -> None:
    compare(nap, ops, policy)


def compare(nap: Path, ops: list[Op], policy: SleepPolicy) -> None:
    with SleepMemory(nap, archive=":memory:", policy=policy) as memory, memory.session("t") as session:
        moments = lived(session, ops)
        for moment in moments:
            with memory.branch(session, moment.events) as branch:
                Moment.of(branch).assert_same(moment)
                assert_whole(branch)


def test_light_deep_overflow_keep_pins_and_questions_in_one(nap: Path) -> None:
    """What the random logs may miss."""
    ops: list[Op] = [
        *[("add", "tool", "bob hands over to alice .")] * 3,
        ("generate", 60, 1),
        ("pin", SYSTEM, [schema()]),
        ("asked", "user", "who comes 2 after bob ?"),
        ("generate", 9, 2),
        ("sleep", True, 2, 1),
        ("add", "user", "\u00fc" * 60),
        ("pin", "", []),
        ("add", "tool", "noted"),
    ]
    compare(nap, ops, POLICIES[1])


def test_a_question_that_a_sleep_made_room_for(opened: Open) -> None:
    """What that sleep kept and the question are due once more: but a second sleep would be none of the source's."""
    memory = opened(SleepPolicy(trigger=("tokens", 30), passes=1, keep=("tokens", 24)))
    with memory.session("t") as session:
        fill(session, 5)
        session.add("user", "x" * 19, asked=True)
        assert kinds(session) == "ttttts" + "st"
        after = Moment.of(session)
        with memory.branch(session, len(events(session))) as branch:
            assert kinds(branch) == kinds(session)
            Moment.of(branch).assert_same(after)


def test_asked_is_what_ask_does(opened: Open) -> None:
    """The sleep comes before the question, not between it and the answer; and a replay of the log is bit-equal."""
    policy = SleepPolicy(trigger=("messages", 4), passes=1)
    found = []
    for how in ("ask", "add"):
        with opened(policy, ":memory:") as memory, memory.session("t") as session:
            fill(session, 3)
            if how == "ask":
                session.ask("who ?", max_new_tokens=5)
            else:
                event = session.add("user", "who ?", asked=True)
                assert (event.data["asked"], event.seq) == (True, 4)
                assert kinds(session) == "ttt" + "s" + "t"
                session.generate(max_new_tokens=5)
            assert_whole(session)
            assert session.head is not None
            said = [(e.role, e.text) for e in session.messages()]
            found.append((kinds(session), said, session.window.ids, session.head.state_digest))
    assert found[0] == found[1]
    assert found[0][0] == "tttstt"


def test_without_asked_the_sleep_comes_behind_the_question(opened: Open) -> None:
    memory = opened(SleepPolicy(trigger=("messages", 4), passes=1))
    with memory.session("t") as session:
        fill(session, 3)
        session.add("user", "who ?")
        assert kinds(session) == "tttts"


# What it is


def test_it_is_a_session_of_the_same_user_with_the_same_settings(memory: SleepMemory) -> None:
    with memory.session("t", user="ada", tenant="acme", system=SYSTEM, settings={"kind": "rota"}) as session:
        fill(session, 2)
        with memory.branch(session, 0) as nothing, memory.branch(session, 2, "mine", settings={"kind": "x"}) as mine:
            assert nothing.scope.thread == "t@start"
            assert (nothing.scope.user, nothing.scope.tenant) == ("ada", "acme")
            assert (nothing.window.ids, nothing.messages(), nothing.head) == ([], [], None)
            assert session.archive.session(nothing.id).settings == {"kind": "rota"}
            assert session.archive.session(mine.id).settings == {"kind": "x"}
            assert mine.scope.thread == "mine"
            assert [m.text for m in mine.messages()] == [session.messages()[0].text]  # behind the pins
            mine.add("user", FACT)  # and both go on by themselves
            session.add("tool", "noted")
            assert [m.text for m in mine.messages()][1:] == [FACT]
            assert FACT not in {m.text for m in session.messages()}
        snapshot = session.sleep()
        assert snapshot is not None
        with memory.branch(session, len(events(session))) as late, memory.branch(session, len(events(session))) as more:
            assert late.scope.thread == f"t@{snapshot.id[:8]}"
            assert more.scope.thread.startswith(f"t@{snapshot.id[:8]}-")
            assert late.head == snapshot  # nothing is copied
    assert memory.sessions() == []


def test_it_may_sleep_by_another_policy(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 6)
        with memory.branch(session, 6, policy=SleepPolicy(trigger=("messages", 2), passes=1)) as branch:
            assert kinds(branch) == "ttsttstts"
            branch.add("user", FACT)
            branch.add("user", FACT)
            assert kinds(branch)[9:] == "tts"
        assert kinds(session) == "tttttt"


def test_a_session_has_its_own_policy_and_settings(memory: SleepMemory) -> None:
    with memory.session("t", policy=SleepPolicy(trigger=("messages", 2), passes=1), settings={"a": 1}) as session:
        fill(session, 2)
        assert kinds(session) == "tts"
    with memory.session("t", settings={"a": 2}) as session:
        fill(session, 2)
        assert kinds(session) == "ttstt"
        assert session.archive.session(session.id).settings == {"a": 1}  # the stored ones stand


def test_it_begins_at_a_state_that_was_pruned(nap: Path, archive: Path) -> None:
    retention = Retention(keep_last=1)
    policy = SleepPolicy(trigger=("messages", 2), passes=1)
    with (
        SleepMemory(nap, archive=archive, policy=policy, retention=retention) as memory,
        memory.session("t") as session,
    ):
        fill(session, 5)
        moment = Moment.of(session)
        fill(session, 5)
        assert {one.status for one in session.history()[:2]} == {"pruned"}
        with memory.branch(session, moment.events) as branch:
            Moment.of(branch).assert_same(moment)


# What is refused


def test_no_such_place_and_inside_a_turn(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 5)
        session.generate(max_new_tokens=60, min_new_tokens=55, temperature=1.0, seed=3)
        log = events(session)
        opened = [event.seq for event in log if event.data.get("open")]
        assert opened, "no sleep has fallen into the turn"
        inside = [stop for stop in range(opened[0] + 1, log[-1].seq + 1) if log[-1].data.get("generated")]
        assert inside
        for stop in inside:
            with pytest.raises(InputError, match=rf"a turn goes on at event {stop} .* before it begins, or behind"):
                memory.branch(session, stop, "never")
        for stop in (-1, len(log) + 1):
            with pytest.raises(InputError, match=rf"the log has {len(log)} events, so there is no place {stop}"):
                memory.branch(session, stop, "never")
        assert [one.scope.thread for one in memory.sessions()] == ["t"]


@pytest.mark.parametrize("slept", [False, True])
def test_a_thread_that_exists_is_not_written_to(memory: SleepMemory, slept: bool) -> None:
    memory.session("there").close()
    with memory.session("t") as session:
        fill(session, 2)
        if slept:
            session.sleep()
        for name in ("there", "t"):
            with pytest.raises(InputError, match=r"there is a session .* already"):
                memory.branch(session, len(events(session)), name)
        assert len(memory.sessions()) == 2
        assert session.archive.find("there").events == 0  # type: ignore[union-attr]


# Forgetting


@pytest.mark.parametrize("stop", ["from nothing", "from a snapshot"])
def test_what_is_forgotten_is_forgotten_in_the_branch(opened: Open, stop: str) -> None:
    memory = opened(SleepPolicy(trigger=None, passes=1))
    secret = "zelda hands over to xena ."
    with memory.session("t") as session:
        fill(session, 2)
        if stop == "from a snapshot":
            session.sleep()
        place = session.add("user", secret).seq
        fill(session, 2)
        memory.branch(session, len(events(session)), "branch").close()
        session.sleep()
        forgotten = memory.forget(session, [place])
        assert {*forgotten.rebuilt} == {"t", "branch"}
    with memory.session("branch") as branch:
        assert secret not in {m.text for m in branch.messages()}
        assert len(branch.messages()) == 4
        assert_whole(branch)
    assert memory.archive.user("default", "default").search("zelda") == []


def test_what_a_branch_forgets_is_forgotten_where_it_came_from(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 1)
        place = session.add("user", "zelda").seq
        memory.branch(session, 2, "branch").close()
    forgotten = memory.forget("branch", [place])
    assert {*forgotten.rebuilt} == {"t", "branch"}


# In memory


def test_a_scratch_session_leaves_no_trace(memory: SleepMemory) -> None:
    with memory.scratch() as scratch:
        fill(scratch, 3)
        assert scratch.sleep() is not None
        assert_whole(scratch)
    assert memory.sessions() == []
    assert memory.archive.users() == []
    with memory.scratch(SleepPolicy(trigger=("messages", 2), passes=1)) as scratch:
        fill(scratch, 3)
        assert kinds(scratch) == "ttst"
