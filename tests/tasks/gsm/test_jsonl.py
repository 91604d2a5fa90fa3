from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from agentsleep.errors import InputError
from agentsleep.tasks.gsm import Example, Gsm, Solution, grade, read_jsonl, solve, write_jsonl

ROW = {
    "problem": "The number of fox in Lake equals 2. The number of owl in Lake equals the number of fox in Lake. ",
    "question": "How many owl does Lake have?",
    "solution": "Define fox in Lake as B; so B = 2. Answer: 7? No. Define owl in Lake as w; so w = B = 2. Answer: 2.",
    "op": 2,
    "id": 16,
    "template": "zoo",
    "mode": "normalforward",
}


def test_reads_what_gsm_infinite_writes(tmp_path: Path) -> None:
    file = tmp_path / "op2.jsonl"
    more = ROW | {"solution": "Answer: -11", "op": 8, "problem": "Rêves de Belleville."}
    file.write_text(f"{json.dumps(ROW)}\n\n{json.dumps(more)}\r\n")
    assert read_jsonl(file) == [
        Example(str(ROW["problem"]), "How many owl does Lake have?", 2, 2),
        Example("Rêves de Belleville.", "How many owl does Lake have?", -11, 8),
    ]


def test_the_solver_knows_a_copy_from_gsm_infinite() -> None:
    assert solve(str(ROW["problem"]), str(ROW["question"])) == Solution(2, 2)


def test_our_own_problems_make_the_round_trip(tmp_path: Path) -> None:
    examples = Gsm().examples(np.random.default_rng(0), 20, 8)
    file = tmp_path / "own.jsonl"
    write_jsonl(file, examples)
    assert read_jsonl(str(file)) == examples
    first = json.loads(file.read_text().splitlines()[0])
    assert first["solution"] == f"Answer: {examples[0].answer}."
    assert list(first) == ["problem", "question", "solution", "op"]
    for example in examples:
        solution = solve(example.problem, example.question)
        assert (solution.answer, solution.op) == (example.answer, example.op)


def test_line_breaks_inside_of_a_text(tmp_path: Path) -> None:
    """Only a newline ends a line: U+2028 inside of a text does not."""
    example = Example("A\u2028B\n\u0085C", "D?", 1, 1)
    write_jsonl(tmp_path / "odd.jsonl", [example])
    assert read_jsonl(tmp_path / "odd.jsonl") == [example]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[1]", r"line 2: '\[1\]' is not a JSON object"),
        (json.dumps(ROW | {"problem": ""}), "line 2: field 'problem' is ''; it must be text"),
        (json.dumps(ROW | {"question": 3}), "line 2: field 'question' is 3; it must be text"),
        (json.dumps({k: v for k, v in ROW.items() if k != "solution"}), "line 2: field 'solution' is None"),
        (json.dumps(ROW | {"solution": "so x = 2."}), "line 2: field 'solution' ends with 'so x = 2.'"),
        (json.dumps(ROW | {"solution": "Answer: 2. Or 3."}), "'solution' ends with .* must end with 'Answer: X.'"),
        (json.dumps(ROW | {"solution": "Answer: two."}), "field 'solution' ends"),
        (json.dumps(ROW | {"op": "2"}), "line 2: field 'op' is '2'; it must be a whole number of at least 1"),
        (json.dumps(ROW | {"op": True}), "field 'op' is True"),
        (json.dumps(ROW | {"op": 0}), "field 'op' is 0"),
        (json.dumps(ROW | {"op": None}), "field 'op' is None"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(f"{json.dumps(ROW)}\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_jsonl(file)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*none\.jsonl \(No such file"):
        read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n \n")
    with pytest.raises(InputError, match=r"empty\.jsonl holds no example"):
        read_jsonl(tmp_path / "empty.jsonl")
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"bytes\.jsonl is not UTF-8"):
        read_jsonl(tmp_path / "bytes.jsonl")


@pytest.mark.parametrize(
    "text",
    ["9", " 9.", "Answer: 9.", "answer 9", "It has 9 foxes, not 8.", "3 + 6 make it. Answer: 9.", "9.0", "**9**"],
)
def test_right_replies(text: str) -> None:
    assert grade(text, 9)


@pytest.mark.parametrize(
    "text",
    ["", "nine", "8", "19", "90", "9.5", "-9", "8, no, 9", "Answer: 8. Not 9.", "9. Answer: 8.", "9 Answer:", "x9"],
)
def test_wrong_replies(text: str) -> None:
    assert not grade(text, 9)


def test_large_and_negative_answers() -> None:
    assert grade("Answer: 1,250.", 1250)
    assert not grade("1,250", 1)
    assert grade("Answer: -4.", -4)
    assert not grade("Answer: 4.", -4)
