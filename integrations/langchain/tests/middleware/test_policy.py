"""SleepMiddleware sets the policy of the session, and has none of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from langchain.agents.middleware import (
    SummarizationMiddleware,
)
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from tests.agents import (
    Actor,
    agent_of,
    assert_same,
    handle_in,
    hear,
    invoke,
    opened_at,
    twin,
)
from tests.talk import FACTS, Open

from agentsleep.errors import SettingsError
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from langchain_agentsleep import SleepMiddleware

LONG = [*FACTS, *FACTS][:14]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"trigger": ("messages", 3)},
        {"trigger": None},
        {"keep": ("tokens", 9)},
        {"keep": None},
        {"passes": 5},
        {"trigger": {"tokens": 40, "messages": 2}, "keep": ("fraction", 0.2), "passes": 1},
    ],
)
def test_what_is_not_given_is_the_memorys(opened: Open, given: dict[str, Any]) -> None:
    own = SleepPolicy(trigger=("tokens", 50), keep=("messages", 2), passes=3, max_passes=4, max_windows=7)
    assert SleepMiddleware(opened(own), **given).policy == replace(own, **given)


TRIGGERS = [
    ("messages", 4),
    ("tokens", 40),
    ("fraction", 0.5),
    {"tokens": 40, "messages": 4},
    {"fraction": 0.25, "messages": 6},
    [("tokens", 90), ("messages", 4)],
    [{"tokens": 40, "messages": 4}, ("fraction", 0.75)],
    [],
    None,
]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=str)
def test_triggers_mean_what_they_mean_to_langchain(memory: SleepMemory, trigger: Any) -> None:
    theirs = SummarizationMiddleware(
        FakeListChatModel(responses=[""], profile={"max_input_tokens": 100}), trigger=trigger
    )
    ours = SleepMiddleware(memory, trigger=trigger).policy
    for tokens in range(101):
        for messages in range(8):
            said: list[AnyMessage] = [HumanMessage("hello")] * messages
            due = ours.due(tokens=tokens, messages=messages, window=100)
            assert due == theirs._should_summarize(said, tokens), (tokens, messages)


@pytest.mark.parametrize(
    ("wrong", "value"),
    [
        ({"trigger": ("tokens", 0)}, "0"),
        ({"trigger": ("words", 10)}, "words"),
        ({"trigger": ("fraction", 1.5)}, "1.5"),
        ({"trigger": ["tokens", 80]}, "tokens"),
        ({"trigger": {}}, "empty dict"),
        ({"trigger": [{"tokens": -1}]}, "-1"),
        ({"trigger": "often"}, "often"),
        ({"trigger": 80}, "80"),
        ({"keep": ("messages", 0)}, "0"),
        ({"keep": [("messages", 2)]}, "messages"),
        ({"keep": "all"}, "all"),
        ({"passes": 0}, "0"),
        ({"passes": "auto"}, "auto"),
        ({"passes": True}, "True"),
        ({"after": "soon"}, "soon"),
        ({"after": True}, "True"),
        ({"when": "tomorrow"}, "tomorrow"),
        ({"when": None}, "None"),
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": 1.5}, "rounds is 1.5"),
        ({"window": 0}, "window is 0"),
        ({"window": True}, "window is True"),
    ],
)
def test_settings_out_of_range(memory: SleepMemory, wrong: dict[str, Any], value: str) -> None:
    with pytest.raises(SettingsError, match=value):
        SleepMiddleware(memory, **wrong)


def test_the_sessions_policy_is_the_middlewares(memory: SleepMemory) -> None:
    """The memory's own would never sleep here."""
    sleepy = SleepMiddleware(memory, trigger=("messages", 3), passes=3, after=None)
    agent = agent_of(Actor(memory), sleepy, saver=InMemorySaver())
    passes = [invoke(agent, text)[-1].response_metadata["passes"] for text in LONG[:4]]
    assert passes == [0, 3, 3, 3]
    with twin(memory, sleepy) as plain, opened_at(memory, handle_in(agent), sleepy.policy) as session:
        for text in LONG[:4]:
            hear(plain, memory, text)
        assert [one.passes for one in session.history()] == [3, 3, 3]
        assert_same(session, plain)
