"""Models small enough for a test, of every family that agentsleep is meant to work with or to refuse."""

from __future__ import annotations

from agentsleep.conformance.families import REFUSED, SUPPORTED, make_model, save_model

__all__ = ["REFUSED", "SUPPORTED", "make_model", "save_model"]
