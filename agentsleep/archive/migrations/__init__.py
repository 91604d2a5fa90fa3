"""How the tables came to be, one step after the other, for Alembic; `agentsleep.archive.migrate` runs them."""

from __future__ import annotations
