"""What all sessions of a memory work with, handed down to whatever they are made of."""

from __future__ import annotations

from dataclasses import dataclass

from agentsleep.archive import Archive
from agentsleep.backends import Backend
from agentsleep.chat import ChatFormat
from agentsleep.policy import SleepPolicy


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A memory as its sessions know it.

    probes: the policy's questions as tokens, see :func:`agentsleep.memory.depth.questions`.
    """

    backend: Backend
    chat: ChatFormat
    archive: Archive
    policy: SleepPolicy
    probes: tuple[list[int], ...]
