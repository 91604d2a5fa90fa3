"""Denser supervision of word problems: what the end of a sentence is to tell, see :class:`agentsleep.tasks.gsm.Gsm`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from agentsleep.tasks.base import IGNORE, Window
from agentsleep.tasks.gsm.problem import Problem


@dataclass(frozen=True)
class Told:
    """What one row of a window tells, value tokens by their places: behind its first pass, and behind later ones."""

    first: dict[int, int] = field(default_factory=dict)
    later: dict[int, int] = field(default_factory=dict)

    def tell(self, place: int, value: int, *, at_once: bool) -> None:
        """A value that is known behind every pass, or, if not at once, behind all but the first."""
        self.later[place] = value
        if at_once:
            self.first[place] = value


def traced(window: Window, told: Sequence[Told]) -> Window:
    """The window with the trace of its rows."""
    return replace(window, trace=partial(_labels, tuple(told), window.ids.shape[1]))


def _labels(told: Sequence[Told], length: int, number: int, passes: int) -> Tensor:
    labels = torch.full((len(told), length), IGNORE)
    for row, known in enumerate(told):
        for place, value in (known.first if number == 1 else known.later).items():
            labels[row, place] = value
    return labels


def latest(problem: Problem) -> list[int]:
    """For each sentence the number of the last one that its value follows from, itself included."""
    number = {sentence.quantity: i for i, sentence in enumerate(problem.sentences)}
    found: dict[int, int] = {}
    for i in sorted(range(len(number)), key=lambda i: problem.ops[problem.sentences[i].quantity]):
        needed = [found[number[ref]] for ref in problem.sentences[i].refs]  # of a lower op, so they are there
        found[i] = max([i, *needed])
    return [found[i] for i in range(len(number))]
