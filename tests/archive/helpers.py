"""Short forms for the archive's tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from agentsleep.archive import Archive, NewEvent, Scope, SessionRecord, Snapshot

ROOT = Path(__file__).parents[2]
MODEL = "a1" * 32
OTHER_MODEL = "b2" * 32
SLEEP = NewEvent(kind="sleep", data={"passes": 2})
ADA = {"tenant": "acme", "user": "ada"}


def scope(thread: str = "thread-1", user: str = "ada", tenant: str = "acme") -> Scope:
    return Scope(tenant=tenant, user=user, thread=thread)


def said(*token_ids: int, text: str | None = None) -> NewEvent:
    return NewEvent(kind="tokens", role="user", token_ids=token_ids, text=text)


def opened(archive: Archive, thread: str = "thread-1", **ids: str) -> SessionRecord:
    return archive.open_session(scope(thread, **ids), fingerprint=MODEL, settings={"passes": 2})


def slept(archive: Archive, session_id: str, state: bytes, **changes: Any) -> Snapshot:
    """A snapshot on the session's present head."""
    settings: dict[str, Any] = {
        "expected_head": archive.session(session_id).head,
        "state": state,
        "events": [SLEEP],
        "fingerprint": MODEL,
        "passes": 2,
        "rounds": 1,
        "trigger": "manual",
        "mode": "canonical",
        "environment": {"torch": "2.13.0"},
        "metrics": {"norm": 0.5},
    }
    return archive.commit_snapshot(session_id, **{**settings, **changes})


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
