"""The threads of a memory in this process: those of every chat model and middleware that share it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from weakref import WeakKeyDictionary, ref

from agentsleep.archive import Scope
from agentsleep.memory import SleepMemory
from langchain_agentsleep.branches import Branch, close
from langchain_agentsleep.families import Family

_OPEN = 256  # branches whose sessions stay open; the memory's own `resident` says how many keep their windows


class Threads:
    """The threads of one memory, in this process. All calls may come from any thread of execution."""

    def __init__(self, memory: SleepMemory) -> None:
        self._memory = ref(memory)  # weak: these are kept for as long as the memory is
        self._lock = threading.Lock()
        self._families: dict[Scope, Family] = {}
        self._open: OrderedDict[str, Branch] = OrderedDict()

    @property
    def memory(self) -> SleepMemory:
        """Whose threads they are."""
        memory = self._memory()
        assert memory is not None, "whoever calls holds the memory"
        return memory

    def family(self, scope: Scope) -> Family:
        """The sessions of a thread."""
        with self._lock:
            if scope not in self._families:
                self._families[scope] = Family(lambda: self.memory, scope, self.used)
            return self._families[scope]

    def used(self, branch: Branch) -> None:
        """Closes the session that was not used for longest, where too many are open."""
        with self._lock:
            self._open[branch.record.id] = branch
            self._open.move_to_end(branch.record.id)
            surplus = list(self._open.items())[: max(0, len(self._open) - _OPEN)]
        self._shut(surplus)

    def close(self) -> None:
        """Closes all sessions that nobody is using; the memory stays open."""
        with self._lock:
            branches = list(self._open.items())
        self._shut(branches)

    def _shut(self, branches: Sequence[tuple[str, Branch]]) -> None:
        for key, branch in branches:
            if not branch.using.acquire(blocking=False):
                continue
            try:
                close(branch)
            finally:
                branch.using.release()
            with self._lock:
                if self._open.get(key) is branch:
                    del self._open[key]
                for family in list(self._families.values()):
                    if family.let_go(key):
                        del self._families[family.scope]


_threads: WeakKeyDictionary[SleepMemory, Threads] = WeakKeyDictionary()
_making = threading.Lock()


def threads_of(memory: SleepMemory) -> Threads:
    """The threads of a memory; the same for whoever asks."""
    with _making:
        found = _threads.get(memory)
        if found is None:
            found = _threads[memory] = Threads(memory)
        return found
