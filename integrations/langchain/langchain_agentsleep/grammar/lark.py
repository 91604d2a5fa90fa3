"""Parts of grammars in llguidance's dialect of Lark."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from llguidance import LLMatcher

from agentsleep.chats import Piece
from agentsleep.errors import InputError
from langchain_agentsleep.grammar.vocabulary import Vocabulary


def pieces(parts: Iterable[Piece]) -> str:
    """Text and control tokens as a part of a rule."""
    return " ".join(f"<[{part}]>" if isinstance(part, int) else json.dumps(part, ensure_ascii=False) for part in parts)


def json_value(schema: Mapping[str, Any], separators: tuple[str, str]) -> str:
    """JSON of this schema, on one line, as a part of a rule."""
    options = {
        "whitespace_flexible": False,
        "item_separator": separators[0],
        "key_separator": separators[1],
        "coerce_one_of": True,
        # Without \u there is no half of a surrogate pair, which has no UTF-8 form.
        "json_allowed_escapes": 'nrbtf\\"',
    }
    return f"%json {json.dumps({**schema, 'x-guidance': options})}"


def words(texts: Iterable[str]) -> str:
    """A regular expression for any of these texts, to stand between slashes."""
    return "|".join(re.escape(text).replace("/", r"\/") for text in texts)


def check(grammar: str, what: str, vocabulary: Vocabulary) -> None:
    """Raises InputError if a grammar of this schema cannot be made, in words on the schema."""
    error = LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar), vocabulary.guidance)
    if error and not error.startswith("WARNING"):
        said = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", error.split("\n   1 |")[0])
        raise InputError(
            f"the schema of {what} cannot be asked of a model: {' '.join(said.split())}; change that part of it, or "
            "ask without forcing it"
        )
