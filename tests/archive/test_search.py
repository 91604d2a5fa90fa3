"""Full-text search: one meaning in both databases, no syntax, no other user's messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text as sql

from agentsleep.archive import Archive, NewEvent, UserArchive
from agentsleep.archive.search import Hit, search
from agentsleep.errors import ArchiveDamaged, InputError, SessionNotFound
from tests.archive.helpers import change, kind, opened, said, slept


def told(user: UserArchive, *texts: str, thread: str = "thread-1") -> str:
    session = opened(user, thread)
    user.append(session.id, [said(1, text=one) for one in texts])
    return session.id


def found(user: UserArchive, query: str, **options: Any) -> list[str]:
    return [hit.text for hit in search(user, query, **options)]


def test_a_hit_tells_where_it_is(ada: UserArchive) -> None:
    session_id = told(ada, "bob hands over to alice .", "the build is late")
    (event,) = ada.events(session_id, 1)
    (hit,) = search(ada, "LATE build")
    assert hit == Hit(
        session_id=session_id,
        thread="thread-1",
        seq=1,
        role="user",
        text="the build is late",
        snippet="the [build] is [late]",
        rank=hit.rank,
        created=event.created,
    )
    assert hit.rank > 0


def test_all_words_must_occur_or_any(ada: UserArchive) -> None:
    told(ada, "alice has the night shift", "bob has the day shift", "carol sleeps")
    assert found(ada, "shift alice") == ["alice has the night shift"]
    assert found(ada, "alice carol") == []
    assert sorted(found(ada, "alice carol", any_word=True)) == ["alice has the night shift", "carol sleeps"]
    assert found(ada, "shif") == []  # words, not beginnings of words
    assert found(ada, "dave") == []


@pytest.mark.parametrize(
    ("query", "what"),
    [
        ('"night', 'a "night shift" (for NEAR) AND alice*'),
        ("NEAR", 'a "night shift" (for NEAR) AND alice*'),
        ("night AND alice", 'a "night shift" (for NEAR) AND alice*'),
        ("alice*", 'a "night shift" (for NEAR) AND alice*'),
        ("(alice", 'a "night shift" (for NEAR) AND alice*'),
        ("-night", 'a "night shift" (for NEAR) AND alice*'),
        ("text:night", "text:night"),
        ("^night + ''; --", 'a "night shift" (for NEAR) AND alice*'),
        ("night & ! | <-> :*", 'a "night shift" (for NEAR) AND alice*'),
        ("back\\slash", "a back\\slash"),
        ("100%", "100% sure"),
        (":word", "a :word"),
    ],
)
def test_a_query_is_text_and_no_expression(ada: UserArchive, query: str, what: str) -> None:
    told(ada, what, "something else")
    assert found(ada, query) == [what]


@pytest.mark.parametrize("query", ["alice OR bob", "alice NOT bob", "alic*", "al ice", "NEAR(alice bob)"])
def test_operators_are_words_that_must_occur(ada: UserArchive, query: str) -> None:
    told(ada, "alice", "bob", "alice bob")
    assert found(ada, query) == []


@pytest.mark.parametrize("query", ["...", '"', "()", "*", "-", "«»", '" "', "''", "\\", "… — !"])
@pytest.mark.parametrize("any_word", [False, True])
def test_what_has_no_word_finds_nothing(ada: UserArchive, query: str, any_word: bool) -> None:
    told(ada, "alice ...", query)
    assert found(ada, query, any_word=any_word) == []
    assert found(ada, f"{query} alice", any_word=any_word) == ["alice ..."]
    assert found(ada, f"alice {query}", any_word=any_word) == ["alice ..."]


@pytest.mark.parametrize("query", ["", "  ", "\n\t", "\0", "\u2003"])
def test_a_blank_query_is_an_error(ada: UserArchive, query: str) -> None:
    with pytest.raises(InputError, match="query is blank"):
        search(ada, query)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"query": 7}, "the query must be a str"),
        ({"query": "\ud800"}, "lone surrogate"),
        ({"query": "a " * 257}, "the query has 257 words; give at most 256"),
        ({"limit": 0}, "limit is 0"),
        ({"limit": 1001}, "limit is 1001"),
        ({"limit": True}, "limit is True"),
        ({"kinds": ["dream"]}, "unknown event kind 'dream'"),
        ({"marks": ("<b>",)}, "marks must be two texts"),
        ({"marks": "b"}, "marks must be two texts"),
    ],
)
def test_bad_arguments_are_named(ada: UserArchive, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        search(ada, **{"query": "alice", **options})


def test_many_words_are_understood(ada: UserArchive) -> None:
    told(ada, " ".join(f"w{number}" for number in range(256)))
    query = " ".join(f"w{number}" for number in range(255, -1, -1))
    assert len(found(ada, query)) == 1
    assert len(found(ada, query, any_word=True)) == 1
    assert found(ada, f"{query[:-3]} none") == []


@pytest.mark.parametrize(
    ("text", "queries"),
    [
        ("Café CRÈME", ["cafe", "CAFÉ", "cafe\u0301", "creme"]),
        ("cafe\u0301", ["café", "cafe"]),
        ("see www.example.com/night?x=1", ["example", "night", "www.example.com", "example.com/night"]),
        ("mail ada.lovelace@example.org", ["lovelace", "ada.lovelace@example.org"]),
        ("shift-3 of node_7", ["shift-3", "shift", "3", "node", "node_7", "Node-7"]),
        ("<b>bold</b> &amp; plain", ["bold", "b", "amp", "<b>bold</b>"]),
        ("/usr/local/bin -17 3.5e8", ["local", "17", "3.5e8", "-17"]),
        ("«мир» и Москва…", ["мир", "москва", "Москва", "МОСКВА"]),
        ("Ωμέγα ΤΈΛΟΣ", ["ωμέγα", "ΩΜΈΓΑ"]),
        ("你好，世界。", ["你好", "世界"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("안녕하세요 세계", ["안녕하세요", "세계"]),
        ("مرحبا بالعالم", ["مرحبا"]),
        ("hello😀world", ["hello", "world"]),
        ("it's Ada’s", ["ada", "it's", "Ada’s"]),
    ],
)
def test_words_of_any_script_in_any_writing(ada: UserArchive, text: str, queries: Sequence[str]) -> None:
    told(ada, text, "other")
    for query in queries:
        assert found(ada, query) == [text], query


def test_parts_of_a_word_must_follow_each_other(ada: UserArchive) -> None:
    told(ada, "shift 3", "3 shift", "shift a 3")
    assert found(ada, "shift-3") == ["shift 3"]
    assert len(found(ada, "shift 3")) == 3


def test_the_better_come_first_and_of_equals_the_newer(ada: UserArchive) -> None:
    told(ada, "late " + "and other things " * 30, "late late", *["nothing"] * 20)
    assert found(ada, "late")[0] == "late late"
    one, two = told(ada, "carol waits", thread="a"), told(ada, "carol waits", thread="b")
    assert [hit.session_id for hit in search(ada, "carol")] == [two, one]
    assert [hit.session_id for hit in search(ada, "carol", limit=1)] == [two]


def test_roles_and_kinds_are_filters(ada: UserArchive) -> None:
    session = opened(ada)
    ada.append(
        session.id,
        [
            NewEvent(kind="tokens", role="user", token_ids=(1,), text="late"),
            NewEvent(kind="tokens", role="tool", token_ids=(1,), text="late"),
            NewEvent(kind="sleep", text="late"),
        ],
    )
    assert [hit.seq for hit in search(ada, "late", roles=["tool"])] == [1]
    assert sorted(hit.seq for hit in search(ada, "late", roles=["tool", "user"])) == [0, 1]
    assert [hit.seq for hit in search(ada, "late", kinds=["sleep"])] == [2]
    assert search(ada, "late", roles=[]) == []
    assert len(search(ada, "late")) == 3


def test_events_without_text_are_no_trouble(ada: UserArchive) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1, 2), said(3, text="")])
    assert search(ada, "a") == []


def test_a_fork_finds_what_it_inherited_and_nothing_twice(ada: UserArchive) -> None:
    origin = told(ada, "late one")
    snapshot = slept(ada, origin, b"state")
    told(ada, "late two")
    fork = ada.fork(snapshot.id, "fork")
    ada.append(fork.id, [said(1, text="late three")])
    inner = ada.fork(slept(ada, fork.id, b"other").id, "inner")
    assert sorted(found(ada, "late")) == ["late one", "late three", "late two"]
    assert sorted(found(ada, "late", thread="thread-1")) == ["late one", "late two"]
    assert sorted(found(ada, "late", thread="fork")) == ["late one", "late three"]
    assert sorted((h.text, h.thread, h.session_id) for h in search(ada, "late", thread="inner")) == [
        ("late one", "thread-1", origin),
        ("late three", "fork", fork.id),
    ]
    assert inner.events == 4
    with pytest.raises(SessionNotFound, match="thread='none'"):
        search(ada, "late", thread="none")


def test_another_users_messages_are_never_found(archive: Archive, ada: UserArchive) -> None:
    eve, other = archive.user("acme", "eve"), archive.user("umbrella", "ada")
    told(ada, "late ada")
    assert search(eve, "late") == []
    told(eve, "late eve", "secret"), told(other, "late other")
    assert found(ada, "late") == ["late ada"]
    assert found(ada, "eve secret other", any_word=True) == []
    assert found(eve, "late") == ["late eve"]
    with pytest.raises(SessionNotFound):
        search(archive.user("acme", "nobody"), "late", thread="thread-1")


def test_snippets_show_the_place(ada: UserArchive) -> None:
    filler = " ".join(f"w{number}" for number in range(100))
    told(ada, f"{filler} Alice, then B\u00f6b. {filler}", "alice")
    (hit,) = search(ada, "bob alice", marks=("<b>", "</b>"))
    assert hit.snippet == "…w96 w97 w98 w99 <b>Alice</b>, then <b>B\u00f6b</b>. w0 w1 w2 w3 w4 w5 w6 w7 w8…"
    assert search(ada, "alice", marks=("", ""), limit=1)[0].snippet == "alice"
    (hit,) = search(ada, "w99 bob")
    assert "[w99] Alice, then [B\u00f6b]" in hit.snippet


def test_a_long_text_is_searched(ada: UserArchive) -> None:
    long = " ".join(f"word{number}" for number in range(60_000)) + " last"
    told(ada, long, "x" * 5_000 + " short")
    assert found(ada, "word17") == [long]
    assert found(ada, "short") == ["x" * 5_000 + " short"]
    assert found(ada, "last") == ([long] if kind_of(ada) == "sqlite" else [])  # beyond PostgreSQL's limit


def kind_of(user: UserArchive) -> str:
    return user.database.kind


def test_what_is_damaged_is_not_shown(ada: UserArchive) -> None:
    told(ada, "late one")
    change(ada, "UPDATE events SET text = 'late two' WHERE scope_id = :scope")
    with pytest.raises(ArchiveDamaged, match="fails its checksum"):
        search(ada, "late")


def tokens(archive: Archive, user: UserArchive, text: str) -> list[str]:
    """The words of a text as the database's own tokenizer sees them."""
    with user.reading() as (tx, scope_id):
        if kind(archive) == "postgresql":
            query = (
                "SELECT unnest(tsvector_to_array(events_search)) FROM events WHERE scope_id = :scope AND text = :text"
            )
            return list(tx.scalars(sql(query), {"scope": scope_id, "text": text}))
    with archive.database.writing() as tx:
        tx.execute(sql('CREATE VIRTUAL TABLE temp.own USING fts5(text, tokenize = "unicode61 remove_diacritics 2")'))
        tx.execute(sql("CREATE VIRTUAL TABLE temp.own_words USING fts5vocab(temp, own, row)"))
        tx.execute(sql("INSERT INTO own VALUES (:text)"), {"text": text})
        seen = list(tx.scalars(sql("SELECT term FROM own_words")))
        tx.execute(sql("DROP TABLE own_words")), tx.execute(sql("DROP TABLE own"))
    return seen


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(text=st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1, max_size=40))
def test_any_text_is_found_by_each_of_its_words(archive: Archive, ada: UserArchive, text: str) -> None:
    eve = archive.user("acme", "eve")
    session_id, theirs = told(ada, text), told(eve, text)
    seq = ada.session(session_id).events - 1
    for word in tokens(archive, ada, text):
        hits = search(ada, word, limit=1000)
        assert seq in [hit.seq for hit in hits], word
        assert {hit.session_id for hit in hits} == {session_id}
        assert {hit.session_id for hit in search(eve, word)} == {theirs}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(query=st.text(st.characters(exclude_categories=("Cs",)), max_size=30), any_word=st.booleans())
def test_any_query_is_understood(ada: UserArchive, query: str, any_word: bool) -> None:
    told(ada, "alice")
    if not query.replace("\0", " ").split():
        with pytest.raises(InputError, match="blank"):
            search(ada, query, any_word=any_word)
        return
    assert all(hit.text == "alice" for hit in search(ada, query, any_word=any_word))
