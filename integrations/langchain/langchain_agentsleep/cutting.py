"""Which messages may leave an agent's list."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, SystemMessage, ToolMessage


def removals(
    messages: Sequence[AnyMessage], consolidated: Collection[str], *, kept: int = 1, from_user: bool = False
) -> list[RemoveMessage]:
    """Removes the head of the list as far as it is consolidated. System messages stay, and so do the last message, a
    call of a tool whose result stays, and one that has no result yet.

    Args:
        consolidated: ids of messages that were slept on.
        kept: of the last messages that stay in any case.
        from_user: whether what stays must begin with a message of the user, as models behind an API ask for.
    """
    most = len(messages) - max(1, kept)
    stop = 0
    while stop < most and (messages[stop].id in consolidated or isinstance(messages[stop], SystemMessage)):
        stop += 1
    stop = _whole(messages, stop)
    while from_user and stop and not (stop < len(messages) and isinstance(messages[stop], HumanMessage)):
        stop -= 1
    return [RemoveMessage(id=str(one.id)) for one in messages[:stop] if not isinstance(one, SystemMessage)]


def _whole(messages: Sequence[AnyMessage], stop: int) -> int:
    """The place at or before ``stop`` that parts no call of a tool from its result."""
    for place in range(stop - 1, -1, -1):
        one = messages[place]
        if isinstance(one, AIMessage) and one.tool_calls:
            answered = {m.tool_call_id for m in messages[place + 1 : stop] if isinstance(m, ToolMessage)}
            if not {call["id"] for call in one.tool_calls} <= answered:
                stop = place
    return stop
