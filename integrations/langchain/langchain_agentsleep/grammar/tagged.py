"""Arguments that are written one by one as tags: a rule for each, in the order of the schema."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from agentsleep.chats import CallForm, Tags
from agentsleep.chats.calls import parameter_types, typed, types_of
from agentsleep.errors import InputError
from langchain_agentsleep.grammar.lark import json_value, pieces, words
from langchain_agentsleep.grammar.schemas import Schema

_HEX = "[0-9a-f]"
_FORMATS = {"uuid": f"{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}"}
# A string where the schema also takes other types: one that no reader takes for JSON.
_WORD = r"/[^\s0-9\[\{\x22\-](?s:.*)/ & ~/(?i:true|false|null|nan|infinity)\s*/"


class Tagged:
    """Writes the rules of a tool's arguments.

    Args:
        tool: its name.
        parameters: its schema, as the reader of calls knows it.
        asked: the same, narrowed.
    """

    def __init__(
        self, form: CallForm, tags: Tags, tool: str, parameters: Mapping[str, Any], asked: Schema, rule: str
    ) -> None:
        self._tags, self._separators, self._rule = tags, form.separators, rule
        self._tool, self._parameters, self._asked = tool, parameters, asked
        texts = [piece for piece in (*tags.after_value, *form.close) if isinstance(piece, str)]
        self._stops = sorted({stop for text in texts for stop in re.findall(r"</[^<>]+>", text)})
        after = tags.after_value
        self._behind, self._rest = (after[0], after[1:]) if after and isinstance(after[0], str) else ("", after)

    def rules(self) -> list[str]:
        """Rules for all of them; the first is the one that was named.

        Raises:
            InputError: a parameter cannot be written as a tag.
        """
        parts, made = [], list[str]()
        for place, (key, schema) in enumerate(self._asked.get("properties", {}).items()):
            if re.search(r"[<>\n]|^\s|\s$|^$", key):
                raise InputError(f"the parameter {key!r} of the tool {self._tool!r} cannot stand in a tag; rename it")
            name = f"{self._rule}_{place}"
            parts.append(name if key in self._asked.get("required", ()) else f"{name}?")
            lead = pieces((*self._tags.before_key, key, *self._tags.before_value))
            values = list(self._values(key, schema, name))
            made.append(f"{name}: {lead} ({' | '.join(value for value, _ in values)}) {pieces(self._rest)}")
            made += [rule for _, rule in values if rule]
        unknown = [key for key in self._asked.get("required", ()) if key not in self._asked.get("properties", {})]
        if unknown:
            raise InputError(f"the tool {self._tool!r} requires {unknown}, which its properties do not describe")
        return [f"{self._rule}: {' '.join(parts)}" if parts else f'{self._rule}: ""', *made]

    def _values(self, key: str, schema: Any, name: str) -> Iterator[tuple[str, str]]:
        """What may stand in a tag up to the text behind it, and a rule of its own that it needs."""
        kinds = parameter_types(self._parameters, key)
        leaves = list(self._leaves(schema)) if kinds else [{"type": "string"}]
        found = False
        for place, leaf in enumerate(leaves):
            rule, of = f"{name}_{place}", types_of(leaf, self._asked)
            if "const" in leaf:
                value = leaf["const"]
                text = value if isinstance(value, str) else json.dumps(value, separators=self._separators)
                if typed(text, kinds) != value or any(stop in text for stop in self._stops):
                    continue  # it would be read as something else
                yield pieces([text + self._behind]), ""
            elif of == {"string"}:
                yield rule.upper(), f"{rule.upper()}: {self._text(key, leaf, kinds != {'string'} and bool(kinds))}"
            else:
                inner = {**leaf, "$defs": self._asked.get("$defs", {})}
                yield (
                    f"{rule} {pieces([self._behind] if self._behind else [])}",
                    (f"{rule}: {json_value(inner, self._separators)}"),
                )
            found = True
        if not found:
            raise InputError(
                f"no value of the parameter {key!r} of the tool {self._tool!r} can be told apart in a tag; "
                "give it one type"
            )

    def _leaves(self, schema: Any, depth: int = 16) -> Iterator[Schema]:
        """The alternatives of a schema, each of one type as far as it says so."""
        if not isinstance(schema, dict) or depth == 0:
            return
        ref = schema.get("$ref")
        options = (
            schema.get("anyOf") or schema.get("oneOf") or (schema["allOf"] if len(schema.get("allOf", ())) == 1 else ())
        )
        if isinstance(ref, str) and ref.startswith("#/$defs/"):
            options = [self._asked.get("$defs", {}).get(ref.removeprefix("#/$defs/"), {})]
        if options:
            for option in options:
                yield from self._leaves(option, depth - 1)
        elif "const" in schema or "enum" in schema:
            yield from ({"const": value} for value in ([schema["const"]] if "const" in schema else schema["enum"]))
        elif isinstance(schema.get("type"), list):
            yield from ({**schema, "type": kind} for kind in schema["type"])
        else:
            yield schema

    def _text(self, key: str, schema: Schema, mixed: bool) -> str:
        """A string as it is, with what stands behind it, as a terminal."""
        parts = [_WORD if mixed else "/(?s:.*)/"]
        if self._stops:
            parts.append(f"~/(?s:.*)({words(self._stops)})(?s:.*)/")
        pattern = schema.get("pattern")
        if "format" in schema:
            if schema["format"] not in _FORMATS:
                raise InputError(
                    f"the parameter {key!r} of the tool {self._tool!r} has the format {schema['format']!r}, which "
                    f"cannot be asked for in a tag; known are date, time, date-time and {', '.join(_FORMATS)}: give "
                    "it a pattern"
                )
            parts.append(f"/{_FORMATS[schema['format']]}/")
        if isinstance(pattern, str):
            left = "" if pattern.startswith("^") else "(?s:.*)"
            right = "" if pattern.endswith("$") and not pattern.endswith(r"\$") else "(?s:.*)"
            core = pattern.removeprefix("^") if not left else pattern
            core = core.removesuffix("$") if not right else core
            escaped = re.sub(r"(?<!\\)/", r"\\/", core)
            parts.append(f"/{left}({escaped}){right}/")
        least, most = schema.get("minLength", 0), schema.get("maxLength", "")
        if least or most != "":
            parts.append(f"/(?s:.{{{least},{most}}})/")
        return f"({' & '.join(parts)}) {pieces([self._behind] if self._behind else [])}"
