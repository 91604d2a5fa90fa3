"""The record of what was done to an archive besides writing to it: ids and counts, never text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias, cast, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session as Transaction

from agentsleep.archive import rows
from agentsleep.archive.schema import AuditRow
from agentsleep.archive.scoped import Scoped
from agentsleep.errors import InputError

Action: TypeAlias = Literal["prune", "forget", "import", "rollback"]

Detail: TypeAlias = "Mapping[str, int | str | Sequence[str] | None]"
"""Counts, ids (32 or 64 hexadecimal digits), lists of ids; nothing that anybody said."""

_NAME = re.compile(r"[a-z][a-z_]{0,31}")
_ID = re.compile(r"[0-9a-f]{32}(?:[0-9a-f]{32})?")


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """Something that was done to a user's part of the archive."""

    action: Action
    detail: Detail
    created: datetime
    """UTC."""


def record(tx: Transaction, scope_id: str, action: Action, detail: Detail) -> None:
    """Writes an entry in the transaction of what it tells of: both are on disk, or neither is.

    Raises:
        InputError: no such action; or `detail` holds something else than counts and ids.
    """
    if action not in get_args(Action):
        raise InputError(f"unknown action {action!r}; use one of {', '.join(get_args(Action))}")
    plain: dict[str, object] = {}
    for name, value in detail.items():
        if not (isinstance(name, str) and _NAME.fullmatch(name) and _harmless(value)):
            # The message does not repeat the value: it is just what must not be kept.
            raise InputError(
                f"the audit's {name!r:.40} is neither a count nor an id nor a list of ids; an entry outlives what it "
                "tells of, so give ids and numbers alone"
            )
        plain[name] = value if value is None or isinstance(value, int | str) else list(value)
    tx.add(AuditRow(scope_id=scope_id, action=action, detail=plain, created=rows.now()))
    tx.flush()


def entries(scoped: Scoped, limit: int = 100) -> list[AuditEntry]:
    """The newest entries of the user, newest first. A user who was forgotten and came back has none of the old ones.

    Raises:
        InputError: `limit` is below 1.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise InputError(f"limit must be an int of at least 1, got {limit!r}")
    with scoped.reading() as (tx, scope_id):
        query = select(AuditRow).where(AuditRow.scope_id == scope_id).order_by(AuditRow.id.desc()).limit(limit)
        return [
            AuditEntry(action=cast("Action", row.action), detail=cast("Detail", row.detail), created=row.created)
            for row in tx.scalars(query)
        ]


def _harmless(value: object) -> bool:
    if value is None or isinstance(value, int):
        return True
    if isinstance(value, str):
        return _ID.fullmatch(value) is not None
    return isinstance(value, list | tuple) and all(isinstance(one, str) and _ID.fullmatch(one) for one in value)
