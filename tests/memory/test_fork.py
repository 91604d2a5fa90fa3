"""Forks: an archived state, alive again, that knows nothing of what came later."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentsleep.errors import InputError, MessageTooLong, SnapshotNotFound
from agentsleep.memory import Session, SleepMemory
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, SYSTEM, Trace, assert_near, assert_whole, events, fill, kinds, rig, same, says

LATER = "zoe hands over to yuri ."


def look_up(person: str) -> str:
    return person


@pytest.fixture
def ada(memory: SleepMemory) -> Session:
    return memory.session("t", user="ada", tenant="acme", system=SYSTEM, tools=[look_up])


def test_a_fork_is_the_session_as_it_was_at_that_moment(memory: SleepMemory, ada: Session) -> None:
    moments = []
    for _ in range(3):
        fill(ada, 4)
        moments.append(ada.sleep())
        trace = Trace.of(ada)
        asked = ada.ask("who comes 2 after bob ?", remember=False, max_new_tokens=10).text
        moments[-1] = (moments[-1], trace, asked)
    for snapshot, trace, asked in moments:
        with memory.fork(snapshot, tools=[look_up]) as fork:
            now = Trace.of(fork)
            now.assert_near(replace(trace, log=now.log))
            assert [e.token_ids for e in now.log] == [e.token_ids for e in trace.log]
            assert_near(now.logits, trace.logits)
            assert fork.ask("who comes 2 after bob ?", remember=False, max_new_tokens=10).text == asked
            assert fork.history()[-1] == fork.head == snapshot
            assert_whole(fork)


def test_a_fork_knows_nothing_that_came_later(memory: SleepMemory, ada: Session) -> None:
    fill(ada, 4)
    early = ada.sleep()
    ada.add("tool", LATER)
    late = ada.sleep()
    assert early is not None
    with memory.fork(early) as fork:
        assert [m.text for m in fork.messages()] == [m.text for m in ada.messages()][:4]
        assert LATER not in {m.text for m in fork.messages()}
        assert [s.id for s in fork.history()] == [early.id]
        assert fork.stats().snapshots == 1
        fork.add("tool", FACT)
        other = fork.sleep()
        assert other is not None
        assert other.parent == early.id
        assert other.session_id == fork.id
        fork.sleep(deep=True)
        assert [s.mode for s in fork.history()] == ["light", "light", "deep"]
        assert_whole(fork)
    assert ada.head == late
    assert ada.messages()[-1].text == LATER
    assert_whole(ada)
    with memory.fork(other) as grandchild:
        assert [s.id for s in grandchild.history()] == [early.id, other.id]
        assert_whole(grandchild)


def test_a_fork_belongs_to_the_same_user(memory: SleepMemory, ada: Session) -> None:
    fill(ada, 2)
    snapshot = ada.sleep()
    assert snapshot is not None
    with memory.fork(snapshot) as fork, memory.fork(snapshot) as second, memory.fork(snapshot, "mine") as third:
        for one in (fork, second, third):
            assert (one.scope.user, one.scope.tenant) == ("ada", "acme")
            assert one.stats().pinned_tokens == len(memory.chat.message("system", SYSTEM))  # the tools are not offered
        assert fork.scope.thread == f"t@{snapshot.id[:8]}"
        assert second.scope.thread.startswith(f"t@{snapshot.id[:8]}-")
        assert third.scope.thread == "mine"
        assert len(memory.sessions(user="ada", tenant="acme")) == 4
    assert memory.sessions() == []


def test_a_thread_that_exists_is_not_overwritten(memory: SleepMemory, ada: Session) -> None:
    fill(ada, 2)
    snapshot = ada.sleep()
    assert snapshot is not None
    with pytest.raises(InputError, match=r"there is a session .* already"):
        memory.fork(snapshot, "t")
    assert len(memory.sessions(user="ada", tenant="acme")) == 1


def test_a_long_thread_name_can_be_forked(memory: SleepMemory) -> None:
    with memory.session("t" * 255) as session:
        fill(session, 1)
        snapshot = session.sleep()
        assert snapshot is not None
        for _ in range(2):
            memory.fork(snapshot).close()
    assert len(memory.sessions()) == 3


def test_a_fork_that_cannot_be_pinned_is_not_held(memory: SleepMemory, ada: Session) -> None:
    fill(ada, 2)
    snapshot = ada.sleep()
    assert snapshot is not None

    def wordy(a_rather_long_argument: str, another_one_that_is_long: str) -> str:
        return ""

    with pytest.raises(MessageTooLong):
        memory.fork(snapshot, "wordy", tools=[wordy])
    memory.session("wordy", user="ada", tenant="acme", create=False).close()


def test_a_snapshot_of_another_archive_is_refused(memory: SleepMemory, opened: Open, ada: Session) -> None:
    fill(ada, 2)
    snapshot = ada.sleep()
    assert snapshot is not None
    other = opened(where=":memory:")
    with pytest.raises(SnapshotNotFound, match=r"lies in another archive than Archive\(':memory:'\)"):
        other.fork(snapshot)
    with pytest.raises(SnapshotNotFound):
        memory.fork(replace(snapshot, id="0" * 32))


def test_a_fork_in_the_middle_of_a_message_reads_the_rest_of_it(memory: SleepMemory) -> None:
    with memory.session() as session:
        event = session.add("user", "x" * 100)
        first, second = session.history()
        with memory.fork(first) as fork:
            assert kinds(fork) == "ts" + "s"  # it slept on the second part by itself
            assert fork.window.ids == list(event.token_ids[96:])
            assert same(fork.state, session.state)
            assert fork.history()[-1].id != second.id
            assert fork.history()[-1].state_digest == second.state_digest
            assert_whole(fork)


def test_a_fork_in_the_middle_of_a_turn_ends_that_turn(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory.session() as session:
        fill(session, 7)
        rig(monkeypatch, says(memory, "bob alice " * 6))
        session.generate()
        with memory.fork(session.history()[0]) as fork:
            last = events(fork)[-1]
            assert last.token_ids == (memory.chat.end,)
            assert (last.text, last.data) == ("bob alice bob alice bob", {"generated": True, "cut": True})
            assert fork.window.ids == [memory.chat.end]
            assert_whole(fork)


def test_many_forks_cost_the_same(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No look at all the threads of a user."""
    with memory.session() as session:
        fill(session, 1)
        snapshot = session.sleep()
    assert snapshot is not None
    monkeypatch.setattr(SleepMemory, "sessions", None)
    threads = set()
    for _ in range(5):
        with memory.fork(snapshot) as fork:
            threads.add(fork.scope.thread)
    assert len(threads) == 5
