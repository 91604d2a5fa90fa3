"""JSON schemas of Python callables, from type hints and docstring, and whether a value fits one."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from agentsleep.errors import SettingsError

_KINDS: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    Mapping: "object",
}
_PYTHON: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list, tuple),
    "null": (type(None),),
}


def schema_of(name: str, function: Callable[..., Any]) -> dict[str, Any]:
    """``{"type": "function", "function": {"name", "description", "parameters"}}``.

    Raises:
        SettingsError: what a model cannot call: a parameter without type hint, or of a type that JSON cannot carry,
            ``*args``, an async function, a name that is none.
    """
    target = function if inspect.isroutine(function) else type(function).__call__
    if not name.isidentifier():
        raise SettingsError(f"a tool needs a name that a model can write, {name!r} is none; define it with def")
    if inspect.iscoroutinefunction(target) or inspect.isasyncgenfunction(target):
        raise SettingsError(f"tool {name} is async; wrap it in a function that runs it, as with asyncio.run")
    try:
        hints, signature = typing.get_type_hints(target), inspect.signature(function)
    except (NameError, TypeError, ValueError) as error:
        raise SettingsError(f"the type hints of tool {name} cannot be read ({error}); wrap it in a function") from error
    properties: dict[str, Any] = {}
    required = []
    for parameter in signature.parameters.values():
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
    if origin is Literal and all(value is None or isinstance(value, (str, int, bool)) for value in inner):
        return {"enum": list(inner)}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_json_type(tool, parameter, part) for part in inner]}
    if hint is Any:
        return {}
    if (origin or hint) in (list, Sequence) or (origin is tuple and inner[1:] == (...,)):
        return {"type": "array"} | ({"items": _json_type(tool, parameter, inner[0])} if inner else {})
    kind = "null" if hint is type(None) else _KINDS.get(origin or hint)
    if kind is None:
        raise SettingsError(
            f"tool {tool}: parameter {parameter!r} is of type {hint!r}; use str, int, float, bool, list, dict, "
            "Literal of strings, or one of them | None"
        )
    return {"type": kind}


def misfit(value: Any, schema: dict[str, Any]) -> str | None:
    """Why a value, read from JSON, does not fit a schema of :func:`schema_of`; None if it does."""
    if "enum" in schema:
        fits = any(value == one and type(value) is type(one) for one in schema["enum"])
        return None if fits else f"must be one of {schema['enum']}, not {value!r:.80}"
    if "anyOf" in schema:
        reasons = [misfit(value, part) for part in schema["anyOf"]]
        return None if None in reasons else " or ".join(str(reason) for reason in reasons)
    if "type" not in schema:
        return None
    kind: str = schema["type"]
    fits = isinstance(value, _PYTHON[kind]) and (kind == "boolean" or not isinstance(value, bool))
    if not fits:
        return f"must be of type {kind}, not {value!r:.80}"
    if kind == "array" and "items" in schema:
        for item in value:
            if wrong := misfit(item, schema["items"]):
                return f"holds {item!r:.80}, which {wrong}"
    return None
