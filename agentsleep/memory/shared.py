"""What all sessions of a memory work with, handed down to whatever they are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agentsleep.archive import Archive, UserArchive
from agentsleep.backends import Backend
from agentsleep.chat import ChatFormat
from agentsleep.memory.probing import Prober
from agentsleep.memory.queue import FairLock
from agentsleep.memory.residency import Residency
from agentsleep.memory.values import SleepListener
from agentsleep.policy import SleepPolicy


@dataclass(frozen=True, kw_only=True)
class Shared:
    """A memory as its sessions know it.

    probes: the policy's questions as tokens, see :func:`agentsleep.memory.depth.questions`.
    queue: who has it computes with the model; whoever asks first is served first.
    residency: which sessions have their open window at hand.
    said: told, by its archive and its id, of a session in which something was said.
    slept: told before and after each sleep that is stored.
    """

    backend: Backend
    chat: ChatFormat
    archive: Archive
    policy: SleepPolicy
    probes: tuple[list[int], ...]
    prober: Prober
    queue: FairLock
    residency: Residency
    said: Callable[[UserArchive, str], None] | None = None
    slept: SleepListener | None = None
