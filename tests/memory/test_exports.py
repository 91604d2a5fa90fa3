"""What agentsleep.memory hands out."""

from __future__ import annotations

import agentsleep.memory as package
from agentsleep import Answer, Session, SleepMemory
from agentsleep.archive import default_archive


def test_exports() -> None:
    assert package.__all__ == sorted(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)
    assert (package.Answer, package.Session, package.SleepMemory) == (Answer, Session, SleepMemory)
    assert package.default_archive is default_archive


def test_a_memory_needs_no_argument_for_its_archive(nap, agentsleep_home) -> None:  # type: ignore[no-untyped-def]
    with SleepMemory(nap) as memory:
        assert memory.archive.path == agentsleep_home / "memory.db"
        assert default_archive() == agentsleep_home / "memory.db"
        memory.session().close()
    assert (agentsleep_home / "memory.db").is_file()
