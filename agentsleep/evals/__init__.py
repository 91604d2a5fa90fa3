"""Accuracy, measured by command on fresh episodes."""

from __future__ import annotations
