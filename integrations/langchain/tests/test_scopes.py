"""Whose memory a call is about."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.runnables import RunnableConfig, RunnableLambda
from tests.talk import FACTS, config, humans, names, said_in

from agentsleep.archive import Scope
from agentsleep.memory import SleepMemory
from langchain_agentsleep import ChatSleep
from langchain_agentsleep.scopes import scope_of


@pytest.mark.parametrize(
    ("named", "scope"),
    [
        ({"thread_id": "t"}, Scope(tenant="acme", user="ada", thread="t")),
        ({"thread_id": "t", "user_id": "bob"}, Scope(tenant="acme", user="bob", thread="t")),
        ({"thread_id": "t", "user_id": "bob", "tenant_id": "x"}, Scope(tenant="x", user="bob", thread="t")),
        ({"thread_id": "t", "user_id": None, "tenant_id": ""}, Scope(tenant="acme", user="ada", thread="t")),
        ({"thread_id": 7, "user_id": 8}, Scope(tenant="acme", user="8", thread="7")),
        ({"user_id": "bob"}, None),
        ({"thread_id": None}, None),
        ({}, None),
    ],
)
def test_the_config_names_it(named: dict[str, Any], scope: Scope | None) -> None:
    assert scope_of(RunnableConfig(configurable=named), "ada", "acme") == scope


def test_a_config_without_anything() -> None:
    assert scope_of(RunnableConfig(), "ada", "acme") is None


def test_memories_of_users_are_apart(memory: SleepMemory) -> None:
    chat = ChatSleep(memory, max_tokens=2, user="ada", tenant="acme")
    chat.invoke(humans(FACTS[0]), config())
    chat.invoke(humans(FACTS[1]), config(user_id="bob"))
    chat.invoke(humans(FACTS[2]), config(user_id="bob", tenant_id="other"))
    assert said_in(memory, user="ada", tenant="acme")[0][1] == FACTS[0]
    assert said_in(memory, user="bob", tenant="acme")[0][1] == FACTS[1]
    assert said_in(memory, user="bob", tenant="other")[0][1] == FACTS[2]
    assert names(memory) == []


async def test_a_chain_hands_it_down(memory: SleepMemory) -> None:
    """To every way of calling the model, also where the chain itself says nothing of a config."""
    chat = ChatSleep(memory, max_tokens=2)
    chain = RunnableLambda(lambda text: humans(text)) | chat
    chain.invoke(FACTS[0], config("a"))
    await chain.ainvoke(FACTS[0], config("b"))
    list(chain.stream(FACTS[0], config("c")))
    assert [chunk async for chunk in chain.astream(FACTS[0], config("d"))]
    RunnableLambda(lambda text: chat.invoke(humans(text))).invoke(FACTS[0], config("e"))
    chain.with_config(config("f")).invoke(FACTS[0])
    assert names(memory) == list("abcdef")


def test_threads_whose_names_are_like_branches(memory: SleepMemory) -> None:
    chat = ChatSleep(memory, max_tokens=2)
    for thread in ("t", "t@1", "t@1@2"):
        chat.invoke(humans(FACTS[0]), config(thread))
    assert names(memory) == ["t", "t@1", "t@1@2"]
