"""GSM-Infinite's files: one JSON object a line, with problem, question, solution and op; and the grader of replies.

The solution ends with the answer, "Answer: 9."; fields that are not named here are passed over.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from agentsleep.errors import InputError

_ENDING = re.compile(r"Answer:\s*(-?[0-9]+)\s*\.?\s*")
_NUMBER = re.compile(r"(?<![\w.])-?[0-9]+(?:,[0-9]{3})*(?:\.[0-9]+)?")


@dataclass(frozen=True)
class Example:
    """One question with its problem, its right answer and the number of steps to it."""

    problem: str
    question: str
    answer: int
    op: int


def read_jsonl(path: str | Path) -> list[Example]:
    """All examples of a file; blank lines are passed over.

    Raises:
        InputError: no such file, no example in it, or a line that is none, named by its number and field.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror}); give a JSONL file of GSM-Infinite") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error}); give a JSONL file of GSM-Infinite") from None
    examples = [_example(line, f"{path}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not examples:
        raise InputError(f"{path} holds no example; give a JSONL file of GSM-Infinite")
    return examples


def write_jsonl(path: str | Path, examples: Iterable[Example]) -> None:
    """Writes examples so that :func:`read_jsonl` gives them back; the solution is the answer alone."""
    rows = (
        {"problem": e.problem, "question": e.question, "solution": f"Answer: {e.answer}.", "op": e.op} for e in examples
    )
    Path(path).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def grade(text: str, answer: int) -> bool:
    """Whether the first number of a reply is the answer; where the reply says "Answer:", the first behind the last."""
    number = _NUMBER.search(text.rsplit("Answer:", 1)[-1])
    return number is not None and Decimal(number[0].replace(",", "")) == answer


def _example(line: str, where: str) -> Example:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON ({error}); every line must be one JSON object") from None
    if not isinstance(row, dict):
        raise InputError(f"{where}: {line[:60]!r} is not a JSON object; every line must be one")
    problem, question, solution = (_text(row, field, where) for field in ("problem", "question", "solution"))
    answers = list(_ENDING.finditer(solution))
    if not answers or answers[-1].end() != len(solution):
        raise InputError(f"{where}: field 'solution' ends with {solution[-40:]!r}; it must end with 'Answer: X.'")
    op = row.get("op")
    if not isinstance(op, int) or isinstance(op, bool) or op < 1:
        raise InputError(f"{where}: field 'op' is {op!r}; it must be a whole number of at least 1")
    return Example(problem, question, int(answers[-1][1]), op)


def _text(row: dict[str, Any], field: str, where: str) -> str:
    text = row.get(field)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: field {field!r} is {text!r}; it must be text")
    return text
