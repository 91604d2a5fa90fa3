"""What the adapter adds to a turn. In seconds of the processor, since others may use the machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from tests.talk import FACTS, config

from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep

TURNS, MESSAGES = 40, 200


def measured(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def overhead(memory: SleepMemory) -> float:
    """Milliseconds: the median of a call with a list of 200 messages and more, less that of a session which is given
    the new message alone, over as many turns of the same length."""
    chat = ChatSleep(memory, max_tokens=4, generation={"min_new_tokens": 4})
    said: list[BaseMessage] = []
    for turn in range(MESSAGES // 2):
        said += [HumanMessage(FACTS[turn % 10]), AIMessage("bob")]
    ours, theirs = [], []
    with memory.session("alone") as session:
        for message in said:
            session.add("user" if isinstance(message, HumanMessage) else "assistant", message.text)
        for turn in range(TURNS + 1):
            fact = FACTS[turn % 10]
            said.append(HumanMessage(fact))
            ours.append(measured(lambda: said.append(chat.invoke(said, config()))))

            def alone(fact: str = fact) -> None:
                session.add("user", fact, asked=True)
                session.generate(max_new_tokens=4, min_new_tokens=4)

            theirs.append(measured(alone))
    return 1e3 * (statistics.median(ours[1:]) - statistics.median(theirs[1:]))


@pytest.mark.slow
def test_a_turn_of_a_long_list_costs_little_more_than_its_new_message(archive: Path) -> None:
    with SleepMemory(archive=archive) as memory:
        assert overhead(memory) <= 5.0
