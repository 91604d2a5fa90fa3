"""Calls and JSON that a model cannot get wrong: a grammar masks each token's scores, whatever the model would say.

Why llguidance, not xgrammar or outlines-core: it computes each mask on the fly, without compiling each schema against
the vocabulary first; its grammars reach over control tokens; and it is one abi3 wheel that needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from transformers import LogitsProcessor

from agentsleep.chat import ChatFormat
from agentsleep.errors import SettingsError
from langchain_agentsleep.grammar.guide import Guide
from langchain_agentsleep.grammar.rules import answer_rules, call_rules, either, silent_rules
from langchain_agentsleep.grammar.vocabulary import vocabulary_of

__all__ = ["ToolChoice", "forbidden_calls", "forced_calls", "guided", "json_answer"]

ToolChoice: TypeAlias = str  # "auto", "none", "any", or the name of a tool


def forced_calls(
    chat: ChatFormat,
    tools: Sequence[Mapping[str, Any]],
    choice: ToolChoice = "any",
    *,
    parallel: bool = False,
    max_tokens: int | None,
) -> LogitsProcessor:
    """A processor for one turn that calls a tool, with arguments of its schema.

    Args:
        chat: the format of the conversation, from ``with_tools(tools)``.
        tools: ``{"type": "function", "function": {"name", "parameters"}}`` each.
        choice: "any" for whichever the model prefers, else a tool's name.
        parallel: whether it may call several times; a format that has one call a turn stays with one.
        max_tokens: the turn's ``max_new_tokens``, see :class:`Guide`; None for a turn of any length.

    Raises:
        UnsupportedModel: the format has no calls, or writes them in a way that no form describes.
        InputError: a tool's name or schema cannot be written; the message names the part.
        SettingsError: an unknown tool, no tools, or too few tokens for any call.
    """
    functions = [_function(tool) for tool in tools]
    names = [function["name"] for function in functions]
    if len(set(names)) < len(names):
        raise SettingsError(f"two tools have the same name: {sorted(names)}; give each its own")
    if choice != "any":
        functions = [function for function in functions if function["name"] == choice]
    if not functions:
        raise SettingsError(
            f"tool_choice is {choice!r}; it must be 'any' or one of the tools on offer, {sorted(names)}"
        )
    vocabulary = vocabulary_of(chat)
    return Guide(call_rules(chat.call_form(), functions, parallel, vocabulary), vocabulary, max_tokens)


def json_answer(
    chat: ChatFormat,
    schema: Mapping[str, Any] | None = None,
    *,
    tools: Sequence[Mapping[str, Any]] = (),
    parallel: bool = False,
    max_tokens: int | None,
) -> LogitsProcessor:
    """A processor for one turn that answers in JSON, or calls one of the tools on offer instead.

    Args:
        schema: a JSON schema; None for any object.
        tools, parallel: as of :func:`forced_calls`; no tools: it answers.
        max_tokens: the turn's ``max_new_tokens``, see :class:`Guide`; None for a turn of any length.

    Raises:
        InputError: a part of the schema cannot be asked for; the message names it.
        SettingsError: too few tokens for any such answer.
    """
    vocabulary = vocabulary_of(chat)
    asked: Mapping[str, Any] = {"type": "object"} if schema is None else schema
    rules = answer_rules(chat, asked, vocabulary)
    if tools:
        functions = [_function(tool) for tool in tools]
        rules = either(rules, call_rules(chat.call_form(), functions, parallel, vocabulary))
    return Guide(rules, vocabulary, max_tokens)


def forbidden_calls(chat: ChatFormat) -> LogitsProcessor | None:
    """A processor for one turn that calls no tool; None where the format knows no calls.

    Raises:
        InputError: the tokenizer's tokens spell no bytes.
    """
    vocabulary = vocabulary_of(chat)
    rules = silent_rules(chat, vocabulary)
    return None if rules is None else Guide(rules, vocabulary, None)


def guided(
    chat: ChatFormat,
    tools: Sequence[Mapping[str, Any]],
    choice: ToolChoice,
    *,
    parallel: bool = False,
    max_tokens: int | None,
) -> list[LogitsProcessor]:
    """The processors of a turn with this choice of tools; none for "auto". Raises what :func:`forced_calls` raises."""
    if choice == "auto":
        return []
    if choice == "none":
        found = forbidden_calls(chat)
        return [] if found is None else [found]
    return [forced_calls(chat, tools, choice, parallel=parallel, max_tokens=max_tokens)]


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise SettingsError(f'{tool!r:.80} is no tool; it must be {{"function": {{"name": ..., "parameters": ...}}}}')
    return function
