"""What a word is: how texts and queries are cut, the same way for SQLite's and PostgreSQL's full-text search.

SQLite's `unicode61` tokenizer takes letters and digits for words, and removes diacritics
(https://www.sqlite.org/fts5.html#unicode61_tokenizer). PostgreSQL's parser keeps URLs, paths and hyphenated words
whole and drops what looks like a tag (https://www.postgresql.org/docs/current/textsearch-parsers.html), so its texts
are freed of diacritics and of all that separates words before it sees them.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection

# Ranges as a regular expression of PostgreSQL writes them: they mean code points, whatever the database's locale.
_MARKS = r"\u0300-\u036f"
_SEPARATORS = (
    r"\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u00d7\u00f7"
    r"\u2000-\u206f\u20a0-\u20cf\u2190-\u245f\u2500-\u2bff\u2e00-\u2e7f\u3000-\u3004\u3008-\u3020\u3030\u30fb"
    r"\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\U0001f000-\U0001faff"
)

POSTGRES_LIMIT = 200_000
"""Characters of a text that PostgreSQL searches: what a tsvector (1 MiB) holds at worst. SQLite has no limit."""

_WORD = re.compile(rf"[^\W_]+(?:[{_MARKS}]+[^\W_]*)*")
_AROUND = 4  # words of a snippet before the first one that was found
_CLOSEST = 200  # words that were found among which the densest place is looked for


POSTGRES_VECTOR = (
    f"to_tsvector('simple', regexp_replace(left(regexp_replace(normalize(coalesce(text, ''), NFD), '[{_MARKS}]+', '', "
    f"'g'), {POSTGRES_LIMIT}), '[{_SEPARATORS}]+', ' ', 'g'))"
)
"""The words of the column `text` as PostgreSQL (13 or newer, UTF-8) keeps them in a generated column: immutable."""

_MARK, _SEPARATOR = re.compile(f"[{_MARKS}]+"), re.compile(f"[{_SEPARATORS}]+")


def plain(text: str) -> str:
    """`text` as `POSTGRES_VECTOR` takes it: words with blanks between them."""
    return _SEPARATOR.sub(" ", _MARK.sub("", unicodedata.normalize("NFD", text)))


def pieces(query: str) -> list[str]:
    """A query cut at its blanks; what is not cut, such as `shift-3`, is to be found as a whole."""
    return query.replace("\0", " ").split()


def fold(word: str) -> str:
    """A word without case and diacritics."""
    return _MARK.sub("", unicodedata.normalize("NFD", word)).lower()


def folded(text: str) -> set[str]:
    """The words of a text."""
    return {fold(match[0]) for match in _WORD.finditer(text)}


def snippet(text: str, wanted: Collection[str], marks: tuple[str, str], length: int) -> str:
    """The `length` words of `text` among which most of the `wanted` (folded) ones stand, each of these in `marks`."""
    words = list(_WORD.finditer(text))
    found = [(place, fold(word[0])) for place, word in enumerate(words)]
    found = [(place, word) for place, word in found if word in wanted]
    first = 0
    if found:
        few = found[:_CLOSEST]
        first = max(few, key=lambda one: len({w for p, w in few if one[0] <= p < one[0] + length}))[0]
    start = max(0, min(first - _AROUND, len(words) - length))
    if first + 1 - start > length:
        start = first
    chosen = words[start : start + length]
    if not chosen:
        return text
    left, right = (chosen[0].start() if start else 0), (chosen[-1].end() if start + length < len(words) else len(text))
    places, shown, at = {place for place, _ in found}, [], left
    for place, word in enumerate(chosen, start):
        if place in places:
            shown += [text[at : word.start()], marks[0], word[0], marks[1]]
            at = word.end()
    shown.append(text[at:right])
    return f"{'…' if left else ''}{''.join(shown)}{'…' if right < len(text) else ''}"
