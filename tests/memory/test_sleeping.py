"""Sleeps that are asked for: light, deep, refused, and unusable."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from agentsleep.backends import Backend
from agentsleep.errors import SettingsError, SleepFailed
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory import sleeping as window_module
from agentsleep.memory.states import from_bytes
from agentsleep.policy import SleepPolicy
from agentsleep.sleep import deep_sleep, sleep
from agentsleep.state import FastWeights
from tests.memory.conftest import Open
from tests.memory.helpers import (
    FACT,
    FACT_TOKENS,
    SYSTEM,
    Trace,
    assert_whole,
    events,
    fill,
    kinds,
    same,
    stream_of,
)


def test_a_light_sleep_is_the_rule_applied_to_the_whole_window(session: Session, memory: SleepMemory) -> None:
    fill(session, 5)
    ids = stream_of(session)
    snapshot = session.sleep(passes=3)
    with torch.inference_mode():
        expected = sleep(memory.backend.model, torch.tensor([ids]), FastWeights(), passes=3).state
    assert same(session.state, expected)
    assert snapshot == session.head == session.history()[0]
    assert snapshot is not None
    assert (snapshot.passes, snapshot.rounds, snapshot.trigger, snapshot.mode) == (3, 1, "asked", "light")
    assert (snapshot.parent, snapshot.tokens, snapshot.span) == (None, 30, (0, 6))
    assert snapshot.fingerprint == memory.fingerprint
    assert snapshot.metrics["tokens"] == 30
    assert snapshot.metrics["norm"] == pytest.approx(expected.norm())
    assert float(str(snapshot.metrics["ms"])) > 0
    assert snapshot.environment["threads"] == torch.get_num_threads()
    assert session.window_tokens == 0
    assert session.window.logits is None
    assert session.tokens == 30
    assert session.stats().state_bytes == expected.nbytes
    assert_whole(session)


def test_the_next_window_goes_on_from_the_state_and_from_no_keys(session: Session, memory: SleepMemory) -> None:
    fill(session, 4)
    session.sleep(passes=2)
    before = session.state
    session.add("user", FACT)
    second = stream_of(session)[24:]
    session.sleep(passes=2)
    with torch.inference_mode():
        expected = sleep(memory.backend.model, torch.tensor([second]), before, passes=2).state
    assert same(session.state, expected)
    assert session.state.diff(before)["layers.3.recurrent"] > 0
    assert [s.parent for s in session.history()] == [None, session.history()[0].id]


def test_passes_count_from_the_call_then_the_policy_then_the_model(opened: Open) -> None:
    for policy, named, expected in ((None, None, 2), (3, None, 3), (3, 5, 5), (None, 1, 1)):
        with opened(SleepPolicy(trigger=None, passes=policy), ":memory:").session() as session:
            session.add("user", FACT)
            snapshot = session.sleep(passes=named)
            assert snapshot is not None
            assert snapshot.passes == expected
            assert_whole(session)


def test_more_passes_leave_another_state(memory: SleepMemory) -> None:
    states = []
    for passes in (1, 2, 3):
        with memory.session(f"{passes}") as session:
            fill(session, 4)
            session.sleep(passes=passes)
            states.append(session.state)
    tails = [state.only("conv") for state in states]
    assert same(tails[0], tails[1])
    assert same(tails[1], tails[2])
    assert states[0].diff(states[1])["layers.1.recurrent"] > 1e-3
    assert states[1].diff(states[2])["layers.1.recurrent"] > 1e-3


def test_a_deep_sleep_reads_archived_windows_again(session: Session, memory: SleepMemory) -> None:
    fill(session, 9)
    session.pin(system=SYSTEM)
    fill(session, 2)
    assert kinds(session) == "t" * 9 + "sptt"
    snapshot = session.sleep(deep=True, passes=2, rounds=2)
    assert kinds(session) == "t" * 9 + "spttsd"
    light = session.history()[-2]
    state = from_bytes(session.archive.load_state(light.id))
    stream, head = stream_of(session), memory.chat.message("system", SYSTEM)
    windows = [stream[:48], head + stream[48:]]
    with torch.inference_mode():
        visits = [(torch.tensor([ids]), None) for ids in windows]
        expected = deep_sleep(memory.backend.model, visits, state, passes=2, rounds=2)
    assert same(session.state, expected)
    assert snapshot == session.head
    assert snapshot is not None
    assert (snapshot.mode, snapshot.passes, snapshot.rounds, snapshot.parent) == ("deep", 2, 2, light.id)
    assert snapshot.metrics["tokens"] == 2 * sum(map(len, windows))
    assert snapshot.tokens == session.tokens
    assert session.window.ids == head
    assert_whole(session)


def test_a_deep_sleep_of_the_newest_windows(session: Session) -> None:
    fill(session, 20)
    session.sleep(deep=True, rounds=1, windows=2)
    mark = events(session)[-1].data
    assert (mark["first"], mark["windows"]) == (1, 2)
    assert_whole(session)
    session.sleep(deep=True, rounds=1, windows=99)
    assert (events(session)[-1].data["first"], events(session)[-1].data["windows"]) == (0, 3)
    assert_whole(session)
    fill(session, 2)
    session.sleep(deep=True)
    head = session.head
    assert head is not None
    assert (head.passes, head.rounds) == (2, 2)  # the model's
    assert_whole(session)


def test_sleeping_twice_in_a_row(session: Session) -> None:
    fill(session, 2)
    first = session.sleep()
    assert session.sleep() is None
    assert session.head == first
    assert kinds(session) == "tts"
    deep = session.sleep(deep=True)
    assert deep is not None
    assert deep.mode == "deep"
    assert kinds(session) == "ttsd"


@pytest.mark.parametrize("value", [0, -1, 2.0, "2", True])
@pytest.mark.parametrize("name", ["passes", "rounds", "windows"])
def test_passes_rounds_and_windows_are_whole_numbers_of_at_least_one(session: Session, name: str, value: Any) -> None:
    fill(session, 2)
    before = Trace.of(session)
    wrong: dict[str, Any] = {name: value}
    with pytest.raises(SettingsError, match=name):
        session.sleep(deep=True, **wrong)
    Trace.of(session).assert_same(before)


# Sleeps whose result is not usable


def spoiled(how: str) -> Callable[..., FastWeights]:
    def consolidate(self: Backend, ids: list[int], state: FastWeights, passes: int) -> FastWeights:
        with torch.inference_mode():
            whole = sleep(self.model, torch.tensor([ids]), state, passes=passes).state.clone()
        if how == "nothing":
            return FastWeights()
        if how == "zeros":
            return FastWeights({name: torch.zeros_like(tensor) for name, tensor in whole.items()})
        broken = whole["layers.3.recurrent"].clone()
        broken[0, 0, 0, 0] = float(how)
        return whole.merged({"layers.3.recurrent": broken})

    return consolidate


@pytest.mark.parametrize(
    ("how", "said"),
    [("nan", "NaN or Inf"), ("-inf", "NaN or Inf"), ("nothing", "an empty state"), ("zeros", "an empty state")],
)
def test_an_unusable_sleep_leaves_everything_as_it_was(
    session: Session, monkeypatch: pytest.MonkeyPatch, how: str, said: str
) -> None:
    fill(session, 3)
    session.sleep()
    fill(session, 4)
    before = Trace.of(session)
    with monkeypatch.context() as patch:
        patch.setattr(Backend, "consolidate", spoiled(how))
        for deep in (False, True):
            with pytest.raises(SleepFailed, match=rf"light sleep of 4 passes gave {said}; the state from before it"):
                session.sleep(deep=deep, passes=4)
            Trace.of(session).assert_near(before)
    assert session.sleep() is not None
    assert_whole(session)


def test_an_unusable_deep_sleep_keeps_the_light_one(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(session, 3)
    with monkeypatch.context() as patch:
        patch.setattr(window_module, "deep", lambda *anything: FastWeights())
        with pytest.raises(SleepFailed, match=r"deep sleep of 2 passes gave an empty state"):
            session.sleep(deep=True)
    assert kinds(session) == "ttts"
    assert session.head is not None
    assert session.head.mode == "light"
    assert_whole(session)


def test_a_message_is_kept_when_the_sleep_it_takes_is_unusable(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = opened()
    with memory.session() as session:
        fill(session, 7)
        with monkeypatch.context() as patch:
            patch.setattr(Backend, "consolidate", spoiled("nan"))
            with pytest.raises(SleepFailed):
                session.add("user", FACT + FACT)
            assert kinds(session) == "t" * 8
            assert session.messages()[-1].text == FACT + FACT
            with pytest.raises(SleepFailed):
                session.add("user", FACT)  # the window is still full: nothing can be read, and nothing is logged
            assert kinds(session) == "t" * 8
        assert session.window_tokens == len(session.messages()[-1].token_ids)  # slept on as soon as that works
        assert kinds(session) == "t" * 8 + "s"
        assert_whole(session)


def test_a_session_whose_sleep_fails_opens_with_fewer_passes(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model may blow up at N = 4 and not at N = 1."""
    consolidate = Backend.consolidate

    def fragile(self: Backend, ids: list[int], state: FastWeights, passes: int) -> FastWeights:
        return spoiled("inf")(self, ids, state, passes) if passes > 1 else consolidate(self, ids, state, passes)

    monkeypatch.setattr(Backend, "consolidate", fragile)
    with opened().session() as session:
        fill(session, 8)
        with pytest.raises(SleepFailed, match=r"fewer passes, or fork an earlier snapshot"):
            session.add("user", FACT)
    with pytest.raises(SleepFailed):
        opened().session()
    with opened(SleepPolicy(trigger=None, passes=1)).session() as session:
        assert session.window_tokens == FACT_TOKENS
        assert_whole(session)


def test_an_unusable_sleep_in_the_middle_of_a_turn_keeps_what_was_written(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(session, 7)
    with monkeypatch.context() as patch:
        patch.setattr(Backend, "consolidate", spoiled("nan"))
        with pytest.raises(SleepFailed):
            session.generate(max_new_tokens=20)
    (said,) = session.messages()[7:]
    assert said.data == {"generated": True, "cut": True}
    assert len(said.token_ids) == 6 + 1  # what fitted, and the end
    assert_whole(session)
