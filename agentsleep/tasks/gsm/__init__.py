"""gsm: grade-school word problems in the manner of GSM-Infinite, from our own generator, with a solver as the judge."""

from __future__ import annotations

from agentsleep.tasks.gsm.jsonl import Example, grade, read_jsonl, write_jsonl
from agentsleep.tasks.gsm.problem import Problem, Quantity, Sentence, grow
from agentsleep.tasks.gsm.solver import Solution, solve
from agentsleep.tasks.gsm.task import Gsm

__all__ = [
    "Example",
    "Gsm",
    "Problem",
    "Quantity",
    "Sentence",
    "Solution",
    "grade",
    "grow",
    "read_jsonl",
    "solve",
    "write_jsonl",
]
