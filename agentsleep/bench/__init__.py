"""Speed, measured by command."""

from __future__ import annotations
