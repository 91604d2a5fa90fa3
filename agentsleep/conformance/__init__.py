"""Can a model's memory be relied on? Named checks for any model, and a tiny one of every family to run them on."""

from __future__ import annotations

from agentsleep.conformance.families import REFUSED, SUPPORTED, make_model, save_model

__all__ = ["REFUSED", "SUPPORTED", "make_model", "save_model"]
