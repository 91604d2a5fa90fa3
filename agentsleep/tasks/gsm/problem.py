"""Problems: quantities that define one another without a circle, and how many steps each takes.

``op`` of a quantity counts the steps to its value. Every quantity that must be worked out for it is one step, itself
included; a total over m > 2 kinds takes m - 1 additions, so it counts m - 1. A quantity stated outright has op 1, and
what two others share is worked out, and counted, once.

No step can be skipped: where terms cancel ("A is 2 more than B; C is the difference of A and B"), C would follow
without B. Every value is linear in each of those that it needs, so a definition is refused if a slope comes to 0.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from random import Random
from typing import Literal, NamedTuple

from agentsleep.errors import SettingsError
from agentsleep.tasks.gsm.words import KINDS, PLACES, TEMPLATES, Template

Form = Literal["number", "copy", "more", "times", "sum", "difference", "total"]
MOST_QUANTITIES = (PLACES - 1) * KINDS + 2  # with more, no place is left for a total over two kinds
DERIVED: tuple[Form, ...] = ("copy", "more", "times", "sum", "difference", "total")
FROM_ONE: tuple[Form, ...] = DERIVED[:3]  # the others are of two or more, and so of 3 steps or more
_FACTORS = (2, 3, 4)
_SUMMANDS = (2, 3)  # of a total
_TRIES = 1000  # with the defaults hardly a problem is begun anew


class Quantity(NamedTuple):
    """How many of a kind there are in a place; both count into the lists of the problem's template."""

    kind: int
    place: int


class Sentence(NamedTuple):
    """The definition of a quantity.

    form: ``number`` (stated outright), ``copy`` (as many as the ref), ``more`` (number more than the ref), ``times``
        (number times the ref), ``sum`` and ``difference`` (first ref minus second, never negative) of two refs,
        ``total`` of a place.
    refs: what it is worked out from; of a total, every quantity that the problem has for the place.
    """

    quantity: Quantity
    form: Form
    number: int = 0
    refs: tuple[Quantity, ...] = ()


@dataclass(frozen=True)
class Problem:
    """Sentences in reading order, and the value and the op of every quantity."""

    template: Template
    sentences: tuple[Sentence, ...]
    values: dict[Quantity, int]
    ops: dict[Quantity, int]


def grow(dice: Random, *, quantities: int, depth: int, max_value: int, forms: Collection[str] = DERIVED) -> Problem:
    """A random problem of ``quantities`` sentences in random order, all values in 0..max_value.

    Every op in 1..depth occurs. The ops of the quantities left over are drawn: 1 half of the time, else any of
    2..depth. Beside numbers, only sentences of ``forms`` occur. The caller sees to ``depth <= quantities <=
    MOST_QUANTITIES`` and ``max_value >= 4``, and for a depth of 2 or more to one of FROM_ONE among the forms.

    Raises:
        SettingsError: ``max_value`` leaves no room for questions of this depth in these forms.
    """
    for _ in range(_TRIES):
        ops = [*range(1, depth + 1)]
        while len(ops) < quantities:
            ops.append(1 if depth == 1 or dice.random() < 0.5 else dice.randint(2, depth))
        draft = _Draft(dice, quantities, depth, max_value, forms)
        # Shallow ones first: a deep one needs something to stand on.
        if all(draft.add(op) for op in sorted(ops)):
            return draft.finished()
    raise SettingsError(
        f"max_value {max_value} is too small for questions of {depth} steps; raise it, ask less or allow more forms"
    )


class _Draft:
    """A problem while it grows. Quantities are numbers here, 0, 1, ..., and get their kinds and places at the end.

    said: form, number and refs of each.
    steps: a bit mask with one bit a step, so that shared steps merge.
    slopes: by how much a quantity grows with each of those that it needs, itself included; never 0.
    groups: those that a total is taken of; each group will have a place to itself.
    most: the largest value that the next quantity may have.
    """

    def __init__(self, dice: Random, quantities: int, depth: int, max_value: int, forms: Collection[str]) -> None:
        self.dice, self.quantities, self.depth, self.max_value = dice, quantities, depth, max_value
        self.most = max_value
        self.forms = [form for form in DERIVED if form in forms]
        self.said: list[tuple[Form, int, tuple[int, ...]]] = []
        self.values: list[int] = []
        self.steps: list[int] = []
        self.slopes: list[dict[int, int]] = []
        self.groups: list[tuple[int, ...]] = []
        self.counted = 0

    def finished(self) -> Problem:
        """The problem, its quantities dealt to kinds and places."""
        places = self.dice.sample(range(PLACES), PLACES)
        names: dict[int, Quantity] = {}
        for group, place in zip(self.groups, places, strict=False):
            names.update(zip(group, (Quantity(k, place) for k in self.dice.sample(range(KINDS), KINDS)), strict=False))
        free = [Quantity(kind, place) for kind, place in product(range(KINDS), places[len(self.groups) :])]
        rest = [i for i in range(self.quantities) if i not in names]
        names.update(zip(rest, self.dice.sample(free, len(rest)), strict=True))
        sentences = [
            Sentence(names[i], f, n, tuple(names[r] for r in refs)) for i, (f, n, refs) in enumerate(self.said)
        ]
        self.dice.shuffle(sentences)
        return Problem(
            self.dice.choice(TEMPLATES),
            tuple(sentences),
            {names[i]: value for i, value in enumerate(self.values)},
            {names[i]: steps.bit_count() for i, steps in enumerate(self.steps)},
        )

    def add(self, op: int) -> bool:
        """One more quantity of exactly this op, if there is a way."""
        self.most = self._most(op)
        if self.most < 1:
            return False
        if op == 1:
            return self._define("number", self.dice.randint(1, min(self.most, self.max_value // 2)), ())
        for form in self.dice.sample(self.forms, len(self.forms)):
            if form == "total":
                done = self._total(op)
            elif form in FROM_ONE:
                done = self._from_one(op, form)
            else:
                done = self._from_two(op, form)
            if done:
                return True
        return False

    def _most(self, op: int) -> int:
        """Where values can only grow from op to op, those of a low op leave room for the higher ones."""
        if "copy" in self.forms or "difference" in self.forms:
            return self.max_value
        left = self.depth - op
        return self.max_value - left if "more" in self.forms else self.max_value >> left

    def _from_one(self, op: int, form: Form) -> bool:
        room = {"copy": self.most, "more": self.most - 1, "times": self.most // _FACTORS[0]}[form]
        below = [i for i, value in enumerate(self.values) if value <= room and self.steps[i].bit_count() == op - 1]
        if not below:
            return False
        ref = self.dice.choice(below)
        value = self.values[ref]
        if form == "copy":
            return self._define(form, 0, (ref,))
        if form == "more":
            return self._define(form, self.dice.randint(1, min(self.most - value, self.max_value // 2)), (ref,))
        return self._define(form, self.dice.choice([f for f in _FACTORS if value * f <= self.most]), (ref,))

    def _from_two(self, op: int, form: Form) -> bool:
        steps, values = self.steps, self.values
        pairs = [(a, b) for a, b in combinations(range(len(steps)), 2) if (steps[a] | steps[b]).bit_count() == op - 1]
        if form == "sum":
            pairs = [(a, b) for a, b in pairs if values[a] + values[b] <= self.most]
        self.dice.shuffle(pairs)
        for a, b in pairs:
            either = form == "sum" or values[a] == values[b]
            swap = self.dice.random() < 0.5 if either else values[a] < values[b]
            if self._define(form, 0, (b, a) if swap else (a, b)):
                return True
        return False

    def _total(self, op: int) -> bool:
        grouped = {i for group in self.groups for i in group}
        count = self.dice.choice(_SUMMANDS)
        room = (PLACES - len(self.groups) - 1) * KINDS >= self.quantities - len(grouped) - count
        low = [i for i, steps in enumerate(self.steps) if i not in grouped and steps.bit_count() < op] if room else []
        choices = [*self.groups, *combinations(low, count)]
        self.dice.shuffle(choices)
        for members in choices:
            if self._mask(members).bit_count() + len(members) - 1 == op:
                fits = sum(self.values[i] for i in members) <= self.most
                if fits and self._define("total", 0, members):
                    if members not in self.groups:
                        self.groups.append(members)
                    return True
        return False

    def _mask(self, refs: Sequence[int]) -> int:
        mask = 0
        for ref in refs:
            mask |= self.steps[ref]
        return mask

    def _define(self, form: Form, number: int, refs: tuple[int, ...]) -> bool:
        """Takes the definition in for the next quantity, unless it makes a step superfluous."""
        factors = (number,) if form == "times" else (1, -1) if form == "difference" else (1,) * len(refs)
        slopes: dict[int, int] = {}
        for ref, factor in zip(refs, factors, strict=True):
            for needed, slope in self.slopes[ref].items():
                slopes[needed] = slopes.get(needed, 0) + factor * slope
        if not all(slopes.values()):
            return False
        slopes[len(self.said)] = 1
        self.slopes.append(slopes)
        own = max(1, len(refs) - 1)
        self.steps.append(self._mask(refs) | ((1 << own) - 1) << self.counted)
        self.counted += own
        constant = number if form in ("number", "more") else 0
        self.values.append(constant + sum(f * self.values[ref] for ref, f in zip(refs, factors, strict=True)))
        self.said.append((form, number, refs))
        return True
