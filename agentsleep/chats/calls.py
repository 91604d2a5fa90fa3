"""Tool calls in what a model wrote, in the formats of public model cards.

A call stands behind a marker that the chat template names, and mostly before another one:

* ``<tool_call>{"name": ..., "arguments": {...}}</tool_call>``: Qwen3 (chat template of Qwen/Qwen3-8B), Granite 4
  (llama.cpp, ``models/templates/ibm-granite-granite-4.0.jinja``).
* ``<tool_call><function=name><parameter=key>value</parameter></function></tool_call>``: Qwen3.5 (the response template
  of ``qwen3_5`` in transformers' ``cli/serving/utils.py``) and its like.
* ``<tool_call>[{...}, {...}]</tool_call>``: Falcon-H1 (chat template of
  tiiuae/Falcon-H1-Tiny-Multilingual-100M-Instruct, which also writes each call back inside ``{"function": {...}}``).
* ``<|tool_call|>[{...}]`` up to the turn's end: Granite 3.0, and ``<tool_call>[{...}]`` Granite 3.1 (vLLM,
  ``tool_parsers/granite_tool_parser.py``).
* ``<TOOLCALL>[{...}]</TOOLCALL>``: Nemotron Nano v2 (llama.cpp, ``models/templates/NVIDIA-Nemotron-Nano-v2.jinja``).
* ``[TOOL_CALLS] [{...}]`` up to the turn's end: Mistral (the marker alone was read: vLLM,
  ``examples/tool_chat_template_mistral.jinja``).
* ``{"name": ..., "parameters": {...}}`` as the whole turn, for templates without a marker: Llama 3.1 (vLLM,
  ``examples/tool_chat_template_llama3.1_json.jinja``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from agentsleep.chats.forms import CallMarkers
from agentsleep.chats.values import ToolCall, ToolSchema

_MARKERS = (
    ("<tool_call>", "</tool_call>"),
    ("<TOOLCALL>", "</TOOLCALL>"),
    ("<|tool_call|>", ""),
    ("[TOOL_CALLS]", ""),
)
_PYTHON = "<|python_tag|>"
_BEGUN = r'\s*\{\s*"(?:name|type)"\s*:'
_BARE = re.compile(rf"\s*(?:{re.escape(_PYTHON)})?(?={_BEGUN})")
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)</function>\s*(?=</tool_call>|<function=|$)", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*(?=<parameter=|$)", re.DOTALL)
_JSON = json.JSONDecoder()


class CallReader:
    """Reads the calls of models that have this chat template."""

    def __init__(self, template: str) -> None:
        self._markers = tuple(pair for pair in _MARKERS if pair[0] in template)
        self._bare = not self._markers and "tool_calls" in template

    def markers(self, ids: Mapping[str, int]) -> CallMarkers:
        """What makes a turn be read as a call.

        Args:
            ids: of the control tokens.
        """
        texts = tuple(opened for opened, _ in self._markers)
        tokens = (_PYTHON,) if self._bare else texts
        return CallMarkers(
            frozenset(ids[text] for text in tokens if text in ids), texts, _BEGUN if self._bare else None
        )

    def before(self, text: str) -> str:
        """The text before the first call, without an end that might yet begin one."""
        if self._bare and (not text.strip() or text.lstrip()[0] in "{<"):
            return ""
        for opened, _ in self._markers:
            text = text.partition(opened)[0]
            least = next((n for n in range(min(len(text), len(opened) - 1), 0, -1) if opened.startswith(text[-n:])), 0)
            text = text[: len(text) - least]
        return text

    def read(self, text: str, tools: Sequence[ToolSchema] = ()) -> tuple[str, tuple[ToolCall, ...]]:
        """The text besides the calls, and the calls.

        Args:
            tools: whose schemas say of what type a value is that was written without quotes or brackets.

        Raises:
            ValueError: a call that cannot be read.
        """
        if self._bare and (match := _BARE.match(text)):
            items, stop = _value(text, match.end())
            if text[stop:].strip():
                raise ValueError(f"{text[stop:]!r} stands behind the call")
            return "", tuple(calls_of(items))
        said, calls, place = "", list[ToolCall](), 0
        while found := min(
            (p for p in ((text.find(o, place), o, c) for o, c in self._markers) if p[0] >= 0), default=None
        ):
            start, opened, closed = found
            said += text[place:start]
            more, place = _body(text, start + len(opened), closed, tools)
            calls += more
        return said + text[place:], tuple(calls)


def _body(text: str, start: int, closed: str, tools: Sequence[ToolSchema]) -> tuple[list[ToolCall], int]:
    """The calls that begin here, and where they end. The last closing marker may be missing."""
    calls: list[ToolCall] = []
    if _FUNCTION.match(text, start) or text[start:].lstrip().startswith("<function="):
        while match := _FUNCTION.match(text, start):
            calls.append(ToolCall(match[1].strip(), _parameters(match[1].strip(), match[2], tools)))
            start = match.end()
        if not calls:
            raise ValueError("<function=...> is not closed")
    else:
        items, start = _value(text, start)
        calls = list(calls_of(items))
    rest = text[start:].lstrip()
    if closed and rest.startswith(closed):
        return calls, len(text) - len(rest) + len(closed)
    if rest:
        raise ValueError(f"{rest[:40]!r} stands behind the call")
    return calls, len(text)


def _value(text: str, start: int) -> tuple[Any, int]:
    start += len(text[start:]) - len(text[start:].lstrip())
    try:
        return _JSON.raw_decode(text, start)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def calls_of(items: Any) -> Iterable[ToolCall]:
    """The calls in a JSON value: one, or a list of them, each plain or inside ``{"function": ...}``.

    Raises:
        ValueError: it is no call.
    """
    for item in items if isinstance(items, list) else [items]:
        inner = item.get("function", item) if isinstance(item, dict) else item
        if not isinstance(inner, dict):
            raise ValueError(f"{item!r:.80} is no object with name and arguments")
        name, arguments = inner.get("name"), inner.get("arguments", inner.get("parameters"))
        if isinstance(arguments, str):
            arguments = _value(arguments, 0)[0]
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise ValueError("name must be a string and arguments an object")
        yield ToolCall(name, arguments)


def _parameters(name: str, text: str, tools: Sequence[ToolSchema]) -> dict[str, Any]:
    """The arguments written as tags; each of the type that the tool's schema gives it, text where there is none."""
    arguments, place = dict[str, Any](), 0
    while match := _PARAMETER.match(text, place):
        arguments[match[1].strip()] = typed(match[2], _types(name, match[1].strip(), tools))
        place = match.end()
    if text[place:].strip():
        raise ValueError(f"{text[place:].strip()[:40]!r} is no parameter")
    return arguments


def _types(name: str, key: str, tools: Sequence[ToolSchema]) -> set[str]:
    for tool in tools:
        function = tool.get("function", tool)
        if function.get("name") == name:
            parameters = function.get("parameters", {})
            return parameter_types(parameters, key)
    return set()


_JSON_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def parameter_types(parameters: Any, key: str) -> set[str]:
    """The JSON types of a parameter, by the schema of all of them, which may be a reference as a whole."""
    own = _target(parameters, parameters) if "$ref" in parameters else parameters
    return types_of(own.get("properties", {}).get(key, {}), parameters)


def types_of(schema: Any, whole: Any, depth: int = 16) -> set[str]:
    """The JSON types that a schema names, also by its values and behind ``$ref``; none where it names none.

    Args:
        whole: the schema in which a ``$ref`` is looked up.
        depth: of references and alternatives that are followed.
    """
    if not isinstance(schema, dict) or depth == 0:
        return set()
    named = schema.get("type")
    found = {named} if isinstance(named, str) else {t for t in named or () if isinstance(t, str)}
    if not found and ("const" in schema or "enum" in schema):
        values = [schema["const"]] if "const" in schema else schema["enum"]
        found = {_JSON_TYPES.get(type(v), "array" if isinstance(v, list) else "object") for v in values}
    inner = [s for word in ("anyOf", "oneOf", "allOf") for s in schema.get(word, ())]
    if "$ref" in schema:
        inner.append(_target(schema, whole))
    return found.union(*(types_of(s, whole, depth - 1) for s in inner))


def _target(schema: Any, whole: Any) -> Any:
    """What a ``$ref`` points at; {} for nothing."""
    path = schema["$ref"]
    if not (isinstance(path, str) and path.startswith("#/")):
        return {}
    for step in path[2:].split("/"):
        whole = whole.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(whole, dict) else {}
    return whole


def typed(text: str, types: set[str]) -> Any:
    """A value as JSON where its type is one of JSON's others than string; as text where that fails."""
    if not types or types == {"string"}:
        return text
    if "boolean" in types and text.strip().lower() in ("true", "false"):
        return text.strip().lower() == "true"
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) and "string" in types else value
