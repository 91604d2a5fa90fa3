"""What was measured of an arm: a question, a turn."""

from __future__ import annotations

from dataclasses import dataclass

from langchain_agentsleep.bench.dialogues import Kind
from langchain_agentsleep.bench.meter import Tokens


@dataclass(frozen=True)
class Asked:
    """A question of a dialogue, and whether an arm knew the answer."""

    arm: str
    dialogue: int
    depth: int
    right: bool


@dataclass(frozen=True)
class Took:
    """A turn of the long run: its seconds, what went through the network, how often the tool was called, and how many
    messages the list then held."""

    arm: str
    number: int
    kind: Kind
    seconds: float
    tokens: Tokens
    calls: int
    listed: int
