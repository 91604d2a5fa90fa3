"""The archive: event logs and snapshots in SQL. Knows bytes, ints and JSON; nothing of tensors or models."""

from __future__ import annotations

from agentsleep.archive.lock import SessionLock
from agentsleep.archive.rules import Retention
from agentsleep.archive.search import Hit
from agentsleep.archive.store import Archive
from agentsleep.archive.transplant import Line, Regrowth, forget_user, mend, plant, regrow, renamed
from agentsleep.archive.types import JSON, Event, EventKind, NewEvent, Scope, SessionRecord, Snapshot, TensorBytes
from agentsleep.archive.user import UserArchive
from agentsleep.archive.where import default_archive

__all__ = [
    "JSON",
    "Archive",
    "Event",
    "EventKind",
    "Hit",
    "Line",
    "NewEvent",
    "Regrowth",
    "Retention",
    "Scope",
    "SessionLock",
    "SessionRecord",
    "Snapshot",
    "TensorBytes",
    "UserArchive",
    "default_archive",
    "forget_user",
    "mend",
    "plant",
    "regrow",
    "renamed",
]
