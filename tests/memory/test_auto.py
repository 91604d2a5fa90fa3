"""Sleeps whose passes are found by probes: what the log keeps is a number, and a replay asks nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from agentsleep.backends import Backend, LiveWindow
from agentsleep.errors import SettingsError, SleepFailed
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights
from tests.memory.conftest import Open
from tests.memory.helpers import (
    FACT,
    SYSTEM,
    WINDOW,
    Trace,
    assert_whole,
    events,
    fill,
    kinds,
    same,
    stream_of,
)

PROBES = ("who comes 1 after bob ?", "who comes 2 after alice ?")


def auto(**settings: Any) -> SleepPolicy:
    return SleepPolicy(**{"trigger": None, "passes": "auto", "max_passes": 6, "probes": PROBES} | settings)


def by_hand(memory: SleepMemory, ids: list[int], pinned: Sequence[int], most: int) -> tuple[int, FastWeights]:
    """The passes of a first window, by asking every depth in windows that are read as ``ask`` reads them."""
    before: list[int] = []
    for passes in range(1, most + 1):
        with torch.inference_mode():
            state = sleep(memory.backend.model, torch.tensor([ids]), FastWeights(), passes=passes).state
        answers = []
        for probe in PROBES:
            window = LiveWindow(memory.backend, state)
            window.read([*pinned, *memory.chat.message("user", probe), *memory.chat.prompt()])
            assert window.logits is not None
            answers.append(int(window.logits.argmax()))
        if answers == before:
            break
        before = answers
    return passes, state


def passes_of(session: Session) -> list[int]:
    return [int(str(event.data["passes"])) for event in events(session) if event.kind == "sleep"]


@pytest.mark.parametrize("system", [None, SYSTEM])
def test_the_passes_found_are_those_that_asking_finds(opened: Open, system: str | None) -> None:
    memory = opened(auto())
    pinned = memory.chat.message("system", system) if system else []
    for thread, facts in (("a", 2), ("b", 5)):
        with memory.session(thread, system=system) as session:
            fill(session, facts)
            found, state = by_hand(memory, [*pinned, *stream_of(session)], pinned, 6)
            snapshot = session.sleep()
            assert snapshot is not None
            assert snapshot.passes == found
            assert passes_of(session) == [found]
            assert same(session.state, state)
            asked = sum(len(pinned) + len(memory.chat.message("user", probe)) + 1 for probe in PROBES)
            assert snapshot.metrics["probe_tokens"] == asked * min(found, 5)
            assert session.stats().passes == found
            assert_whole(session)


def test_sleeps_by_policy_and_overflow_are_replayed_without_probes(opened: Open) -> None:
    with opened(auto(trigger=("messages", 6))).session("t") as session:
        fill(session, 7)
        session.add("tool", " ".join([FACT] * 12))
        session.generate(max_new_tokens=3)
        session.sleep()
        found, reasons = passes_of(session), [s.trigger for s in session.history()]
        assert {"policy", "overflow", "asked"} == set(reasons)
        assert [s.passes for s in session.history()] == found
        assert all(2 <= n <= 6 for n in found)
        assert_whole(session)
        state = session.state
    with opened().session("t") as session:  # another policy, without probes
        assert same(session.state, state)
        assert_whole(session)


def test_a_call_may_ask_for_it(opened: Open) -> None:
    with opened(auto(passes=None)).session() as session:
        fill(session, 3)
        found, state = by_hand(opened(auto()), stream_of(session), [], 6)
        session.sleep(passes="auto")
        assert passes_of(session) == [found]
        assert same(session.state, state)
        fill(session, 3)
        session.sleep()
        assert passes_of(session) == [found, 2]  # the model's own
    with opened(auto()).session("named") as session:
        fill(session, 3)
        snapshot = session.sleep(passes=1)
        assert snapshot is not None
        assert snapshot.passes == 1
        assert "probe_tokens" not in snapshot.metrics


def test_a_call_without_probes_is_refused(session: Session) -> None:
    fill(session, 2)
    before = Trace.of(session)
    for deep in (False, True):
        with pytest.raises(SettingsError, match=r"the policy has no probes.*SleepPolicy\(probes="):
            session.sleep(deep=deep, passes="auto")
    with pytest.raises(SettingsError, match=r"passes is 'Auto'; it must be a whole number"):
        session.sleep(passes="Auto")  # type: ignore[arg-type]
    Trace.of(session).assert_same(before)


def test_probes_leave_no_trace(opened: Open) -> None:
    memory = opened(auto())
    with memory.session() as session:
        fill(session, 3)
        session.sleep()
        assert kinds(session) == "ttts"
        assert session.tokens == 18
        assert session.window_tokens == 0


def test_a_question_aside_sees_the_state_that_the_sleep_will_leave(opened: Open) -> None:
    with opened(auto()).session(system=SYSTEM) as session:
        fill(session, 4)
        with session.desk.using() as reading:
            aside = reading.aside()
            aside.make_room()
            assert aside.window.ids == reading.pinned
        assert session.head is None
        session.sleep()
        assert same(aside.window.opened, session.state)


def test_visits_of_a_deep_sleep_make_the_most(opened: Open) -> None:
    with opened(auto(max_passes=3)).session() as session:
        fill(session, 9)
        session.sleep(deep=True, rounds=1)
        light, deep = session.history()[-2:]
        assert (light.mode, deep.mode) == ("light", "deep")
        assert 2 <= light.passes <= 3
        assert deep.passes == 3
        assert_whole(session)


def test_one_pass_at_most_asks_nothing(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(auto(max_passes=1)).session() as session:
        fill(session, 2)
        snapshot = session.sleep()
        assert snapshot is not None
        assert snapshot.passes == 1
        assert "probe_tokens" not in snapshot.metrics
        assert_whole(session)


def test_an_unusable_sleep_leaves_everything_as_it_was(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(auto()).session() as session:
        fill(session, 3)
        before = Trace.of(session)
        with monkeypatch.context() as patch:
            patch.setattr(Backend, "consolidate_until", lambda *anything: (FastWeights(), 3, 40))
            with pytest.raises(SleepFailed, match=r"light sleep of 3 passes gave an empty state"):
                session.sleep()
        Trace.of(session).assert_near(before)
        assert session.stats().passes == 0
        assert session.sleep() is not None
        assert_whole(session)


def test_probes_must_leave_room_for_what_is_pinned(opened: Open) -> None:
    with pytest.raises(SettingsError, match=r"the probe .* takes \d+ tokens, more than half of the window of 48"):
        opened(auto(probes=("who ?", " ".join([PROBES[0]] * 5))))


def test_the_longest_probe_fits_behind_the_longest_head(opened: Open) -> None:
    memory = opened(auto(probes=(" ".join(["bob"] * (WINDOW // 2 - 3)),)))
    assert [len(probe) for probe in memory.probes] == [WINDOW // 2]
    with memory.session() as session:
        session.pin(system=" ".join(["bob"] * (WINDOW // 2 - 2)))
        assert session.stats().pinned_tokens == WINDOW // 2
        fill(session, 2)
        assert session.sleep() is not None
        assert_whole(session)
