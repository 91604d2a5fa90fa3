"""What the demonstration tells whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agentsleep.archive import Snapshot


@dataclass(frozen=True, kw_only=True)
class Status:
    """A session after a turn: what is in its window and in all, and what was said last.

    turn: (role, text) of each message of the turn.  slept: the snapshots of the sleeps that fell into it.
    """

    title: str
    window_tokens: int
    capacity: int
    tokens: int
    snapshots: int
    turn: tuple[tuple[str, str], ...]
    slept: tuple[Snapshot, ...]


class Watcher(Protocol):
    """Shows the demonstration while it goes on."""

    def chapter(self, title: str) -> None:
        """A new part begins."""

    def status(self, now: Status) -> None:
        """A turn has ended."""

    def remark(self, line: str) -> None:
        """Something worth a line."""


class Nobody:
    """Watches nothing."""

    def chapter(self, title: str) -> None:
        """Not shown."""

    def status(self, now: Status) -> None:
        """Not shown."""

    def remark(self, line: str) -> None:
        """Not shown."""
