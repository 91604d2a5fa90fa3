"""Python callables as tools: a JSON schema from type hints and docstring, and a call that cannot hang the agent."""

from __future__ import annotations

import inspect
import json
import queue
import threading
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from agentsleep.chat import ToolCall
from agentsleep.errors import SettingsError, ToolFailed, ToolTimeout, UnknownTool

_JSON_TYPES: dict[Any, str] = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


class Tool:
    """A callable that the model may call.

    Args:
        function: type hints give the arguments' types, the docstring's first paragraph the description.
        timeout: seconds after which a call is given up (its thread cannot be stopped and is left behind).
        max_chars: longest result; a longer one is an error, not a cut text that reads as if it were whole.

    Raises:
        SettingsError: a parameter without a type hint, or of a type that JSON cannot carry.
    """

    def __init__(self, function: Callable[..., Any], *, timeout: float = 30.0, max_chars: int = 20_000) -> None:
        self.function, self.timeout, self.max_chars = function, timeout, max_chars
        self.name = getattr(function, "__name__", type(function).__name__)
        self.schema = _schema(self.name, function)

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Runs the tool.

        Raises:
            ToolFailed: it raised, was given wrong arguments, or returned too much.
            ToolTimeout: it did not return in time.
        """
        try:
            inspect.signature(self.function).bind(**arguments)
        except TypeError as error:
            raise ToolFailed(f"{self.name} cannot be called with {dict(arguments)!r}: {error}") from None
        outcome: queue.Queue[tuple[bool, Any]] = queue.Queue()

        def work() -> None:
            try:
                outcome.put((True, self.function(**arguments)))
            except Exception as error:  # whatever a user's tool raises is told to the agent
                outcome.put((False, error))

        threading.Thread(target=work, name=f"tool {self.name}", daemon=True).start()
        try:
            fine, value = outcome.get(timeout=self.timeout)
        except queue.Empty:
            raise ToolTimeout(
                f"{self.name}({dict(arguments)!r}) did not return within {self.timeout} s; "
                "give Tool(..., timeout=...) more time or mend the tool"
            ) from None
        if not fine:
            raise ToolFailed(f"{self.name}({dict(arguments)!r}) raised {type(value).__name__}: {value}") from value
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        if len(text) > self.max_chars:
            raise ToolFailed(
                f"{self.name} returned {len(text)} characters, at most {self.max_chars} are read; "
                "return less, or raise Tool(..., max_chars=...)"
            )
        if not text.strip():
            raise ToolFailed(f"{self.name}({dict(arguments)!r}) returned no text; return what the model should read")
        return text


class Toolbox:
    """Tools by name."""

    def __init__(self, tools: Sequence[Tool | Callable[..., Any]] = ()) -> None:
        made = [tool if isinstance(tool, Tool) else Tool(tool) for tool in tools]
        self.tools = {tool.name: tool for tool in made}
        if len(self.tools) < len(made):
            raise SettingsError(f"two tools have the same name among {[tool.name for tool in made]}; rename one")

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """What the model is told about them."""
        return [tool.schema for tool in self.tools.values()]

    def run(self, call: ToolCall) -> str:
        """Runs a call of the model.

        Raises:
            UnknownTool: no such tool.  ToolFailed, ToolTimeout: as the tool.
        """
        if call.name not in self.tools:
            raise UnknownTool(f"the model called {call.name!r}; there are {sorted(self.tools) or 'no tools'}")
        return self.tools[call.name](call.arguments)


def _schema(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else type(function).__call__
    hints = typing.get_type_hints(target)
    properties: dict[str, Any] = {}
    required = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SettingsError(f"tool {name}: parameter {parameter.name!r} must be an ordinary named one")
        if parameter.name not in hints:
            raise SettingsError(f"tool {name}: parameter {parameter.name!r} has no type hint; the model needs its type")
        properties[parameter.name] = _json_type(name, parameter.name, hints[parameter.name])
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    description = (inspect.getdoc(function) or "").split("\n\n")[0].replace("\n", " ")
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _json_type(tool: str, parameter: str, hint: Any) -> dict[str, Any]:
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        some = [part for part in inner if part is not type(None)]
        return _json_type(tool, parameter, some[0]) if len(some) == 1 else {
            "anyOf": [_json_type(tool, parameter, part) for part in some]
        }
    if origin in (list, tuple, Sequence) or hint is list:
        return {"type": "array"} | ({"items": _json_type(tool, parameter, inner[0])} if inner else {})
    kind = _JSON_TYPES.get(origin or hint)
    if kind is None:
        raise SettingsError(
            f"tool {tool}: parameter {parameter!r} is of type {hint!r}; use str, int, float, bool, list, dict, Literal"
        )
    return {"type": kind}
