"""States that were damaged or pruned come back from the log; a state that does not speak as it did is refused."""

from __future__ import annotations

from dataclasses import replace as changed
from pathlib import Path

import pytest
import torch
from sqlalchemy import select, update

from agentsleep.archive import Retention, Snapshot, mend
from agentsleep.archive.schema import ChunkRow, EventRow, PieceRow
from agentsleep.errors import (
    ArchiveDamaged,
    FingerprintMismatch,
    InputError,
    SessionBusy,
    SessionNotFound,
    SnapshotDamaged,
    SnapshotPruned,
)
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.states import from_bytes, to_bytes
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from tests.memory.conftest import Open
from tests.memory.helpers import Trace, assert_whole, fill, make_nap, same


def damage(memory: SleepMemory, *snapshots: Snapshot) -> None:
    """Other bytes where a chunk of each lay."""
    with memory.archive.database.writing() as tx:
        for one in snapshots:
            mine = select(PieceRow.digest).where(PieceRow.snapshot_id == one.id, PieceRow.ordinal == 1)
            tx.execute(update(ChunkRow).where(ChunkRow.digest.in_(mine)).values(data=b"moth"))


def long_story(session: Session) -> None:
    fill(session, 20)
    session.sleep(deep=True, passes=1, rounds=1)
    fill(session, 10)
    session.sleep()


def test_a_damaged_head_is_recovered_bit_for_bit(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        long_story(session)
        before, history = Trace.of(session), session.history()
    damage(memory, *history[-3:])
    with pytest.raises(SnapshotDamaged, match=rf"{history[-1].id}: chunk \w+ .*recover"):
        memory.session("t")
    report = memory.recover("t")
    assert report.base == history[-4]
    assert [one.id for one in report.mended] == [one.id for one in history[-3:]]
    assert report.exact
    with memory.session("t") as session:
        Trace.of(session).assert_near(before)
        assert session.history() == history
        assert_whole(session)
    assert memory.archive.user("default", "default").verify().findings == ()


def test_an_open_session_recovers_and_all_states_may_be_gone(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        long_story(session)
        state = session.state
        damage(memory, *session.history())
        report = session.recover()
        assert report.base is None
        assert report.exact
        assert same(session.state, state)
        assert_whole(session)
        assert session.recover().mended == ()


def test_what_is_intact_is_left_alone_and_a_damaged_log_is_said(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        long_story(session)
    assert memory.recover("t").mended == ()
    with pytest.raises(SessionNotFound):
        memory.recover("nobody")
    with memory.archive.database.writing() as tx:
        tx.execute(update(EventRow).where(EventRow.seq == 3).values(text="no"))
    damage(memory, *session.history())
    with pytest.raises(ArchiveDamaged, match="event 3"):
        memory.recover("t")


def test_a_recovery_elsewhere_says_that_it_is_not_exact(memory: SleepMemory) -> None:
    """As on another machine: the stored state is off by rounding."""
    with memory.session("t") as session:
        fill(session, 5)
        first = session.sleep()
        assert first is not None
        off = FastWeights({name: tensor * (1 + 1e-6) for name, tensor in session.state.items()})
        mend(session.archive, first.id, to_bytes(off), first.environment)
        (stored,) = session.history()
        damage(memory, stored)
        report = session.recover()
        assert not report.exact
        assert_whole(session)


def test_a_state_that_speaks_otherwise_is_no_restore(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 5)
        first = session.sleep()
        assert first is not None
        state = session.state
    archive = memory.archive.user("default", "default")
    assert len(first.probe["ids"]) == len(first.probe["logits"]) == 32  # type: ignore[arg-type]
    assert memory.prober.check(first, state) == pytest.approx(first.probe["difference"])
    for wrong, said in (
        (FastWeights({name: tensor * 3 for name, tensor in state.items()}), "does not speak as it did"),
        (FastWeights({name: tensor * float("nan") for name, tensor in state.items()}), "not finite"),
    ):
        mend(archive, first.id, to_bytes(wrong), {})
        with pytest.raises(SnapshotDamaged, match=said):
            memory.session("t")
        with pytest.raises(SnapshotDamaged, match=said):
            memory.fork(first, "branch").close()
        assert archive.find("branch") is None
    assert memory.recover("t").mended[0].id == first.id
    memory.session("t").close()


def test_a_restore_is_never_a_silent_nothing(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 5)
        first = session.sleep()
        assert first is not None
        silent = FastWeights({name: torch.zeros_like(tensor) for name, tensor in session.state.items()})
    empty = memory.prober.ask(FastWeights())
    # Even where the stored logits are those of an empty memory: the stored difference tells.
    told = changed(first, probe={**empty, "difference": first.probe["difference"]})
    with pytest.raises(SnapshotDamaged, match="like an empty memory"):
        memory.prober.check(told, silent)
    assert memory.prober.check(changed(first, probe={}), silent) == 0  # from before there were probes


def test_states_that_were_pruned_are_computed_again(opened: Open) -> None:
    memory = opened(SleepPolicy(trigger=("messages", 2)))
    with memory.session("t") as session:
        fill(session, 60)
        session.sleep(deep=True, passes=1, rounds=1, windows=2)
        history = session.history()
        gone = [one for one in history if one.status == "pruned"]
        assert len(history) - len(gone) == 16
        with pytest.raises(SnapshotPruned, match="replay"):
            session.archive.load_state(gone[0].id)
        for one in (gone[0], gone[-1], history[-1]):
            assert session.archive.snapshot(one.id).state_digest == one.state_digest
            assert same(session.state_of(one), session.replay(stop=one))
        with memory.fork(gone[3], "branch") as branch:
            assert branch.head is not None
            assert branch.head.id == gone[3].id
            assert same(branch.state, session.replay(stop=gone[3]))
            fill(branch, 3)
            assert_whole(branch)
        with memory.session("branch") as branch:
            assert_whole(branch)


def test_a_retention_of_ones_own(nap: Path, archive: Path) -> None:
    memory = SleepMemory(nap, archive=archive, policy=SleepPolicy(trigger=("messages", 1)), retention=None)
    with memory, memory.session("t") as session:
        fill(session, 20)
        assert {one.status for one in session.history()} == {"stored"}
        session.tag("keep me", session.history()[2])
        session.archive.prune(Retention(keep_last=2))
        assert [one.status == "stored" for one in session.history()] == [place in (2, 18, 19) for place in range(20)]
        assert_whole(session)


def test_replay_from_to_and_deeper(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        long_story(session)
        history = session.history()
        assert same(session.replay(history[1], history[3]), from_bytes(session.archive.load_state(history[3].id)))
        assert same(session.replay(history[-1]), session.state)
        deeper = session.replay(passes=4)
        assert max(deeper.diff(session.state).values()) > 1e-6
        assert same(session.replay(history[-2], passes=history[-1].passes), session.state)
        with pytest.raises(InputError, match="comes before"):
            session.replay(history[3], history[1])
        with memory.session("other") as other:
            fill(other, 3)
            other.sleep()
            with pytest.raises(InputError, match="none of"):
                session.replay(other.head)
            with pytest.raises(InputError, match="none of"):
                session.diff(other.history()[0])


def test_diff_tells_where_a_sleep_wrote(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        long_story(session)
        history = session.history()
        assert session.diff(history[-1]).same
        found = session.diff(history[0])
        assert not found.same
        assert {layer.layer for layer in found.layers} == {1, 3}


def test_bisect_finds_the_sleep_that_broke_it(opened: Open) -> None:
    memory = opened(SleepPolicy(trigger=("messages", 2)))
    with memory.session("t") as session:
        fill(session, 24)
        history = session.history()
        found = session.bisect(lambda one: one.tokens < history[7].tokens)
        assert found.first_bad == history[7]
        assert len(found.trials) <= 6


def test_an_answer_names_messages_and_snapshot(memory: SleepMemory) -> None:
    with memory.session("t") as session:
        fill(session, 6)
        session.add("tool", "zelda hands over to xena .")
        session.sleep()
        answer = session.ask("who comes 1 after zelda ?", remember=False, max_new_tokens=3)
        assert answer.snapshot == session.head.id  # type: ignore[union-attr]
        assert answer.sources[0].text == "zelda hands over to xena ."
        kept = session.ask("who comes 1 after zelda ?", max_new_tokens=3)
        assert "who comes 1 after zelda ?" not in [hit.text for hit in kept.sources]
        assert [hit.text for hit in session.search("zelda xena")] == ["zelda hands over to xena ."]


def test_another_model_recovers_nothing(memory: SleepMemory, tmp_path: Path) -> None:
    with memory.session("t") as session:
        fill(session, 9)
        with pytest.raises(SessionBusy):
            memory.recover("t")
        before = [one.state_digest for one in session.history()]
    other = make_nap(tmp_path / "other", hidden_size=48)
    with SleepMemory(other, archive=memory.archive) as stranger, pytest.raises(FingerprintMismatch):
        stranger.recover("t")
    with memory.session("t") as session:
        assert [one.state_digest for one in session.history()] == before
