"""What would have been: other policies from one snapshot on, and the same memory under another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentsleep.errors import FingerprintMismatch, InputError, SessionNotFound, SleepFailed
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.past import rebuilding
from agentsleep.memory.past.script import Slept, script
from agentsleep.policy import SleepPolicy
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, SYSTEM, assert_whole, calls, events, fill, kinds, make_nap, rig, same, schema

OFTEN = SleepPolicy(trigger=("messages", 2), passes=3)


def story(session: Session) -> None:
    session.pin(system=SYSTEM)
    fill(session, 8)
    session.sleep()
    fill(session, 3)
    session.ask("who comes 1 after bob ?", max_new_tokens=50, min_new_tokens=45, temperature=1.0, seed=1)
    session.add("user", FACT)
    session.sleep(deep=True, passes=1, rounds=2)
    fill(session, 4)


@pytest.mark.parametrize(
    "policy", [SleepPolicy(), SleepPolicy(trigger=None), SleepPolicy(trigger=("messages", 3), keep=("messages", 1))]
)
def test_the_same_policy_comes_to_the_same(opened: Open, policy: SleepPolicy) -> None:
    memory = opened(policy)
    with memory.session("t") as session:
        story(session)
        before = events(session)
        starts = [None, *[one for one in session.history() if "open_turn" not in str(one.metrics)]]
        for start in starts:
            log = events(session)
            if start is not None and log[start.span[1] - 1].data.get("open_turn"):
                with pytest.raises(InputError, match="middle of a turn"), memory.trial(session, policy, start):
                    pass
                continue
            with memory.trial(session, policy, start) as again:
                assert [(e.kind, e.token_ids, e.text, dict(e.data)) for e in events(again)] == [
                    (e.kind, e.token_ids, e.text, dict(e.data)) for e in before
                ]
                assert same(again.state, session.state)
                assert again.window.ids == session.window.ids
        assert events(session) == before
        assert_whole(session)


def test_another_policy_sleeps_otherwise_and_leaves_no_trace(opened: Open) -> None:
    memory = opened(SleepPolicy(trigger=None))
    with memory.session("t") as session:
        story(session)
        start = session.history()[0]
        before = events(session), session.history()
        found = memory.compare_policies(
            session, memory.policy, OFTEN, start=start, questions=["who comes 1 after bob ?"], max_new_tokens=4
        )
        assert found.b.sleeps > found.a.sleeps >= 3
        assert found.b.passes > found.a.passes
        assert len(found.a.answers) == len(found.b.answers) == 1
        assert not found.diff.same
        with memory.trial(session, OFTEN) as other:
            assert {one.passes for one in other.history()} >= {3, 1}
            assert [e.text for e in other.messages() if e.text] == [e.text for e in session.messages() if e.text]
            other.add("user", "only in the trial")
            assert_whole(other)
        assert (events(session), session.history()) == before
        with memory.fork(start, "b") as branch:
            branch.add("user", FACT)
            foreign = branch.sleep()
        with pytest.raises(InputError, match="none of"), memory.trial(session, OFTEN, foreign):
            pass


def test_rolled_back_and_kept_aside(memory: SleepMemory) -> None:
    session = memory.session("t", system=SYSTEM)
    fill(session, 20)
    first, last = session.history()[0], session.history()[-1]
    old = events(session)
    again = memory.rollback(session, first)
    assert again.scope.thread == "t"
    assert again.head == first
    assert again.stats().pinned_tokens > 0
    assert len(events(again)) == first.span[1]
    fill(again, 2)
    assert_whole(again)
    again.close()
    (aside,) = [one.scope.thread for one in memory.sessions() if one.scope.thread != "t"]
    with memory.session(aside, tools=()) as kept:
        assert kept.head == last
        assert [e for e in events(kept) if e.seq < len(old)] == old
        assert_whole(kept)
    assert [entry.action for entry in memory.archive.user("default", "default").audit()] == ["rollback"]


@pytest.fixture(scope="module")
def other_nap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_nap(tmp_path_factory.mktemp("other"), hidden_size=48, sleep_window=40)


def test_a_new_model_reads_the_old_log(
    opened: Open, other_nap: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = opened(SleepPolicy())
    with memory.session("t", tools=()) as session:
        session.pin(system=SYSTEM, tools=[schema()])
        story(session)
        rig(monkeypatch, calls(memory, "look_up", person="bob"))
        session.generate()
        said = [(e.role, e.text) for e in session.messages() if not e.data.get("open")]
        asked = [step for step in script(events(session)) if isinstance(step, Slept)]
    with SleepMemory(other_nap, archive=archive) as newer:
        with pytest.raises(FingerprintMismatch, match="rebuild"):
            newer.session("t")
        steps: list[tuple[int, int]] = []
        with newer.rebuild("t", progress=lambda *at: steps.append(at)) as rebuilt:
            assert rebuilt.scope.thread == f"t@{newer.fingerprint[:8]}"
            assert [(e.role, e.text) for e in rebuilt.messages() if not e.data.get("open")] == said
            assert rebuilt.messages()[-1].data["calls"] == [{"name": "look_up", "arguments": {"person": "bob"}}]
            assert rebuilt.stats().pinned_tokens > 0
            assert "d" in kinds(rebuilt)
            assert sum(one.trigger == "asked" for one in rebuilt.history()) >= len(asked) - 1
            assert_whole_in(rebuilt, 40)
        assert steps[-1][0] == steps[-1][1] == len(steps) - 1
        with pytest.raises(SessionNotFound):
            newer.rebuild("nobody")
        with newer.session("taken") as taken:
            taken.add("user", FACT)
        with pytest.raises(InputError, match="something else"):
            newer.rebuild("t", into="taken")


def test_a_rebuild_that_broke_off_goes_on(
    opened: Open, other_nap: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = opened(SleepPolicy())
    with memory.session("t") as session:
        fill(session, 12)
        session.sleep(deep=True, passes=1, rounds=1)
        fill(session, 7)
        session.sleep(deep=True, passes=1, rounds=1)
        fill(session, 3)
    with SleepMemory(other_nap, archive=archive) as newer:
        with newer.rebuild("t", into="at once") as whole:
            state, log = whole.state, [(e.kind, e.token_ids, e.text) for e in events(whole)]
        say = rebuilding._say_again
        for left in (5, 4, 6, 2):
            budget = [left]

            def breaks(*arguments: object, budget: list[int] = budget) -> None:
                if not budget[0]:
                    raise SleepFailed("the lights went out")
                budget[0] -= 1
                say(*arguments)  # type: ignore[arg-type]

            monkeypatch.setattr(rebuilding, "_say_again", breaks)
            with pytest.raises(SleepFailed):
                newer.rebuild("t", into="in parts")
        monkeypatch.setattr(rebuilding, "_say_again", say)
        with newer.rebuild("t", into="in parts") as parts:
            assert same(parts.state, state)
            assert [(e.kind, e.token_ids, e.text) for e in events(parts)] == log
        with newer.rebuild("t", into="in parts") as again:  # nothing is left to do
            assert same(again.state, state)


def assert_whole_in(session: Session, window: int) -> None:
    """As `assert_whole`, in windows of another size."""
    assert same(session.replay(), session.state)
    assert session.window_tokens <= window
    assert session.archive.verify().findings == ()
