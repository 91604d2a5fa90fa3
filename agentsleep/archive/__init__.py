"""The archive: event logs and snapshots in SQL. Knows bytes, ints and JSON; nothing of tensors or models."""

from __future__ import annotations

from agentsleep.archive.lock import SessionLock
from agentsleep.archive.store import Archive
from agentsleep.archive.types import JSON, Event, EventKind, NewEvent, Scope, SessionRecord, Snapshot
from agentsleep.archive.where import default_archive

__all__ = [
    "JSON",
    "Archive",
    "Event",
    "EventKind",
    "NewEvent",
    "Scope",
    "SessionLock",
    "SessionRecord",
    "Snapshot",
    "default_archive",
]
