"""The judge: reads the English of a problem and a question back, and works the answer out. It knows no generator."""

from __future__ import annotations

import re
from dataclasses import dataclass

from agentsleep.errors import InputError

Name = tuple[str, str]  # kind, place

_SENTENCE = re.compile(r"The number of (.+?) in (.+?) equals (.+)")
_QUESTION = re.compile(r"How many (.+?) does (.+) have\?")
_NUMBER = re.compile(r"(\d+)")
_COPY = re.compile(r"the number of (.+?) in (.+)")
_SCALED = re.compile(r"(\d+) (more than|times) the number of (.+?) in (.+)")
_PAIR = re.compile(r"the (sum|difference) of the number of (.+?) in (.+?) and the number of (.+?) in (.+)")
_TOTAL = re.compile(r"the total number of .+? in (.+)")


@dataclass(frozen=True)
class Solution:
    """The answer, and in how many steps it is reached (op, as in :mod:`agentsleep.tasks.gsm.problem`)."""

    answer: int
    op: int


@dataclass(frozen=True)
class _Definition:
    """What a sentence says: an operation on a number and on other quantities."""

    operation: str
    number: int
    refs: tuple[Name, ...]

    def value(self, known: dict[Name, int]) -> int:
        values = [known[ref] for ref in self.refs]
        if self.operation == "times":
            return self.number * values[0]
        if self.operation == "difference":
            return values[0] - values[1]
        return self.number + sum(values)  # a number, a copy, more than, a sum, a total


def solve(problem: str, question: str) -> Solution:
    """Answer and op of a question about a problem.

    Raises:
        InputError: a sentence or question in words that it does not know, a quantity defined twice, never, in a circle
            or as less than nothing.
    """
    asked = _QUESTION.fullmatch(question.strip())
    if not asked:
        raise InputError(f"cannot read the question {question!r}; it must be 'How many KIND does PLACE have?'")
    definitions = _read(problem)
    known: dict[Name, int] = {}
    op, pending, opened = 0, [(asked[1], asked[2])], set()
    while pending:
        name = pending[-1]
        if name in known:
            pending.pop()
            continue
        if name not in definitions:
            raise InputError(f"the problem does not define the number of {name[0]} in {name[1]}; add its sentence")
        definition = definitions[name]
        missing = [ref for ref in definition.refs if ref not in known]
        opened.add(name)
        for ref in missing:
            if ref in opened:
                raise InputError(f"the number of {ref[0]} in {ref[1]} is defined by itself; break the circle")
        pending += missing
        if not missing:
            known[name] = definition.value(known)
            if known[name] < 0:
                raise InputError(
                    f"the number of {name[0]} in {name[1]} comes to {known[name]}; it must not be negative"
                )
            op += max(1, len(definition.refs) - 1)
    return Solution(known[asked[1], asked[2]], op)


def _read(problem: str) -> dict[Name, _Definition]:
    said: dict[Name, str] = {}
    for sentence in re.findall(r"[^.]+", problem.strip()):
        match = _SENTENCE.fullmatch(sentence.strip())
        if not match:
            raise InputError(f"cannot read {sentence.strip()!r}; it must be 'The number of KIND in PLACE equals ...'")
        name = (match[1], match[2])
        if name in said:
            raise InputError(f"the number of {name[0]} in {name[1]} is defined twice; leave one sentence out")
        said[name] = match[3]
    return {name: _define(words, said) for name, words in said.items()}


def _define(words: str, said: dict[Name, str]) -> _Definition:
    if match := _NUMBER.fullmatch(words):
        return _Definition("number", int(match[1]), ())
    if match := _COPY.fullmatch(words):
        return _Definition("copy", 0, ((match[1], match[2]),))
    if match := _SCALED.fullmatch(words):
        return _Definition(match[2], int(match[1]), ((match[3], match[4]),))
    if match := _PAIR.fullmatch(words):
        return _Definition(match[1], 0, ((match[2], match[3]), (match[4], match[5])))
    if match := _TOTAL.fullmatch(words):
        members = tuple(name for name in said if name[1] == match[1])
        if not members:
            raise InputError(f"a total is asked of {match[1]}, for which the problem states nothing; add a sentence")
        return _Definition("total", 0, members)
    raise InputError(
        f"cannot read 'equals {words}'; use a number, the number of, more than, times, sum, difference or total"
    )
