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
    while stop < most and (messages[stop].id in consolidated or _hides_nothing(messages[stop])):
        stop += 1
    stop = _whole(messages, stop)
    while from_user and stop and not isinstance(messages[stop], HumanMessage):
        stop = _whole(messages, stop - 1)
    return [RemoveMessage(id=str(one.id)) for one in messages[:stop] if not isinstance(one, SystemMessage)]


def _hides_nothing(message: AnyMessage) -> bool:
    """Whether what stands behind it may leave though it was not slept on: it stays itself, or says nothing."""
    if isinstance(message, AIMessage):
        return not message.tool_calls and not message.text.strip()
    return isinstance(message, SystemMessage)


def _whole(messages: Sequence[AnyMessage], stop: int) -> int:
    """The place at or before ``stop`` that parts no call of a tool from its result, be it one that is to come."""
    callers: dict[str | None, int] = {}  # an id may be used again: a result belongs to the call before it
    ends: dict[int, int] = {}
    for place, one in enumerate(messages):
        if isinstance(one, AIMessage):
            callers |= {call["id"]: place for call in one.tool_calls}
        elif isinstance(one, ToolMessage) and one.tool_call_id in callers:
            ends[callers[one.tool_call_id]] = place
    ends |= {place: len(messages) for place in _waiting(messages)}
    for place in sorted(ends, reverse=True):
        if place < stop <= ends[place]:
            stop = place
    return stop


def _waiting(messages: Sequence[AnyMessage]) -> list[int]:
    """Where the list ends in a call, some of whose results are to come: its place. One behind which somebody else has
    spoken was given up."""
    answered: set[str] = set()
    for place in range(len(messages) - 1, -1, -1):
        one = messages[place]
        if isinstance(one, ToolMessage):
            answered.add(one.tool_call_id)
        elif isinstance(one, AIMessage) and not {call["id"] for call in one.tool_calls} <= answered:
            return [place]
        else:
            break
    return []
