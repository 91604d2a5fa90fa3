"""Full-text search over what was said, in SQLite and PostgreSQL alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias, get_args

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    column,
    func,
    literal,
    literal_column,
    select,
    table,
    text,
)

from agentsleep.archive import words
from agentsleep.archive.log import event_of, lineage
from agentsleep.archive.schema import EventRow, SessionRow
from agentsleep.archive.scoped import Scoped
from agentsleep.archive.types import EventKind, check_text
from agentsleep.errors import InputError, SessionNotFound

MAX_WORDS = 256
"""Most words of a query."""

MAX_HITS = 1000
"""Most hits of one search."""

SNIPPET_WORDS = 16


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A message that was found, as it lies in the log of the session that wrote it."""

    session_id: str
    thread: str
    seq: int
    role: str | None
    text: str
    snippet: str
    """Some words around those that were found, these between the marks."""
    rank: float
    """Larger is better; comparable within one search alone."""
    created: datetime
    """UTC."""


def search(
    scoped: Scoped,
    query: str,
    *,
    thread: str | None = None,
    limit: int = 20,
    roles: Sequence[str] | None = None,
    kinds: Sequence[EventKind] | None = None,
    any_word: bool = False,
    marks: tuple[str, str] = ("[", "]"),
) -> list[Hit]:
    """Messages of the user that hold all words of `query`, the best first, of equally good ones the newest.

    A query is text, never an expression: quotes, `AND`, `*` or parentheses mean themselves. Words are runs of letters
    and digits, without case and diacritics; `shift-3` is found as two words that follow each other. Languages that
    write without blanks are not cut into words: what is found is a whole run of their letters.

    The databases differ in this: SQLite takes diacritics from Latin letters alone, PostgreSQL from all; PostgreSQL
    folds the case of letters outside ASCII by its locale (in "C" not at all), and looks at the first 200,000
    characters of a text and at words of at most 2,046 bytes. SQLite ranks by BM25, whose counts go over all users of
    the file; PostgreSQL by ts_rank.

    Args:
        thread: only the log of this thread, what it inherited from the one that it was forked from included.
        roles: only what these said.  kinds: only events of these kinds.
        any_word: one of the words is enough.
        marks: what is put before and after the words that were found in a snippet.

    Raises:
        InputError: the query is blank or has more than 256 words; limit is not between 1 and 1,000; marks are no two
            texts; there is no such kind.
        SessionNotFound: there is no such thread.
        ArchiveDamaged: a message that was found is not what was written.
    """
    parts = words.pieces(check_text("the query", query))
    _check(parts, limit, kinds, marks)
    with scoped.reading() as (tx, scope_id):
        sqlite = scoped.database.kind == "sqlite"
        chosen, rank = (_sqlite if sqlite else _postgres)(parts, any_word)
        chosen = chosen.where(
            EventRow.scope_id == scope_id,
            SessionRow.scope_id == scope_id,
            *([EventRow.role.in_(roles)] if roles is not None else []),
            *([EventRow.kind.in_(kinds)] if kinds is not None else []),
        )
        if thread is not None:
            session = tx.scalar(scoped.by_thread(thread, scope_id))
            if session is None:
                raise SessionNotFound(
                    f"no session for {scoped.named(thread)} in {scoped.database.name}; sessions() lists those there are"
                )
            line = lineage(session)
            chosen = chosen.join(line, EventRow.session_id == line.c.id).where(EventRow.seq < line.c.stop)
        chosen = chosen.order_by(rank.desc(), EventRow.created.desc(), EventRow.id.desc()).limit(limit)
        wanted = words.folded(" ".join(parts))
        hits = []
        for row, name, rated in tx.execute(chosen):
            event = event_of(row)
            said = event.text or ""
            hits.append(
                Hit(
                    session_id=row.session_id,
                    thread=name,
                    seq=event.seq,
                    role=event.role,
                    text=said,
                    snippet=words.snippet(said, wanted, marks, SNIPPET_WORDS),
                    rank=float(rated),
                    created=event.created,
                )
            )
        return hits


def _check(parts: Sequence[str], limit: int, kinds: Sequence[str] | None, marks: tuple[str, str]) -> None:
    if not parts:
        raise InputError("the query is blank; give at least one word")
    if len(parts) > MAX_WORDS:
        raise InputError(f"the query has {len(parts)} words; give at most {MAX_WORDS}")
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= MAX_HITS:
        raise InputError(f"limit is {limit!r}; give a number from 1 to {MAX_HITS}")
    unknown = [kind for kind in kinds or () if kind not in get_args(EventKind)]
    if unknown:
        raise InputError(f"unknown event kind {unknown[0]!r}; use some of {', '.join(get_args(EventKind))}")
    if not (isinstance(marks, tuple | list) and len(marks) == 2 and all(isinstance(mark, str) for mark in marks)):
        raise InputError(f"marks must be two texts, one before and one after a word, got {marks!r:.80}")


_Chosen: TypeAlias = "tuple[Select[*tuple[Any, ...]], ColumnElement[float]]"


def _sqlite(parts: Sequence[str], any_word: bool) -> _Chosen:
    index = table("events_search", column("rowid"), column("rank"))
    # Between quotes nothing is syntax; a phrase without any word, such as "...", is no condition.
    phrases = ['"' + part.replace('"', '""') + '"' for part in parts]
    rank = -literal_column("events_search.rank", Float)
    chosen = (
        select(EventRow, SessionRow.thread, rank)
        .select_from(index)
        .join(EventRow, EventRow.id == index.c.rowid)
        .join(SessionRow, SessionRow.id == EventRow.session_id)
        .where(text("events_search MATCH :words").bindparams(words=(" OR " if any_word else " ").join(phrases)))
    )
    return chosen, rank


def _postgres(parts: Sequence[str], any_word: bool) -> _Chosen:
    # A column, not an index: `@@` is not leakproof, so under row-level security no index would ever be used for it
    # (https://www.postgresql.org/docs/current/rules-privileges.html), while the user's rows are found by their scope.
    vector: ColumnElement[Any] = literal_column("events.events_search")
    simple: ColumnElement[Any] = literal_column("'simple'::regconfig")
    queries: list[ColumnElement[Any]] = [func.phraseto_tsquery(simple, words.plain(part)) for part in parts]
    while len(queries) > 1:  # in pairs: a chain of 256 would be too deep for the compiler of statements
        pairs = zip(queries[::2], queries[1::2], strict=False)
        queries = [one.op("||" if any_word else "&&")(other) for one, other in pairs] + queries[len(queries) // 2 * 2 :]
    query = queries[0]
    rank = func.ts_rank(vector, query, literal(1), type_=Float)
    chosen = (
        select(EventRow, SessionRow.thread, rank)
        .join(SessionRow, SessionRow.id == EventRow.session_id)
        .where(vector.op("@@")(query))
    )
    return chosen, rank
