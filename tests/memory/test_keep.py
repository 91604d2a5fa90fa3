"""Messages that stay in the window when a session sleeps by itself: read again, and consolidated once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.archive import UserArchive
from agentsleep.errors import ArchiveError, SettingsError
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from tests.memory.conftest import Open
from tests.memory.helpers import (
    FACT,
    FACT_TOKENS,
    SYSTEM,
    WINDOW,
    Trace,
    assert_whole,
    events,
    fill,
    rig,
    same,
    stream_of,
)

EIGHT = ("tokens", 8 * FACT_TOKENS)


def spans(memory: SleepMemory, thread: str = "t") -> list[tuple[int, int]]:
    """Tokens of the log that each sleep took in."""
    with memory.session(thread) as session:
        marks: list[Any] = [event.data for event in events(session) if event.kind == "sleep"]
    return [(mark["start"], mark["stop"]) for mark in marks]


def test_the_kept_messages_are_the_next_windows_first(opened: Open) -> None:
    memory = opened(SleepPolicy(trigger=EIGHT, keep=("messages", 2)))
    with memory.session("t") as session:
        fill(session, 8)
        assert session.window.ids == stream_of(session)[6 * FACT_TOKENS :]
        assert session.head is not None
        assert session.head.metrics["tokens"] == 6 * FACT_TOKENS
        expected = memory.backend.consolidate(stream_of(session)[: 6 * FACT_TOKENS], FastWeights(), 2)
        assert all(tensor.equal(session.state[name]) for name, tensor in expected.items())
        fill(session, 7)
        assert_whole(session)
        before = Trace.of(session)
    assert spans(memory) == [(0, 36), (36, 72)]  # every token once
    with opened(SleepPolicy(trigger=EIGHT)).session("t") as again:
        before.assert_near(Trace.of(again))


@pytest.mark.parametrize(("keep", "left"), [(("tokens", 13), 2), (("tokens", 5), 0), (("fraction", 0.4), 3)])
def test_whole_messages_are_kept(opened: Open, keep: Any, left: int) -> None:
    with opened(SleepPolicy(trigger=EIGHT, keep=keep)).session("t") as session:
        fill(session, 8)
        assert session.window_tokens == left * FACT_TOKENS
        assert_whole(session)


def test_never_more_than_half_of_what_is_free_is_kept(opened: Open) -> None:
    with opened(SleepPolicy(trigger=EIGHT, keep=("messages", 7))).session("t") as session:
        fill(session, 8)
        assert session.window_tokens == WINDOW // 2
    with opened(SleepPolicy(trigger=EIGHT, keep=("messages", 7))).session("s", system=SYSTEM) as session:
        fill(session, 7)  # the seventh does not fit
        pinned = session.stats().pinned_tokens
        assert 0 < session.window_tokens - pinned - FACT_TOKENS <= (WINDOW - pinned) // 2
        assert_whole(session)


def test_a_sleep_that_is_asked_for_keeps_nothing(opened: Open) -> None:
    with opened(SleepPolicy(trigger=None, keep=("messages", 2))).session("t") as session:
        fill(session, 4)
        session.sleep()
        assert session.window_tokens == 0
        fill(session, 3)
        session.sleep(deep=True, rounds=1)
        assert_whole(session)


def test_a_message_that_fits_is_not_cut_for_what_is_kept(opened: Open) -> None:
    memory = opened(SleepPolicy(trigger=None, keep=("messages", 3)))
    with memory.session("t") as session:
        fill(session, 7)
        session.add("user", " ".join([FACT[:-2]] * 10))  # nearly a window
        assert session.window.ids == stream_of(session)[6 * FACT_TOKENS :]  # one fact is kept: more had no room
        assert_whole(session)


@pytest.mark.parametrize("long", [10, 30, 70, 110])
def test_a_turn_that_overflows_stays_whole(opened: Open, monkeypatch: pytest.MonkeyPatch, long: int) -> None:
    memory = opened(SleepPolicy(trigger=None, keep=("messages", 2)))
    said = [300 + i % 50 for i in range(long)]
    with memory.session("t") as session:
        fill(session, 6)
        rig(monkeypatch, [*said, memory.chat.end])
        answer = session.generate(max_new_tokens=long + 1)
        assert answer.finished
        assert stream_of(session)[6 * FACT_TOKENS + 1 : -1] == said
        assert_whole(session)
        before = Trace.of(session)
    with opened().session("t") as again:
        after = Trace.of(again)
        assert (after.log, after.head, after.window) == (before.log, before.head, before.window)
        assert same(after.state, before.state)
        turns = [event for event in again.messages() if event.role == "assistant"]
        assert [token for turn in turns for token in turn.token_ids][1:-1] == said


@pytest.mark.parametrize("kept", [None, ("messages", 2)])
def test_what_breaks_off_after_a_stored_sleep_loses_nothing_of_the_turn(
    opened: Open, monkeypatch: pytest.MonkeyPatch, kept: Any
) -> None:
    memory = opened(SleepPolicy(trigger=None, keep=kept))
    said = [300 + i for i in range(20)]
    with memory.session("t") as session:
        fill(session, 6)
        rig(monkeypatch, [*said, memory.chat.end])
        commit = UserArchive.commit_snapshot

        def stored_and_broken(*args: Any, **kwargs: Any) -> Any:
            commit(*args, **kwargs)
            raise ArchiveError("the line went down")

        monkeypatch.setattr(UserArchive, "commit_snapshot", stored_and_broken)
        with pytest.raises(ArchiveError, match="went down"):
            session.generate(max_new_tokens=30)
        monkeypatch.setattr(UserArchive, "commit_snapshot", commit)
        assert_whole(session)
        turn = stream_of(session)[6 * FACT_TOKENS + 1 : -1]
        assert turn == said[: len(turn)]
        assert len(turn) >= 10  # what the window held when it was full


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    unit=st.sampled_from(["messages", "tokens", "fraction"]),
    part=st.floats(0.01, 1),
    room=st.integers(-5, 100),
)
def test_kept_is_a_suffix_that_leaves_room(lengths: list[int], unit: Any, part: float, room: int) -> None:
    amount = {"messages": max(1, round(12 * part)), "tokens": max(1, round(100 * part)), "fraction": part}[unit]
    count = SleepPolicy(keep=(unit, amount)).kept(lengths, window=100, room=room)
    assert 0 <= count < len(lengths)
    tokens = sum(lengths[len(lengths) - count :])
    assert tokens <= max(0, room // 2)
    if unit == "messages":
        assert count <= amount
    else:
        assert tokens <= (amount if unit == "tokens" else amount * 100)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        (2, r"keep is 2; it must be of the form \(\"messages\", 2\)"),
        (("words", 2), "unit 'words' is none of"),
        (("messages", 0), "it must be a number above 0"),
        (("fraction", 1.5), "it must lie in"),
        (("messages", 1, 2), "must be of the form"),
    ],
)
def test_what_is_no_keep(keep: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        SleepPolicy(keep=keep)
