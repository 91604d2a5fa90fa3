"""A session in numbers: counted along, never written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentsleep import Stats
from agentsleep.archive import NewEvent
from agentsleep.gauge import saturation
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory import sleeping as window_module
from tests.memory.conftest import Open
from tests.memory.helpers import WINDOW, Trace, events, fill


def counts(session: Session) -> tuple[int, int, int, int]:
    now = session.stats()
    return now.snapshots, now.light_sleeps, now.deep_sleeps, now.passes


def test_sleeps_and_passes_are_counted(session: Session) -> None:
    assert counts(session) == (0, 0, 0, 0)
    fill(session, 3)
    assert counts(session) == (0, 0, 0, 0)
    session.sleep(passes=3)
    assert counts(session) == (1, 1, 0, 3)
    fill(session, 10)  # the window overflows: the model's 2 passes
    assert counts(session) == (2, 2, 0, 5)
    session.sleep(deep=True, passes=4, rounds=2)  # a light one, and 2 rounds over 3 windows
    assert counts(session) == (4, 3, 1, 5 + 4 + 4 * 2 * 3)
    session.sleep(deep=True, passes=1, rounds=1, windows=2)
    assert counts(session) == (5, 3, 2, 33 + 2)


def test_the_gauge_is_that_of_the_state_the_window_opened_with(session: Session) -> None:
    fill(session, 4)
    assert session.stats().saturation.overall == 0.0
    session.sleep()
    fill(session, 2)
    now = session.stats()
    assert isinstance(now, Stats)
    assert now.saturation == saturation(session.state)
    assert list(now.saturation.layers) == [1, 3]
    assert 0 < now.saturation.overall <= 1
    assert (now.window_tokens, now.window_capacity, now.tokens) == (12, WINDOW, 36)
    assert now.state_bytes == session.state.nbytes > 0
    assert session.head is not None
    assert session.head.metrics["saturation"] == now.saturation.overall


def test_reading_them_writes_nothing(session: Session, archive: Path) -> None:
    fill(session, 3)
    session.sleep()
    fill(session, 2)
    before = Trace.of(session)
    files = {path.name: path.read_bytes() for path in archive.parent.glob(f"{archive.name}*") if path.is_file()}
    assert archive.name in files
    assert session.stats() == session.stats()
    Trace.of(session).assert_same(before)
    assert {name: (archive.parent / name).read_bytes() for name in files} == files


def test_a_reopened_session_and_a_fork_go_on_counting(opened: Open) -> None:
    with opened().session("t") as session:
        fill(session, 3)
        first = session.sleep(passes=3)
        session.sleep(deep=True, passes=1, rounds=1)
        before = session.stats()
    memory = opened()
    with memory.session("t") as session:
        assert session.stats() == before
        fill(session, 1)
        session.sleep(passes=2)
        assert counts(session) == (3, 2, 1, 3 + 1 + 2)
    assert first is not None
    with memory.fork(first) as fork:
        assert counts(fork) == (1, 1, 0, 3)  # what came later is unknown to it
        fill(fork, 1)
        fork.sleep(passes=5)
        assert counts(fork) == (2, 2, 0, 8)


def test_marks_from_before_the_tally_are_counted_again(
    memory: SleepMemory, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without(**fields: Any) -> NewEvent:
        data = {name: value for name, value in fields.pop("data", {}).items() if name != "tally"}
        return NewEvent(**fields, data=data)

    with memory.session("t") as session, monkeypatch.context() as patch:
        patch.setattr(window_module, "NewEvent", without)
        fill(session, 10)
        session.sleep(deep=True, passes=3, rounds=2)
        counted = counts(session)
        assert [event.kind for event in events(session) if "tally" in event.data] == []
    assert counted == (3, 2, 1, 2 + 3 + 3 * 2 * 2)
    with opened().session("t") as session:
        assert counts(session) == counted
        fill(session, 1)
        session.sleep(passes=1)
        assert counts(session) == (4, 3, 1, counted[3] + 1)
