"""How many sessions of a memory have their open window at hand; the others read theirs again from the archive."""

from __future__ import annotations

import threading
from typing import Protocol
from weakref import WeakKeyDictionary

from agentsleep.errors import SettingsError


class Resident(Protocol):
    """Whoever keeps an open window: KV cache, logits and state."""

    def let_go(self) -> bool:
        """Drops the window unless it is in use. Does not wait.

        Returns:
            Whether there is none now.
        """


class Residency:
    """Keeps at most ``limit`` windows, the last that were used.

    A window in use is never dropped, so that there may be more of them for as long as more are in use at once.

    Args:
        limit: None keeps all.

    Raises:
        SettingsError: a limit that is no whole number of at least 1.
    """

    def __init__(self, limit: int | None) -> None:
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise SettingsError(f"resident is {limit!r}; it must be a whole number of at least 1, or None: all")
        self.limit = limit
        # Held for moments, and never while something is waited for: whoever has it only tries the locks of residents.
        self._lock = threading.Lock()
        # In the order of their last use. A session that nobody holds any more is not kept by being counted here.
        self._live: WeakKeyDictionary[Resident, None] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self._live)

    def admit(self, resident: Resident) -> None:
        """Notes a use, and makes room before a window is built; called by the resident, in use."""
        with self._lock:
            self._live.pop(resident, None)
            self._live[resident] = None
            excess = 0 if self.limit is None else len(self._live) - self.limit
            if excess <= 0:
                return
            for other in list(self._live):
                if other is not resident and other.let_go():
                    del self._live[other]
                    excess -= 1
                    if excess == 0:
                        return

    def leave(self, resident: Resident) -> None:
        """The resident has no window any more, or is closed."""
        with self._lock:
            self._live.pop(resident, None)
