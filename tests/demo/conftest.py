"""A small checkpoint, and one short demonstration with it that the tests look at from all sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentsleep.demo.run import Demo, DemoSettings
from agentsleep.demo.watching import Status
from tests.spoken import save_tiny


class Notes:
    """A watcher that writes everything down."""

    def __init__(self) -> None:
        self.chapters: list[str] = []
        self.remarks: list[str] = []
        self.states: list[Status] = []

    def chapter(self, title: str) -> None:
        self.chapters.append(title)

    def remark(self, line: str) -> None:
        self.remarks.append(line)

    def status(self, now: Status) -> None:
        self.states.append(now)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def small(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Notes, Path]:
    """The document, what was told on the way, and the folder of a whole demonstration."""
    out = tmp_path_factory.mktemp("demo") / "out"
    notes = Notes()
    settings = DemoSettings(out=out, model=tiny_model, people=9, depths=2, starts=2, light=(1, 2), deep=(2,))
    return Demo(settings, notes).run(), notes, out
