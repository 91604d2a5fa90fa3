"""``agentsleep eval gsm``, with a model that has learnt nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from agentsleep.tasks.gsm import Gsm
from agentsleep.training.config import load_config
from agentsleep.training.presets import preset
from tests.tiny import tiny

SETTINGS = {"quantities": 4, "max_depth": 2, "max_value": 4}
ROWS = [
    {
        "problem": f"The number of fox in Ede equals {i}. The number of owl in Ede equals the number of fox in Ede. ",
        "question": "How many owl does Ede have?",
        "solution": f"Define fox in Ede as B; so B = {i}. Define owl in Ede as w; so w = B = {i}. Answer: {i}.",
        "op": op,
        "id": i,
        "template": "crazy_zootopia",
        "mode": "normalforward",
    }
    for i, op in ((11, 2), (7, 5), (9, 2))
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the folder of a finished run holds of a model and its record."""
    out = tmp_path_factory.mktemp("gsm")
    task = Gsm(**SETTINGS)
    tiny("s", vocab_size=task.vocab_size, sleep_window=task.window).save_pretrained(out / "model")
    config = dataclasses.asdict(load_config(preset("gsm"))) | {"task": SETTINGS}
    (out / "record.json").write_text(json.dumps({"task": "gsm", "config": config}))
    return out


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A file as GSM-Infinite has them, with words that the model's vocabulary does not hold."""
    path = tmp_path / "two.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def counts(document: dict[str, Any]) -> list[tuple[int, int, int]]:
    return [(row["passes"], row["op"], row["questions"]) for row in document["results"]]


def test_problems_of_our_own(cli, run) -> None:
    result = cli("eval", "gsm", "--model", run, "--problems", 12, "--passes", "2,1", "--seed", 7, "--json")
    document = json.loads(result.stdout)
    assert result.stderr == ""
    assert {name: value for name, value in document.items() if name != "results"} == {
        "model": str(run / "model"),
        "data": None,
        "seed": 7,
        "problems": 12,
        "windows": 3,
        "question": "last",
    }
    assert [(n, op) for n, op, _ in counts(document)] == [(n, op) for n in (1, 2) for op in (1, 2)]
    assert [sum(asked for n, _, asked in counts(document) if n == passes) for passes in (1, 2)] == [12, 12]
    for row in document["results"]:
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]


def test_equal_seeds_give_equal_problems(cli, run) -> None:
    arguments = ("eval", "gsm", "--model", run / "model", "--problems", 6, "--passes", "1", "--json", "--seed")
    assert cli(*arguments, 1).stdout == cli(*arguments, 1).stdout
    asked = [counts(json.loads(cli(*arguments, seed).stdout)) for seed in range(1, 4)]
    assert len({tuple(rows) for rows in asked}) > 1


@pytest.mark.parametrize(("problems", "ops"), [(500, [(2, 2), (5, 1)]), (2, [(2, 1), (5, 1)]), (1, [(2, 1)])])
def test_a_file_of_others(cli, run, data, problems, ops) -> None:
    arguments = ("--data", data, "--problems", problems, "--windows", 1, "--question", "first", "--passes", "2")
    document = json.loads(cli("eval", "gsm", "--model", run, *arguments, "--json").stdout)
    assert counts(document) == [(2, op, asked) for op, asked in ops]
    assert document["problems"] == sum(asked for _, asked in ops)
    assert (document["data"], document["windows"], document["question"]) == (str(data), 1, "first")


def test_a_reader_gets_a_table_with_intervals(cli, run, data) -> None:
    shown = cli("eval", "gsm", "--model", run, "--data", data, "--passes", "1,2").stdout
    for text in ("3 problems, question last", "95 % interval", "passes", "op 2", "op 5", "│ 1 ", "│ 2 "):
        assert text in shown
    assert shown.count("–") == 4


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--passes", "0"], "--passes is '0'"),
        (["--problems", "0"], "--problems is 0"),
        (["--seed", "-1"], "--seed -1"),
        (["--windows", "0"], "windows is 0"),
        (["--question", "middle"], "question is 'middle'; it stands last or first"),
        (["--threads", "0"], "--threads is 0"),
    ],
)
def test_mistakes(cli, run, arguments, named) -> None:
    assert named in cli.complaint("eval", "gsm", "--model", run, "--problems", 1, *arguments)


def test_no_model(cli, tmp_path) -> None:
    assert f"no model at {tmp_path}" in cli.complaint("eval", "gsm", "--model", tmp_path)


def test_a_model_of_another_task(cli, run, tmp_path) -> None:
    out = shutil.copytree(run, tmp_path / "copy")
    record = json.loads((out / "record.json").read_text())
    (out / "record.json").write_text(json.dumps(record | {"task": "depo"}))
    complaint = cli.complaint("eval", "gsm", "--model", out / "model")
    assert "was trained on depo; use 'agentsleep eval depo'" in complaint


def test_a_model_of_this_task_is_sent_here(cli, run) -> None:
    complaint = cli.complaint("eval", "depo", "--model", run)
    assert "was trained on gsm; use 'agentsleep eval gsm'" in complaint


def test_no_such_file(cli, run, tmp_path) -> None:
    complaint = cli.complaint("eval", "gsm", "--model", run, "--data", tmp_path / "none.jsonl")
    assert f"cannot read {tmp_path / 'none.jsonl'} (No such file or directory)" in complaint


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("{", "line 4: not JSON"),
        (json.dumps(ROWS[0] | {"solution": "so w = 2."}), "line 4: field 'solution' ends with 'so w = 2.'"),
        (json.dumps(ROWS[0] | {"op": None}), "line 4: field 'op' is None"),
    ],
)
def test_a_damaged_line(cli, run, data, line, named) -> None:
    with data.open("a") as file:
        file.write(f"{line}\n")
    complaint = cli.complaint("eval", "gsm", "--model", run, "--data", data, "--problems", 1)
    assert f"{data}, {named}" in complaint


def test_a_file_without_problems(cli, run, tmp_path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    complaint = cli.complaint("eval", "gsm", "--model", run, "--data", tmp_path / "empty.jsonl")
    assert "empty.jsonl holds no example" in complaint


def test_text_that_is_none(cli, run, data) -> None:
    data.write_text(json.dumps(ROWS[0] | {"question": "How many \ud800?"}))
    assert "the text has no UTF-8 form" in cli.complaint("eval", "gsm", "--model", run, "--data", data)
