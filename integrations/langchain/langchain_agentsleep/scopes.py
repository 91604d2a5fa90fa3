"""Whose memory a call is about: from the config that LangChain hands down."""

from __future__ import annotations

from langchain_core.runnables import RunnableConfig

from agentsleep.archive import Scope


def scope_of(config: RunnableConfig, user: str, tenant: str) -> Scope | None:
    """The scope that the config's ``configurable`` names by ``thread_id``, ``user_id`` and ``tenant_id``; None without
    a thread.

    Args:
        user, tenant: where the config names none.
    """
    named = config.get("configurable") or {}
    thread = named.get("thread_id")
    if thread is None:
        return None
    return Scope(
        tenant=str(named.get("tenant_id") or tenant), user=str(named.get("user_id") or user), thread=str(thread)
    )
