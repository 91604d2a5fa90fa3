"""Grammars in llguidance's dialect of Lark: calls, answers in JSON, and turns without a call, as a chat format writes
them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from agentsleep.chat import ChatFormat
from agentsleep.chats import CallForm, Piece, Tags
from agentsleep.errors import InputError
from langchain_agentsleep.grammar.lark import check, json_value, pieces, words
from langchain_agentsleep.grammar.schemas import prepared, widest
from langchain_agentsleep.grammar.tagged import Tagged
from langchain_agentsleep.grammar.vocabulary import Vocabulary


@dataclass(frozen=True)
class Rules:
    """A grammar of a turn up to its end token.

    closers: what ends a free text in it, the first first.
    jump: tokens that one more token may add at most to those that are needed to come to an end.
    """

    grammar: str
    closers: tuple[Piece, ...] = ('"',)
    jump: int = 16


def answer_rules(chat: ChatFormat, schema: Mapping[str, Any], vocabulary: Vocabulary) -> Rules:
    """An answer that is JSON of this schema.

    Raises:
        InputError: a part of the schema cannot be asked for.
    """
    form, asked = chat.text_form(), prepared(schema, "the answer")
    body = json_value(asked, (", ", ": "))
    check(f"start: {body}", "the answer", vocabulary)
    return Rules(f"start: {pieces(form.lead)} answer {pieces(form.close)}\nanswer: {body}", jump=8 + widest(asked))


def call_rules(form: CallForm, tools: Sequence[Mapping[str, Any]], several: bool, vocabulary: Vocabulary) -> Rules:
    """A call of one of these tools (function schemas), or several calls.

    Raises:
        InputError: a tool's name or a part of its schema cannot be written.
    """
    rules, jump = [], 16
    for place, tool in enumerate(tools):
        name, parameters = tool["name"], tool.get("parameters") or {"type": "object", "properties": {}}
        asked = prepared(parameters, f"the tool {name!r}")
        if form.tags is None:
            if asked.get("type", "object") != "object":
                raise InputError(f"the parameters of the tool {name!r} are of type {asked['type']!r}, not an object")
            asked.setdefault("type", "object")
            body = [f"arguments_{place}: {json_value(asked, form.separators)}"]
        else:
            body = Tagged(form, form.tags, name, parameters, asked, f"arguments_{place}").rules()
        check("\n".join([f"start: arguments_{place}", *body]), f"the tool {name!r}", vocabulary)
        spelt = pieces([_name(form, name), *form.middle])
        rules += [f"call_{place}: {spelt} arguments_{place}", *body]
        tag = _size((*form.tags.before_key, *form.tags.before_value, *form.tags.after_value)) if form.tags else 0
        again = _size((*form.joint, *form.middle)) if several and form.joint is not None else 0
        jump = max(jump, widest(asked) + tag + again)
    more = f" ({pieces(form.joint)} call)*" if several and form.joint is not None else ""
    start = f"start: {pieces(form.lead)} call{more} {pieces(form.close)}"
    called = " | ".join(f"call_{place}" for place in range(len(tools)))
    return Rules("\n".join([start, f"call: {called}", *rules]), _closers(form.tags), 8 + jump)


def either(one: Rules, other: Rules) -> Rules:
    """A turn of either kind; the rules of the two have different names but for ``start``."""
    grammars = [rules.grammar.replace("start:", f"turn_{place}:", 1) for place, rules in enumerate((one, other))]
    closers = tuple(dict.fromkeys((*one.closers, *other.closers)))
    return Rules("\n".join(["start: turn_0 | turn_1", *grammars]), closers, max(one.jump, other.jump))


def _size(parts: Iterable[Piece]) -> int:
    return sum(len(part.encode()) if isinstance(part, str) else 1 for part in parts)


def _closers(tags: Tags | None) -> tuple[Piece, ...]:
    return (*tags.after_value[:1], '"') if tags else ('"',)


def _name(form: CallForm, name: str) -> str:
    if form.tags is not None and re.search(r"[<>\s]|^$", name):
        raise InputError(f"the tool's name {name!r} cannot stand in a tag; use letters, digits, - and _")
    return form.name(name)


def silent_rules(chat: ChatFormat, vocabulary: Vocabulary) -> Rules | None:
    """A turn of any text that is not read as a call; None where the format has no calls."""
    markers = chat.call_markers
    if not (markers.tokens or markers.texts or markers.bare):
        return None
    others = sorted(vocabulary.controls - markers.tokens - {vocabulary.end})
    banned = rf" & ~/(?s:.*)({words(markers.texts)})(?s:.*)/" if markers.texts else ""
    first = rf" & ~/{markers.bare}(?s:.*)/".replace(r"\s", r"[\s\x1c-\x1f]") if markers.bare else ""
    rules = ["start: FIRST? (other TEXT?)*" if others else "start: FIRST?"]
    rules += [f"FIRST: /(?s:.+)/{banned}{first}", f"TEXT: /(?s:.+)/{banned}"]
    return Rules("\n".join([*rules, f"other: <[{_ranges(others)}]>"] if others else [rules[0], rules[1]]))


def _ranges(ids: Sequence[int]) -> str:
    runs = ([i for _, i in run] for _, run in groupby(enumerate(ids), lambda pair: pair[1] - pair[0]))
    return ",".join(f"{run[0]}-{run[-1]}" for run in runs)
