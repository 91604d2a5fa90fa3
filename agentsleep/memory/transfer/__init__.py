"""Threads in files: out of one archive, into another."""

from __future__ import annotations

from agentsleep.memory.transfer.thread import Exported, Which, export_thread, import_thread

__all__ = ["Exported", "Which", "export_thread", "import_thread"]
