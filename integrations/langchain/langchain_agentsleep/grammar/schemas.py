"""JSON schemas as they can be asked of a model: closed, with finite numbers, and with values that Python can read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from agentsleep.errors import InputError

Schema = dict[str, Any]

_SAFE = 2**53 - 1  # what every JSON reader takes exactly (RFC 8259, section 6)
_ANY = "agentsleep-any-value"
_INNER = ("items", "additionalProperties", "contains", "propertyNames", "not", "if", "then", "else")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_MAPS = ("properties", "$defs", "definitions", "patternProperties", "dependentSchemas")
_APPLIED = ("$ref", "allOf", "anyOf", "oneOf")
_SAYS_NOTHING = {"password", "path", "file-path", "directory-path", "binary"}  # pydantic's, which limit no letter
_LEAP = "([1-9][0-9](0[48]|[2468][048]|[13579][26])|([2468][048]|[13579][26])00)-02-29"
_DAY = (
    "[1-9][0-9]{3}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP}"
)
_CLOCK = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
# Days that exist and no leap seconds: llguidance's own would also take what Python's datetime refuses.
FORMATS = {"date": f"({_DAY})", "time": _CLOCK, "date-time": f"({_DAY})T{_CLOCK}"}


def prepared(schema: Any, what: str) -> Schema:
    """A JSON schema that is narrower than the one given, or equal:

    * objects with ``properties`` and no word on others take no others,
    * numbers without bounds stay within ±(2^53 − 1), and so have no exponents that overflow,
    * dates and times are such that Python reads them,
    * what it refers to as a whole, as pydantic writes a class that holds itself, stands in its place.

    Args:
        what: whose schema it is, for the message.

    Raises:
        InputError: it is no JSON schema.
    """
    if not isinstance(schema, Mapping):
        raise InputError(f"the schema of {what} is {schema!r:.80}; it must be a JSON schema, as a dict")
    try:
        plain = json.loads(json.dumps(dict(schema), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"the schema of {what} is not JSON: {error}") from error
    found: Schema = _narrow(plain, closed=True)
    name = str(found.get("$ref", "")).removeprefix("#/$defs/")
    if isinstance(whole := found.get("$defs", {}).get(name), dict) and "$ref" not in whole:
        found = {**whole, **{key: value for key, value in found.items() if key != "$ref"}}
    found.setdefault("$defs", {})[_ANY] = {
        "anyOf": [
            {"type": ["string", "boolean", "null"]},
            {"type": "number", "minimum": -_SAFE, "maximum": _SAFE},
            {"type": "array", "items": {"$ref": f"#/$defs/{_ANY}"}},
            {"type": "object", "additionalProperties": {"$ref": f"#/$defs/{_ANY}"}},
        ]
    }
    return found


def _narrow(schema: Any, closed: bool) -> Any:
    """A copy of a schema and all inside it.

    Args:
        closed: whether an object of it may be closed; a part of an ``allOf`` may not, as the others add to it.
    """
    if schema is True or schema == {}:
        return {"$ref": f"#/$defs/{_ANY}"}
    if not isinstance(schema, dict):
        return schema
    made = dict(schema)
    for word in _INNER:
        if word in made:
            made[word] = _narrow(made[word], True)
    for word in _LISTS:
        if isinstance(made.get(word), list):
            made[word] = [_narrow(one, closed and word != "allOf") for one in made[word]]
    for word in _MAPS:
        if isinstance(made.get(word), dict):
            made[word] = {key: _narrow(one, True) for key, one in made[word].items()}
    kinds = made.get("type")
    kinds = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else set()
    values = "enum" in made or "const" in made
    if kinds & {"number", "integer"} and not values:
        _bound(made)
    applied = any(word in made for word in _APPLIED)
    if not applied and not values and ("object" in kinds or "properties" in made) and closed:
        known = "properties" in made or "patternProperties" in made
        made.setdefault("additionalProperties", False if known else {"$ref": f"#/$defs/{_ANY}"})
    if "array" in kinds and not values and not applied and "prefixItems" not in made:
        made.setdefault("items", {"$ref": f"#/$defs/{_ANY}"})
    form = made.get("format")
    if isinstance(form, str) and (form in _SAYS_NOTHING or (form in FORMATS and "pattern" not in made)):
        del made["format"]
        if form in FORMATS:
            made["pattern"] = f"^({FORMATS[form]})$"
    return made


def _bound(schema: Schema) -> None:
    lows, highs = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")
    low = max((schema[word] for word in lows if isinstance(schema.get(word), (int, float))), default=None)
    high = min((schema[word] for word in highs if isinstance(schema.get(word), (int, float))), default=None)
    if low is None and (high is None or high > -_SAFE):
        schema["minimum"] = -_SAFE
    if high is None and (low is None or low < _SAFE):
        schema["maximum"] = _SAFE


def _digits(schema: Schema) -> int:
    """How many the shortest number within its bounds has, or a few more."""
    bounds = [schema[word] for word in ("minimum", "exclusiveMinimum", "maximum", "exclusiveMaximum") if word in schema]
    if not bounds or min(bounds) < 0 < max(bounds):
        return 1
    return max(len(str(bound)) for bound in bounds) + 2


def widest(schema: Any) -> int:
    """About how many bytes the longest part of a schema needs at least that a model can choose to begin: an element of
    an array, an optional property, an alternative."""
    sizes: list[int] = []

    def least(part: Any, depth: int) -> int:
        if not isinstance(part, dict) or depth > 24:
            return 4
        if "const" in part or "enum" in part:
            values = [part["const"]] if "const" in part else part["enum"]
            return max((len(json.dumps(v).encode()) for v in values), default=4)
        size = 4 + part.get("minLength", 0) if "format" not in part else 48
        size = max(size, 24 + len(part["pattern"]) if "pattern" in part else 0)
        size = max(size, _digits(part))
        if isinstance(ref := part.get("$ref"), str) and ref.startswith("#/"):
            target: Any = schema
            for step in ref[2:].split("/"):
                target = target.get(step, {}) if isinstance(target, dict) else {}
            size = max(size, least(target, depth + 8))
        inner = [least(one, depth + 1) for word in _LISTS for one in part.get(word, ())]
        size = max([size, *inner]) if "prefixItems" not in part else size + sum(inner) + 2 * len(inner)
        if isinstance(items := part.get("items"), dict):
            size += max(1, part.get("minItems", 0)) * (2 + least(items, depth + 1))
        required = part.get("required", ())
        keys = {key: len(key.encode()) + 6 + least(one, depth + 1) for key, one in part.get("properties", {}).items()}
        size += sum(keys.get(key, 0) for key in required)
        sizes.extend([size, *keys.values()])
        return size

    least(schema, 0)
    return max(sizes)
