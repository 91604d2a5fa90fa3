"""Seeded generators of what a sleeping model is trained and judged on, and their graders."""

from __future__ import annotations

from collections.abc import Callable

from agentsleep.tasks.base import IGNORE, Batch, Difficulty, Task, Window
from agentsleep.tasks.depo import Depo
from agentsleep.tasks.gsm import Gsm
from agentsleep.tasks.lexicon import Lexicon
from agentsleep.tasks.retention import Retention
from agentsleep.tasks.rota import Rota
from agentsleep.tasks.rule110 import Rule110
from agentsleep.tasks.transcripts import Transcripts

__all__ = [
    "IGNORE",
    "TASKS",
    "Batch",
    "Depo",
    "Difficulty",
    "Gsm",
    "Lexicon",
    "Retention",
    "Rota",
    "Rule110",
    "Task",
    "Transcripts",
    "Window",
]

TASKS: dict[str, Callable[..., Task]] = {
    "depo": Depo,
    "gsm": Gsm,
    "lexicon": Lexicon,
    "retention": Retention,
    "rota": Rota,
    "rule110": Rule110,
}
