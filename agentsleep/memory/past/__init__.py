"""What was said, read again: a log as steps, and what is done with them. Forgetting, trials, another model."""

from __future__ import annotations
