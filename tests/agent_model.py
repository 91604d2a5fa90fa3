"""A checkpoint that speaks the chat format without having learnt anything, for tests of what is around a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from agentsleep.tasks.rota import tokenizer
from tests.tiny import tiny


def save_agent_model(folder: Path, **overrides: Any) -> Path:
    """Writes it to ``folder`` with rota's tokenizer; a window holds 96 tokens."""
    spoken = tokenizer()
    settings: dict[str, Any] = {"vocab_size": len(spoken), "sleep_window": 96, "sleep_passes": 2}
    tiny("as", **settings | overrides).save_pretrained(folder)
    spoken.save_pretrained(folder)
    return folder
