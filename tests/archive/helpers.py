"""Short forms for the archive's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import text

from agentsleep.archive import Archive, NewEvent, SessionRecord, Snapshot, TensorBytes, UserArchive

ROOT = Path(__file__).parents[2]
MODEL = "a1" * 32
OTHER_MODEL = "b2" * 32
SLEEP = NewEvent(kind="sleep", data={"passes": 2})


def said(*token_ids: int, text: str | None = None) -> NewEvent:
    return NewEvent(kind="tokens", role="user", token_ids=token_ids, text=text)


def opened(user: UserArchive, thread: str = "thread-1") -> SessionRecord:
    return user.open_session(thread, fingerprint=MODEL, settings={"passes": 2})


def tensor(data: bytes, name: str = "layers.0.recurrent") -> TensorBytes:
    return TensorBytes(name=name, dtype="U8", shape=(len(data),), data=data)


def slept(user: UserArchive, session_id: str, state: bytes | Sequence[TensorBytes], **changes: Any) -> Snapshot:
    """A snapshot on the session's present head; its state is one tensor of these bytes, or what is given."""
    settings: dict[str, Any] = {
        "expected_head": changes["expected_head"] if "expected_head" in changes else user.session(session_id).head,
        "state": [tensor(state)] if isinstance(state, bytes) else state,
        "events": [SLEEP],
        "fingerprint": MODEL,
        "passes": 2,
        "rounds": 1,
        "trigger": "manual",
        "mode": "canonical",
        "environment": {"torch": "2.13.0"},
        "metrics": {"norm": 0.5},
    }
    return user.commit_snapshot(session_id, **{**settings, **changes})


def loaded(user: UserArchive, snapshot_id: str) -> bytes:
    """The bytes that `slept` stored."""
    (one,) = user.load_state(snapshot_id)
    assert (one.name, one.dtype, one.shape) == ("layers.0.recurrent", "U8", (len(one.data),))
    return bytes(one.data)


def count(user: UserArchive, table: str) -> int:
    """Rows of a table that belong to the user."""
    with user.reading() as (tx, scope_id):
        return int(tx.scalar(text(f"SELECT count(*) FROM {table} WHERE scope_id = :scope"), {"scope": scope_id}) or 0)


def change(user: UserArchive, statement: str) -> None:
    """What no method of an archive does to its rows; `:scope` is the user's."""
    with user.writing() as (tx, scope_id, _key):
        tx.execute(text(statement), {"scope": scope_id} if ":scope" in statement else {})


def kind(archive: Archive) -> str:
    return archive.database.kind


def child(*arguments: object) -> subprocess.Popen[str]:
    """`tests/archive/child.py` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.archive.child", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
