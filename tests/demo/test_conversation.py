"""The agent's part, with a puppet that speaks well, one that does not, and the bare model."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agentsleep.demo.conversation import converse, told_in
from agentsleep.demo.table import RotaTable
from agentsleep.demo.watching import Nobody
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.tasks import rota
from tests.demo.conftest import Notes
from tests.spoken import Puppet

EPISODE = rota.sample_episode(np.random.default_rng(3), 9)


@pytest.fixture
def memory(tiny_model):
    with SleepMemory(tiny_model, archive=":memory:", policy=SleepPolicy(passes=2)) as made:
        yield made


def run(memory, tmp_path, watcher=None):
    return converse(memory, "t", 2, EPISODE, RotaTable(tmp_path / "rota.db", EPISODE), watcher or Nobody())


def test_who_calls_well_looks_everybody_up(memory, tmp_path, monkeypatch) -> None:
    Puppet(monkeypatch)
    notes = Notes()
    done = run(memory, tmp_path, notes)
    assert done.called == list(EPISODE.order)
    assert done.handed == []
    with memory.session("t", create=False) as session:
        told = [event.text for event in session.messages() if event.role == "tool"]
        assert told == [rota.fact(person, EPISODE.successor(person)) for person in EPISODE.order]
        talk = [text for person in EPISODE.order for text in EPISODE.talk.get(person, ())]
        heard = [event.text for event in session.messages() if event.role == "user"]
        assert talk
        assert [text for text in heard if not text.startswith("look up")] == talk
        assert told_in(session, EPISODE.order) == list(EPISODE.order)
        assert told_in(session, ["nobody"]) == []
        # Every fact is evicted and no tool is on offer: the window holds the system's message and nothing else.
        assert session.window.ids == memory.chat.message("system", rota.SYSTEM)
        assert session.history() == done.snapshots
        assert session.tokens == done.tokens
    assert len(done.snapshots) >= 2
    assert {snapshot.passes for snapshot in done.snapshots} == {2}
    # Whoever watches is told of every sleep and every message once.
    assert [s.id for state in notes.states for s in state.slept] == [s.id for s in done.snapshots]
    assert [text for state in notes.states for role, text in state.turn if role == "tool"] == told
    assert all(0 < state.window_tokens <= state.capacity == 96 for state in notes.states)
    record = done.record()
    assert record["tool_calls"] == {"wanted": 9, "right": 9}
    assert json.loads(json.dumps(record)) == record


def test_who_never_calls_is_handed_the_facts(memory, tmp_path, monkeypatch) -> None:
    Puppet(monkeypatch, calls=lambda person: None)
    done = run(memory, tmp_path)
    assert (done.called, done.handed) == ([], list(EPISODE.order))
    with memory.session("t", create=False) as session:
        assert told_in(session, EPISODE.order) == list(EPISODE.order)
    assert done.record()["tool_calls"] == {"wanted": 9, "right": 0}


def test_a_call_for_someone_else_is_not_right(memory, tmp_path, monkeypatch) -> None:
    first, second = EPISODE.order[:2]
    Puppet(monkeypatch, calls=lambda person: second if person == first else person)
    done = run(memory, tmp_path)
    assert done.handed == [first]
    with memory.session("t", create=False) as session:
        assert told_in(session, EPISODE.order) == list(EPISODE.order)


def test_who_does_not_stop_calling_is_stopped(memory, tmp_path, monkeypatch) -> None:
    Puppet(monkeypatch, after_tool=EPISODE.order[0])
    done = run(memory, tmp_path)
    assert (done.called, done.handed) == ([], list(EPISODE.order))
    with memory.session("t", create=False) as session:
        assert told_in(session, EPISODE.order) == list(EPISODE.order)


def test_a_model_that_has_learned_nothing_gets_through(memory, tmp_path) -> None:
    done = run(memory, tmp_path)
    assert sorted(done.called + done.handed) == sorted(EPISODE.order)
    assert done.snapshots[-1].trigger == "asked"
    assert done.snapshots[-1].tokens == done.tokens
