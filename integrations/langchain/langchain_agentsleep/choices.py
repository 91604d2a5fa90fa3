"""What the caller of a chat model may ask of it, brought into one form: tools, which of them, and in what form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agentsleep.errors import SettingsError
from agentsleep.policy import SleepPolicy
from langchain_agentsleep.branches import Handle

AUTO, NONE, ANY = "auto", "none", "any"


@dataclass(frozen=True, kw_only=True)
class Link:
    """What SleepMiddleware tells the model in each call: where the memory stands by the agent's state; its policy."""

    handle: Handle | None = None
    policy: SleepPolicy | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A call's options.

    choice: "auto", "none", "any" or the name of a tool.  schema: of the answer; {}: any JSON object; None: it is text.
    link: see :class:`Link`.  options: of :meth:`agentsleep.memory.Session.generate`.
    """

    tools: tuple[Mapping[str, Any], ...]
    choice: str
    parallel: bool
    schema: Mapping[str, Any] | None
    link: Link
    options: Mapping[str, Any]


# Told to a model by LangChain itself, or by agents that were written for other models; nothing follows from them here.
_IDLE = ("ls_structured_output_format", "strict", "stream", "stream_usage", "scope")


def asked(options: Mapping[str, Any], stop: Sequence[str] | None) -> Asked:
    """Sorts the keyword arguments of a call.

    Raises:
        SettingsError: a choice of a tool that is not on offer, or a response format that is none.
    """
    rest = {name: value for name, value in options.items() if name not in _IDLE}
    tools = rest.pop("tools", None) or ()
    if not isinstance(tools, (list, tuple)):
        raise SettingsError(f"tools is {tools!r:.80}; give a list of tools, best by bind_tools")
    names = [_name(tool) for tool in tools]
    choice = choice_of(rest.pop("tool_choice", None), names)
    parallel = rest.pop("parallel_tool_calls", None)
    schema = _schema(rest.pop("response_format", None))
    if schema is not None and choice not in (AUTO, NONE):
        raise SettingsError(f"tool_choice is {choice!r} and there is a response_format; an answer is one or the other")
    link = rest.pop("agentsleep", None) or Link()
    most = rest.pop("max_tokens", None)
    if most is not None:
        rest["max_new_tokens"] = most
    if stop:
        rest["stop_strings"] = list(stop)
    return Asked(tools=tuple(tools), choice=choice, parallel=bool(parallel), schema=schema, link=link, options=rest)


def choice_of(choice: Any, names: Sequence[str]) -> str:
    """A ``tool_choice`` in any of the forms that are in use.

    Raises:
        SettingsError: it is none, or names a tool that is not on offer.
    """
    given = choice
    if isinstance(choice, Mapping):
        if choice.get("type") in (AUTO, NONE, ANY, "required"):
            choice = choice["type"]
        else:
            function = choice.get("function", choice)
            choice = function.get("name") if isinstance(function, Mapping) else function
            choice = given if choice is None else choice
    if choice is None or choice is False or choice == AUTO:
        return AUTO
    if choice == NONE:
        return NONE
    if choice is True or choice in (ANY, "required"):
        if not names:
            raise SettingsError("tool_choice asks for a call, but no tools are bound; give bind_tools some")
        return ANY
    if choice not in names:
        raise SettingsError(f"tool_choice is {given!r}; use auto, none, any, or one of the tools: {', '.join(names)}")
    return str(choice)


def _name(tool: Any) -> str:
    match tool:
        case {"function": {"name": str(name)}}:
            return name
    raise SettingsError(
        f'{tool!r:.80} is no tool; offer it by bind_tools, or give {{"type": "function", "function": {{"name": ...}}}}'
    )


def _schema(form: Any) -> Mapping[str, Any] | None:
    match form:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return {}
        case {"type": "json_schema", "json_schema": {"schema": schema}} if isinstance(schema, Mapping):
            return schema
    raise SettingsError(
        f"response_format is {form!r:.200}; use "
        '{"type": "json_schema", "json_schema": {"name": ..., "schema": ...}} or {"type": "json_object"}'
    )
