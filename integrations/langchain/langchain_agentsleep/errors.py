"""What can go wrong between a list of messages and a session; all of it is an :class:`agentsleep.AgentsleepError`."""

from __future__ import annotations

from agentsleep.errors import InputError


class UnsupportedMessage(InputError):
    """A message holds what the model cannot read, such as an image."""


class AmbiguousHistory(InputError):
    """A list of messages fits the memory in more than one place."""
