"""The demonstration: an agent that reads, sleeps, loses its window, and is asked what was in it."""

from __future__ import annotations
