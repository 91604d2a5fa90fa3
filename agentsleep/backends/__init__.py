"""A model as a session sees it: loaded and fingerprinted, read awake, slept on."""

from __future__ import annotations

from agentsleep.backends.backend import Backend
from agentsleep.backends.live import LiveWindow, logits_after
from agentsleep.backends.loading import load_backend
from agentsleep.backends.settings import SleepSettings

__all__ = ["Backend", "LiveWindow", "SleepSettings", "load_backend", "logits_after"]
