"""A session that comes back: in the same process, in a new one, after every single step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sqlalchemy import select, update

from agentsleep.archive.schema import ChunkRow, PieceRow
from agentsleep.errors import (
    ArchiveError,
    FingerprintMismatch,
    SessionBusy,
    SessionClosed,
    SessionNotFound,
    SnapshotDamaged,
)
from agentsleep.memory import Session, SleepMemory, Toolbox
from agentsleep.policy import SleepPolicy
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, SYSTEM, Trace, assert_whole, child, events, fill, kinds, make_nap

Step = Callable[[Session], object]


def look_up(person: str) -> str:
    return person


def begun(session: Session) -> None:
    """A stream that is closed after its first piece."""
    with session.generate(stream=True, seed=1, temperature=1.0) as stream:
        next(stream)


STEPS: dict[str, Step] = {
    "nothing yet": lambda s: None,
    "a message": lambda s: fill(s, 1),
    "a full window": lambda s: fill(s, 7),
    "a sleep by itself": lambda s: fill(s, 2),
    "a sleep that was asked for": lambda s: s.sleep(),
    "a question": lambda s: s.ask("who comes 2 after bob ?", max_new_tokens=6),
    "a turn that is slept on in its middle": lambda s: s.generate(max_new_tokens=50, temperature=1.0, seed=5),
    "a head": lambda s: s.pin(system=SYSTEM),
    "a long message": lambda s: s.add("user", "x" * 110),
    "a deep sleep": lambda s: s.sleep(deep=True, rounds=1, windows=2),
    "a message behind it": lambda s: s.add("tool", FACT),
    "a stream that is closed early": begun,
    "tools": lambda s: s.pin(tools=Toolbox([look_up]).schemas),
}


def test_restarts_make_no_difference(opened: Open) -> None:
    """One session lives on; its twin is closed and opened again after every step."""
    memory = opened(SleepPolicy(trigger=("fraction", 0.95)))
    twin_tools: list[Any] = []
    with memory.session("one") as one:
        for name, step in STEPS.items():
            step(one)
            with memory.session("twin") as twin:
                step(twin)
            if name == "tools":
                twin_tools = [look_up]
            with memory.session("twin", tools=twin_tools) as twin:
                ours, theirs = Trace.of(one), Trace.of(twin)
                assert ours.window == theirs.window, name
                assert [e.token_ids for e in ours.log] == [e.token_ids for e in theirs.log], name
                assert [m.text for m in one.messages()] == [m.text for m in twin.messages()], name
                theirs.head, theirs.log = ours.head, ours.log  # ids are drawn
                ours.assert_near(theirs)
                assert_whole(twin)
                asked = [s.ask("who comes 1 after bob ?", remember=False, max_new_tokens=8).text for s in (one, twin)]
                assert asked[0] == asked[1], name
    assert_whole_again(memory, "one")


def assert_whole_again(memory: SleepMemory, thread: str) -> None:
    with memory.session(thread) as session:
        assert_whole(session)


def test_a_memory_that_was_closed_reopens_from_its_file(opened: Open) -> None:
    with opened() as memory, memory.session(system=SYSTEM) as session:
        fill(session, 11)
        before = Trace.of(session)
        written = session.ask("who comes 3 after bob ?", remember=False, max_new_tokens=12).text
    with opened() as memory, memory.session() as session:
        Trace.of(session).assert_near(before)
        assert session.ask("who comes 3 after bob ?", remember=False, max_new_tokens=12).text == written
        assert kinds(session) == "p" + "t" * 6 + "tstttt"  # opening wrote nothing
        assert_whole(session)


def test_a_new_process_goes_on_with_the_same_logits(nap: Path, opened: Open, archive: Path) -> None:
    memory = opened()
    with memory.session("t", user="ada", tenant="acme", system=SYSTEM) as session:
        fill(session, 9)
        session.sleep(deep=True)
        fill(session, 4)
        before = Trace.of(session)
        greedy = session.ask("who comes 2 after bob ?", remember=False, max_new_tokens=16).text
    other = child("report", nap, archive, "t")
    out, error = other.communicate(timeout=250)
    assert other.returncode == 0, error
    report = json.loads(out)
    assert report["fingerprint"] == memory.fingerprint
    assert report["window"] == before.window
    assert report["head"] == before.head
    assert report["replayed"] is True
    assert report["state"] == before.state.save().hex()
    assert report["greedy"] == greedy
    torch.testing.assert_close(torch.tensor(report["logits"]), before.logits, rtol=1e-5, atol=1e-5)
    with memory.session("t", user="ada", tenant="acme") as session:
        assert [m.text for m in session.messages()][-1] == "from the other process"
        assert_whole(session)


def test_create_false_makes_nothing(memory: SleepMemory) -> None:
    with pytest.raises(SessionNotFound):
        memory.session("nobody", create=False)
    assert memory.sessions() == []
    memory.session("t").close()
    memory.session("t", create=False).close()
    assert [record.scope.thread for record in memory.sessions()] == ["t"]


def test_scopes_do_not_see_each_other(memory: SleepMemory) -> None:
    with (
        memory.session("t", user="ada") as ada,
        memory.session("t", user="bob") as bob,
        memory.session("t", user="ada", tenant="acme") as acme,
    ):
        fill(ada, 3)
        ada.sleep()
        assert len({ada.id, bob.id, acme.id}) == 3
        for other in (bob, acme):
            assert (other.tokens, other.head, other.history(), other.messages()) == (0, None, [], [])
    assert [r.scope.user for r in memory.sessions(user="ada")] == ["ada"]
    assert len(memory.sessions(user="ada", tenant="acme")) == 1
    assert memory.sessions(user="carol") == []


# Closed, held, of another model, damaged


def test_a_closed_session_says_so_and_still_tells_what_it_was(memory: SleepMemory) -> None:
    with memory.session() as session:
        fill(session, 9)
    before = Trace.of(session)
    for use in (
        lambda: session.add("user", FACT),
        lambda: session.ask("bob ?"),
        lambda: session.ask("bob ?", remember=False),
        lambda: session.generate(),
        lambda: next(session.generate(stream=True)),
        lambda: session.sleep(),
        lambda: session.pin(system=SYSTEM),
    ):
        with pytest.raises(SessionClosed, match=r"thread='default'.* is closed; open it again"):
            use()
    session.close()
    assert session.stats().tokens == session.tokens == before.tokens
    assert len(session.history()) == 1
    with memory.session() as again:
        Trace.of(again).assert_near(before)


def test_a_closed_session_that_broke_before_cannot_be_read_again(memory: SleepMemory) -> None:
    with memory.session() as session:
        session.pin(system=SYSTEM)  # the window is to be read again, but nobody asks for it
    with pytest.raises(SessionClosed):
        session.window  # noqa: B018
    assert session.history() == []


def test_a_closed_memory(memory: SleepMemory) -> None:
    session = memory.session()
    memory.close()
    with pytest.raises(ArchiveError, match=r"archive .* is closed"):
        session.add("user", FACT)
    with pytest.raises(ArchiveError, match=r"archive .* is closed"):
        memory.session("other")
    session.close()


def test_a_second_writer_of_this_process_is_refused(opened: Open) -> None:
    memory, other = opened(), opened()
    with memory.session("t"):
        for second in (memory, other):
            with pytest.raises(SessionBusy, match=r"thread 'MainThread' of this process"):
                second.session("t")
        other.session("another").close()
    with other.session("t") as session:
        session.add("user", FACT)


def test_a_second_process_is_told_who_holds_the_session(nap: Path, opened: Open, archive: Path) -> None:
    memory = opened()
    memory.session("t").close()
    holder = child("hold", nap, archive, "t")
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(SessionBusy, match=rf"process {holder.pid} on .*; waited 0 s; wait longer"):
            memory.session("t")
        with pytest.raises(SessionBusy, match=r"waited 0.2 s"):
            memory.session("t", timeout=0.2)
        assert [r.tokens for r in memory.sessions()] == [0]  # readers are free
        waiting = child("add", nap, archive, "t", 250)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waiting\n"
        holder.communicate("", timeout=250)
        assert waiting.communicate(timeout=250)[0] == "added\n"
    finally:
        holder.kill()
        holder.wait()
    with memory.session("t") as session:
        assert kinds(session) == "t"


def test_a_session_of_another_model_is_refused(nap: Path, opened: Open, archive: Path, tmp_path: Path) -> None:
    with opened().session("t") as session:
        fill(session, 9)
        snapshot = session.head
    assert snapshot is not None
    with SleepMemory(make_nap(tmp_path / "other", rope_theta=500.0), archive=archive) as other:
        with pytest.raises(FingerprintMismatch, match=r"load the model that wrote it, choose another thread"):
            other.session("t")
        with pytest.raises(FingerprintMismatch, match=r"fork it with the model that wrote it"):
            other.fork(snapshot)
        other.session("another").close()
        assert len(other.sessions()) == 2


def test_another_usage_is_no_other_model(nap: Path, opened: Open, archive: Path, tmp_path: Path) -> None:
    """The window, passes and rounds of a model's config may change; what it knows stays readable."""
    with opened().session("t", system=SYSTEM) as session:
        fill(session, 6)
        assert session.window_tokens == 43
    shorter = make_nap(tmp_path / "shorter", sleep_window=32, sleep_passes=3, sleep_rounds=1)
    with SleepMemory(shorter, archive=archive) as memory, memory.session("t") as session:
        assert kinds(session) == "ptttttt" + "s"
        assert session.window_tokens == 7 + 12
        assert_whole_in(session, 32)


def assert_whole_in(session: Session, window: int) -> None:
    assert session.stats().window_capacity == window
    assert session.head is not None
    assert session.head.passes == 3
    assert all(session.replay()[name].equal(session.state[name]) for name in session.state)


def test_a_damaged_state_is_refused_and_its_parent_goes_on(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 17)
        first, second = session.history()
    with memory.archive._db.writing() as tx:
        mine = select(PieceRow.digest).where(PieceRow.snapshot_id == second.id)
        tx.execute(update(ChunkRow).where(ChunkRow.digest.in_(mine)).values(data=b"x" * 100))
    with pytest.raises(SnapshotDamaged, match=rf"chunk \w+ \(part 0 of layers.*fork its parent \({first.id}\)"):
        memory.session("t")
    with memory.fork(first, "rescued") as rescued:
        assert rescued.head == first
        assert_whole(rescued)


def test_a_window_opens_with_its_log_alone(memory: SleepMemory) -> None:
    """No snapshot: everything comes from the log."""
    with memory.session("t") as session:
        fill(session, 5)
        before = Trace.of(session)
    with memory.session("t") as session:
        Trace.of(session).assert_near(before)
        assert len(events(session)) == 5
