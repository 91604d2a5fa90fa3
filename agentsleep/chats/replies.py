"""What a model wrote, read as an answer: its thought, its text, its calls."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerFast

from agentsleep.chats.calls import CallReader, calls_of
from agentsleep.chats.thoughts import Markers
from agentsleep.chats.values import Reply, ToolSchema


def by_markers(calls: CallReader, markers: Markers, text: str, prompt: str, tools: Sequence[ToolSchema]) -> Reply:
    """A turn read by the formats of public model cards.

    Args:
        prompt: what the template wrote in front of it.
    """
    thought, text, closed = markers.split(prompt, text)
    if not closed:
        return Reply("", warning="the turn ends inside its thought; allow more new tokens", thought=thought)
    try:
        said, found = calls.read(text, tools)
    except ValueError as error:
        return Reply(text, warning=f"malformed tool call ({error!r}): {text!r}", thought=thought)
    return Reply(said.strip() if found else said, calls=found, thought=thought)


def by_response_template(
    tokenizer: PreTrainedTokenizerFast, text: str, prompt: str, tools: Sequence[ToolSchema]
) -> Reply:
    """A turn read by the ``response_template`` that the checkpoint carries.

    Args:
        prompt: what the template wrote in front of it.
    """
    try:
        parsed = tokenizer.parse_response(text, prefix=prompt, tools=[dict(tool) for tool in tools])
        calls = tuple(calls_of(parsed.get("tool_calls") or []))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        return Reply(text, warning=f"malformed tool call ({error!r}): {text!r}")
    thoughts = (parsed.get(key) for key in ("reasoning_content", "thinking", "reasoning"))
    return Reply(parsed.get("content") or "", calls=calls, thought=next((t for t in thoughts if t), None))
