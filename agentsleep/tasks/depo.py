"""Depo: k hops along a directed cycle whose edges were read in random order, over one or several windows.

Source of the task: "Physics of Language Models: Part 4.1" (Allen-Zhu, 2025) in the form of arXiv 2605.26099: the
questions come after every edge is evicted, so what is slept on cannot know what will be asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agentsleep.errors import SettingsError
from agentsleep.tasks.base import Batch, Difficulty, Row, stack


@dataclass(frozen=True, kw_only=True)
class Depo:
    """Cycles of ``nodes`` nodes, their names 1 to ``name_tokens`` tokens long, out of ``symbols`` symbols.

    The vocabulary: symbols ``0..symbols-1``, where names have 2 tokens as many again that only stand second, then one
    token for each number of hops, and where names have 2 tokens a stop. A window holds edges ``x y``, each with a stop
    where names have 2 tokens: their number would not tell which two names belong together. The question window packs
    one question for every node, ``x k``, and the answer is the first token of the node that lies k hops behind x.
    """

    nodes: int = 12
    max_depth: int = 8
    symbols: int = 16
    name_tokens: int = 1
    name: str = "depo"

    def __post_init__(self) -> None:
        if self.max_depth >= self.nodes:
            raise SettingsError(
                f"max_depth {self.max_depth} must be below the {self.nodes} nodes of the cycle, else answers repeat"
            )
        if self.symbols < self.nodes:
            raise SettingsError(f"symbols {self.symbols} must be at least the number of nodes, {self.nodes}")
        if self.name_tokens not in (1, 2):
            raise SettingsError(f"name_tokens is {self.name_tokens}; names have 1 or 2 tokens")

    @property
    def vocab_size(self) -> int:
        return self._hops + self.max_depth + len(self._stop)

    @property
    def _stop(self) -> list[int]:
        """What ends an edge."""
        return [self._hops + self.max_depth] if self.name_tokens == 2 else []

    @property
    def _hops(self) -> int:
        """The token of one hop; those of more follow."""
        return self.symbols * self.name_tokens

    @property
    def window(self) -> int:
        return self.nodes * (2 * self.name_tokens + len(self._stop))

    @property
    def depths(self) -> Sequence[int]:
        return range(1, self.max_depth + 1)

    def chance(self) -> float:
        return 1 / (self.nodes - 1)

    def batch(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        """``size`` cycles, their edges dealt to ``difficulty.windows`` windows; hops drawn from 1..depth.

        Raises:
            SettingsError: more windows than edges, or a depth that cannot be asked.
        """
        if not 1 <= difficulty.windows <= self.nodes:
            raise SettingsError(f"{difficulty.windows} windows cannot share {self.nodes} edges")
        if not 1 <= difficulty.depth <= self.max_depth:
            raise SettingsError(f"depth {difficulty.depth} is outside of 1..{self.max_depth}")
        context: list[list[Row]] = [[] for _ in range(difficulty.windows)]
        questions: list[Row] = []
        for _ in range(size):
            names = self._names(rng)
            order = rng.permutation(self.nodes)
            for rows, edges in zip(context, np.array_split(order, difficulty.windows), strict=True):
                row = Row()
                for x in edges:
                    row.read(names[x])
                    row.read(names[(x + 1) % self.nodes] + self._stop)
                rows.append(row)
            asked = Row()
            depths = difficulty.draw(rng, self.nodes).tolist()
            for x, hops in zip(rng.permutation(self.nodes), depths, strict=True):
                asked.read([*names[x], self._hops + hops - 1])
                asked.labels[-1], asked.depth[-1] = names[(x + hops) % self.nodes][0], hops
            questions.append(asked)
        return Batch(context=[stack(rows) for rows in context], questions=[stack(questions)])

    def _names(self, rng: np.random.Generator) -> list[list[int]]:
        """A name for every node; first tokens differ, so that the first token is the answer."""
        first = rng.permutation(self.symbols)[: self.nodes]
        if self.name_tokens == 1:
            return [[int(a)] for a in first]
        return [
            [int(a), *([self.symbols + int(rng.integers(self.symbols))] if rng.random() < 0.5 else [])] for a in first
        ]
