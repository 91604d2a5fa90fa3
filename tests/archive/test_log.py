from __future__ import annotations

from datetime import UTC

import pytest

from agentsleep.archive import Archive, NewEvent, UserArchive
from agentsleep.errors import ArchiveDamaged, InputError
from tests.archive.helpers import SLEEP, change, kind, opened, said


def test_seqs_and_positions_follow_one_another(ada: UserArchive) -> None:
    session = opened(ada)
    tool = NewEvent(
        kind="tokens", role="tool", token_ids=(7,), text="é\u2028🦙", data={"calls": [{"k": 1.5, "n": None}]}
    )
    first = ada.append(session.id, [said(1, 2, 3, text="hello"), tool])
    second = ada.append(session.id, [NewEvent(kind="deep_sleep", data={"rounds": 2}), said()])
    third = ada.append(session.id, [said(9)])
    log = [*first, *second, *third]
    assert [one.seq for one in log] == [0, 1, 2, 3, 4]
    assert [one.position for one in log] == [0, 3, 4, 4, 4]
    assert [one.kind for one in log] == ["tokens", "tokens", "deep_sleep", "tokens", "tokens"]
    assert (log[1].role, log[1].text, log[1].data) == ("tool", tool.text, tool.data)
    assert ada.events(session.id) == log
    assert (ada.session(session.id).events, ada.session(session.id).tokens) == (5, 5)
    assert all(one.created.tzinfo is UTC for one in ada.events(session.id))


def test_what_append_returns_is_what_is_read(ada: UserArchive) -> None:
    session = opened(ada)
    (written,) = ada.append(session.id, [NewEvent(kind="tokens", data={"pair": (1, 2)})])
    (read,) = ada.events(session.id)
    assert written == read
    assert written.data == {"pair": [1, 2]}
    assert written.created == read.created


def test_a_part_of_the_log(ada: UserArchive) -> None:
    session = opened(ada)
    log = ada.append(session.id, [said(i) for i in range(10)])
    assert ada.events(session.id, 3) == log[3:]
    assert ada.events(session.id, 3, 7) == log[3:7]
    assert ada.events(session.id, 3, 99) == log[3:]
    assert ada.events(session.id, 7, 3) == []
    assert ada.events(session.id, 10) == []
    for bad in ((-1, None), (0, -1)):
        with pytest.raises(InputError, match="negative"):
            ada.events(session.id, *bad)


def test_nothing_appended_is_nothing_stored(ada: UserArchive) -> None:
    session = opened(ada)
    assert ada.append(session.id, []) == []
    assert ada.session(session.id).events == 0


def test_an_append_is_all_or_nothing(ada: UserArchive) -> None:
    session = opened(ada)
    with pytest.raises(InputError, match="event 1 of 2"):
        ada.append(session.id, [said(1), NewEvent(kind="tokens", data={"x": float("nan")})])
    assert ada.events(session.id) == []
    assert ada.session(session.id) == session


def test_sessions_do_not_share_a_log(ada: UserArchive) -> None:
    a, b = opened(ada, "a"), opened(ada, "b")
    ada.append(a.id, [said(1)])
    ada.append(b.id, [said(2)])
    ada.append(a.id, [said(3)])
    assert [(one.seq, one.token_ids) for one in ada.events(a.id)] == [(0, (1,)), (1, (3,))]
    assert [(one.seq, one.token_ids) for one in ada.events(b.id)] == [(0, (2,))]


def test_a_mark_is_an_event_without_tokens(ada: UserArchive) -> None:
    session = opened(ada)
    (mark,) = ada.append(session.id, [SLEEP])
    assert (mark.kind, mark.token_ids, mark.role, mark.data) == ("sleep", (), None, {"passes": 2})


def test_a_nul_in_a_text_is_kept_or_refused_by_name(archive: Archive, ada: UserArchive) -> None:
    """SQLite stores it, PostgreSQL cannot; in JSON both can."""
    session = opened(ada)
    event = NewEvent(kind="tokens", text="a\0b")
    if kind(archive) == "sqlite":
        ada.append(session.id, [event])
        assert ada.events(session.id)[0].text == "a\0b"
    else:
        with pytest.raises(InputError, match="NUL character, which PostgreSQL cannot store"):
            ada.append(session.id, [event])
        assert ada.session(session.id) == session
    ada.append(session.id, [NewEvent(kind="tokens", data={"raw": "a\0b"})])
    assert ada.events(session.id)[-1].data == {"raw": "a\0b"}


@pytest.mark.parametrize(
    "damage",
    ["position = position + 1", "text = 'hullo'", "role = 'user2'", "role = NULL", "kind = 'sleep'", "seq = seq + 1"],
)
def test_a_changed_event_is_refused(ada: UserArchive, damage: str) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1), said(7, text="hello")])
    change(ada, f"UPDATE events SET {damage} WHERE seq = 1 AND scope_id = :scope")
    with pytest.raises(ArchiveDamaged):
        ada.events(session.id)
    assert ada.events(session.id, 0, 1)[0].token_ids == (1,)  # what is whole can still be read


def test_a_missing_event_is_noticed(ada: UserArchive) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1), said(2), said(3)])
    for seq, found in ((1, 2), (2, 1)):  # from the middle, then from the end
        change(ada, f"DELETE FROM events WHERE seq = {seq} AND scope_id = :scope")
        with pytest.raises(ArchiveDamaged, match=f"0 to 2, but {found}"):
            ada.events(session.id)
