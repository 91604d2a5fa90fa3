"""The rules by which states stay or go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from agentsleep.errors import SettingsError

_LONGEST_S = 36_525 * 86_400.0


@dataclass(frozen=True, kw_only=True)
class Retention:
    """Which states of a user stay. Heads of sessions and tagged snapshots always do, whatever is said here.

    A session's line is its head and all ancestors of it, what it inherited included; a state stays as long as one line
    keeps it.

    Args:
        keep_last: the newest so many snapshots of each line; None: any number.
        every: besides, every n-th of a line, counted from its beginning.
        ttl: states older than this go, also those that `keep_last` or `every` would keep; seconds, or a timedelta.
        quota_bytes: most bytes of states, shared ones counted once, that the user may have; the oldest go first.

    Raises:
        SettingsError: a value is out of its range; `every` without `keep_last`, which keeps all anyway.
    """

    keep_last: int | None = 16
    every: int | None = None
    ttl: float | timedelta | None = None
    quota_bytes: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("keep_last", 1), ("every", 1), ("quota_bytes", 0)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise SettingsError(f"retention.{name} must be an int of at least {least}, or None, got {value!r}")
        if self.every is not None and self.keep_last is None:
            raise SettingsError(
                f"retention.every is {self.every}, but keep_last=None keeps every state; give keep_last a number"
            )
        seconds = self.ttl.total_seconds() if isinstance(self.ttl, timedelta) else self.ttl
        if seconds is None:
            return
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST_S:
            raise SettingsError(
                f"retention.ttl must be more than 0 and at most {_LONGEST_S:.0f} seconds (a century), got {self.ttl!r}"
            )

    @property
    def max_age(self) -> timedelta | None:
        """`ttl` as a timedelta."""
        return self.ttl if self.ttl is None or isinstance(self.ttl, timedelta) else timedelta(seconds=self.ttl)


DEFAULT = Retention()
"""The newest 16 of each line, heads, and all that have a tag."""
