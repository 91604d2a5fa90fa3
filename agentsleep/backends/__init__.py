"""A model as a session sees it: loaded and fingerprinted, read awake, slept on."""

from __future__ import annotations

from agentsleep.backends.live import LiveWindow
from agentsleep.backends.loading import Backend, load_backend

__all__ = ["Backend", "LiveWindow", "load_backend"]
