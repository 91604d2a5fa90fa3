"""The audit: ids and counts, in the transaction of what it tells of, of one user."""

from __future__ import annotations

from typing import Any

import pytest

from agentsleep.archive import Archive, UserArchive
from agentsleep.archive.audit import entries, record
from agentsleep.errors import InputError
from tests.archive.helpers import count, opened

ID, DIGEST = "0f" * 16, "0f" * 32


def noted(user: UserArchive, action: Any, detail: Any) -> None:
    with user.writing() as (tx, scope_id, _key):
        record(tx, scope_id, action, detail)


def test_entries_come_back_newest_first(ada: UserArchive) -> None:
    opened(ada)
    assert entries(ada) == []
    noted(ada, "prune", {"snapshots": [ID, ID], "bytes": 7})
    noted(ada, "import", {"session": ID, "archive": DIGEST, "events": 3, "head": None})
    newest, older = entries(ada)
    assert (newest.action, older.action) == ("import", "prune")
    assert newest.detail == {"session": ID, "archive": DIGEST, "events": 3, "head": None}
    assert older.detail == {"snapshots": [ID, ID], "bytes": 7}
    assert newest.created >= older.created
    assert newest.created.utcoffset() is not None
    assert entries(ada, limit=1) == [newest]


def test_another_user_sees_none_of_them(archive: Archive, ada: UserArchive) -> None:
    eve = archive.user("acme", "eve")
    opened(ada), opened(eve)
    noted(ada, "prune", {"states": 1})
    noted(eve, "rollback", {"states": 2})
    assert [entry.action for entry in entries(ada)] == ["prune"]
    assert [entry.action for entry in entries(eve)] == ["rollback"]
    assert entries(archive.user("other", "ada")) == []


def test_what_is_not_done_is_not_on_record(ada: UserArchive) -> None:
    opened(ada)

    def fails() -> None:
        with ada.writing() as (tx, scope_id, _key):
            record(tx, scope_id, "forget", {"sessions": 1})
            raise KeyError

    with pytest.raises(KeyError):
        fails()
    assert entries(ada) == []


@pytest.mark.parametrize(
    "detail",
    [
        {"text": "alice's telephone number"},
        {"ids": [ID, "alice"]},
        {"id": ID.upper()},
        {"id": ID + "0"},
        {"alice's number": 1},
        {"a": {"b": ID}},
        {"share": 0.5},
    ],
)
def test_text_is_refused_and_not_repeated(ada: UserArchive, detail: dict[str, Any]) -> None:
    opened(ada)
    with pytest.raises(InputError, match="neither a count nor an id") as caught:
        noted(ada, "forget", detail)
    assert "telephone" not in str(caught.value)
    assert count(ada, "audit") == 0


def test_an_unknown_action_is_refused(ada: UserArchive) -> None:
    opened(ada)
    with pytest.raises(InputError, match="unknown action 'delete'; use one of prune, forget"):
        noted(ada, "delete", {})


@pytest.mark.parametrize("limit", [0, -1, True, 1.0, "3"])
def test_a_limit_is_a_number(ada: UserArchive, limit: Any) -> None:
    with pytest.raises(InputError, match="limit must be an int of at least 1"):
        entries(ada, limit=limit)
