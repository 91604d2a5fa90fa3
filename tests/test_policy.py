"""When to sleep."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.errors import SettingsError
from agentsleep.policy import SleepPolicy


def due(trigger: Any, tokens: int = 0, messages: int = 0, window: int = 100) -> bool:
    return SleepPolicy(trigger=trigger).due(tokens=tokens, messages=messages, window=window)


def test_the_default_sleeps_at_nine_tenths() -> None:
    policy = SleepPolicy()
    assert not policy.due(tokens=86, messages=50, window=96)
    assert policy.due(tokens=87, messages=1, window=96)
    assert (policy.passes, policy.max_windows) == (None, 64)


@pytest.mark.parametrize(
    ("trigger", "at", "below"),
    [
        (("tokens", 10), {"tokens": 10}, {"tokens": 9}),
        (("messages", 3), {"messages": 3}, {"messages": 2, "tokens": 100}),
        (("fraction", 0.5), {"tokens": 50}, {"tokens": 49}),
        (("fraction", 1), {"tokens": 100}, {"tokens": 99}),
        ({"tokens": 10, "messages": 3}, {"tokens": 10, "messages": 3}, {"tokens": 100, "messages": 2}),
        ([("tokens", 10), ("messages", 3)], {"messages": 3}, {"tokens": 9, "messages": 2}),
        ((("tokens", 10), ("messages", 3)), {"tokens": 10}, {"tokens": 9, "messages": 2}),
        ([{"tokens": 10, "messages": 3}, ("fraction", 0.9)], {"tokens": 90}, {"tokens": 89, "messages": 2}),
        ([[("tokens", 10)], [[("messages", 3)]]], {"messages": 3}, {"messages": 2}),
    ],
)
def test_triggers(trigger: Any, at: dict[str, int], below: dict[str, int]) -> None:
    assert due(trigger, **at)
    assert not due(trigger, **below)


@pytest.mark.parametrize("trigger", [None, [], ()])
def test_without_a_trigger_only_an_overflow_makes_a_session_sleep(trigger: Any) -> None:
    assert not due(trigger, tokens=100, messages=100)


@given(
    st.integers(0, 200),
    st.integers(0, 50),
    st.integers(1, 200),
    st.floats(0.1, 200, allow_nan=False),
    st.integers(1, 50),
)
def test_or_and_and_are_what_they_say(tokens: int, messages: int, window: int, many: float, few: int) -> None:
    one, other = ("tokens", many), ("messages", few)
    held: dict[str, int] = {"tokens": tokens, "messages": messages, "window": window}
    assert due([one, other], **held) == (due(one, **held) or due(other, **held))
    assert due(dict([one, other]), **held) == (due(one, **held) and due(other, **held))


@pytest.mark.parametrize(
    ("trigger", "said"),
    [
        (("words", 3), "unit 'words' is none of"),
        ({"tokens": 3, "words": 3}, "unit 'words' is none of"),
        (("tokens", 0), "amount of tokens is 0; it must be a number above 0"),
        (("messages", -1), "amount of messages is -1"),
        (("tokens", "80"), "amount of tokens is '80'"),
        (("tokens", True), "amount of tokens is True"),
        (("tokens", math.nan), "amount of tokens is nan"),
        (("tokens", math.inf), "amount of tokens is inf"),
        (("tokens", None), "amount of tokens is None"),
        (("fraction", 1.01), "a fraction of 1.01 cannot be reached"),
        ({}, "an empty dict is no trigger"),
        ([("tokens", 5), {}], "an empty dict is no trigger"),
        ("tokens", "trigger 'tokens' is not of the form"),
        (0.9, "trigger 0.9 is not of the form"),
        (["tokens", 80], "trigger 'tokens' is not of the form"),
        (("tokens", 80, 90), "trigger 'tokens' is not of the form"),
        (b"x", "is not of the form"),
    ],
)
def test_triggers_that_are_none(trigger: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        SleepPolicy(trigger=trigger)


@pytest.mark.parametrize("value", [0, -1, 1.5, "4", True, math.nan])
@pytest.mark.parametrize("name", ["passes", "max_passes", "max_windows"])
def test_counts_are_whole_numbers_of_at_least_one(name: str, value: Any) -> None:
    with pytest.raises(SettingsError, match=rf"{name} is {value!r}; it must be a whole number of at least 1"):
        SleepPolicy(**{name: value})


def test_auto_needs_probes() -> None:
    policy = SleepPolicy(passes="auto", probes=["who comes 1 after bob ?"])
    assert (policy.passes, policy.max_passes, policy.probes) == ("auto", 8, ("who comes 1 after bob ?",))
    with pytest.raises(SettingsError, match=r'passes is "auto", but the policy has no probes.*SleepPolicy\(probes='):
        SleepPolicy(passes="auto")
    assert SleepPolicy(probes=("who ?",)).passes is None  # for sleeps that ask for it
    with pytest.raises(SettingsError, match=r"passes is 'Auto'"):
        SleepPolicy(passes="Auto", probes=("who ?",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("probes", "said"),
    [
        ("who ?", r"probes is 'who \?'; it must be a sequence of texts"),
        (None, r"probes is None; it must be a sequence of texts"),
        (("who ?", ""), r"the probe '' is no question"),
        ((" \n",), r"the probe ' \\n' is no question"),
        ((3,), r"the probe 3 is no question"),
    ],
)
def test_probes_that_are_none(probes: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        SleepPolicy(passes="auto", probes=probes)


def test_max_windows_is_never_none() -> None:
    with pytest.raises(SettingsError, match=r"max_windows is None"):
        SleepPolicy(max_windows=None)  # type: ignore[arg-type]


def test_a_policy_is_a_value() -> None:
    assert SleepPolicy(passes=4) == SleepPolicy(passes=4)
    with pytest.raises(FrozenInstanceError):
        SleepPolicy().passes = 3  # type: ignore[misc]
