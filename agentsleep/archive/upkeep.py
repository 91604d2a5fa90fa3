"""What is done with a user's part besides writing to it: search, retention, verification, and the record of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from agentsleep.archive import audit, retention, search, verify
from agentsleep.archive.audit import AuditEntry
from agentsleep.archive.retention import Pruned, PrunePlan
from agentsleep.archive.rules import Retention
from agentsleep.archive.scoped import Scoped
from agentsleep.archive.search import Hit
from agentsleep.archive.types import EventKind
from agentsleep.archive.verify import VerifyReport


class Upkeep(Scoped):
    """The half of `UserArchive` that looks after what is there."""

    def search(
        self,
        query: str,
        *,
        thread: str | None = None,
        limit: int = 20,
        roles: Sequence[str] | None = None,
        kinds: Sequence[EventKind] | None = None,
        any_word: bool = False,
        marks: tuple[str, str] = ("[", "]"),
    ) -> list[Hit]:
        """Messages that hold all words of `query`, the best first, see `agentsleep.archive.search.search`."""
        return search.search(
            self, query, thread=thread, limit=limit, roles=roles, kinds=kinds, any_word=any_word, marks=marks
        )

    def plan_pruning(self, rules: Retention, session_id: str | None = None, now: datetime | None = None) -> PrunePlan:
        """What `prune` would take away, and how many bytes that frees, see `agentsleep.archive.retention.plan`."""
        return retention.plan(self, rules, session_id, now)

    def prune(self, rules: Retention, session_id: str | None = None, now: datetime | None = None) -> Pruned:
        """Takes away the states that the rules do not keep, see `agentsleep.archive.retention.prune`."""
        return retention.prune(self, rules, session_id, now)

    def verify(self, deep: bool = True, progress: Callable[[float], None] | None = None) -> VerifyReport:
        """Checks all that is there, see `agentsleep.archive.verify.verify`."""
        return verify.verify(self, deep, progress)

    def audit(self, limit: int = 100) -> list[AuditEntry]:
        """What was pruned, forgotten, imported and rolled back, the newest first."""
        return audit.entries(self, limit)
