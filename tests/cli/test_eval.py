"""``agentsleep eval`` of the tasks that are tokens alone."""

from __future__ import annotations

import json
import shutil

import pytest

from agentsleep.tasks import TASKS


def test_one_document_with_every_combination(cli, finished) -> None:
    result = cli("eval", "depo", "--model", finished / "model", "--passes", "1,2", "--rounds", "1,2",
                 "--questions", 60, "--seed", 7, "--json")  # fmt: skip
    document = json.loads(result.stdout)
    assert result.stderr == ""
    assert (document["task"], document["seed"]) == ("depo", 7)
    assert document["model"] == str(finished / "model")
    rows = [(row["passes"], row["rounds"], row["depth"]) for row in document["results"]]
    assert rows == [(n, r, d) for n in (1, 2) for r in (1, 2) for d in (1, 2)]
    for row in document["results"]:
        low, high = row["interval"]
        assert 0 <= low < row["accuracy"] < high <= 1
        assert row["questions"] >= 60
    assert {row["name"] for row in document["baselines"]} == {"chance", "best-constant", "state-reset"}


def test_equal_seeds_give_equal_documents(cli, finished) -> None:
    arguments = ("eval", "depo", "--model", finished / "model", "--questions", 30, "--json", "--seed")
    assert cli(*arguments, 1).stdout == cli(*arguments, 1).stdout
    assert cli(*arguments, 1).stdout != cli(*arguments, 2).stdout


def test_a_reader_gets_a_table_with_intervals(cli, finished) -> None:
    shown = cli("eval", "depo", "--model", finished, "--passes", "2", "--questions", 30).stdout
    for text in ("passes 2", "rounds 1", "chance", "constant", "reset", "95 % interval", "–"):
        assert text in shown


@pytest.mark.parametrize(
    ("task", "settings", "form", "depths", "chance"),
    [
        ("lexicon", "words = 3\nknown = 4\nsyllables = 6\nmax_depth = 2", "plain", [1, 2], 0.25),
        ("retention", "facts = 2\nsymbols = 4\nvalues = 5\nnoise = 2", "facts", [1], 0.2),
    ],
)
def test_lexicon_and_retention(cli, micro, tmp_path, task, settings, form, depths, chance) -> None:
    text = micro.read_text().replace("nodes = 4\nmax_depth = 2\nsymbols = 4", settings)
    config = tmp_path / "task.toml"
    config.write_text(text.replace("end_depth = 2", f'end_depth = {depths[-1]}, form = "{form}"'))
    cli("train", task, "--config", config, "--steps", 1, "--out", tmp_path / "run")
    arguments = ("eval", task, "--model", tmp_path / "run", "--passes", "1", "--questions", 50, "--json")
    document = json.loads(cli(*arguments).stdout)
    assert document["task"] == task
    assert document["difficulty"] == {"windows": 1, "depth": depths[-1], "form": form}
    assert [row["depth"] for row in document["results"]] == depths
    assert document["baselines"][0] == {"name": "chance", "depth": 1, "accuracy": chance}
    assert f"use 'agentsleep eval {task}'" in cli.complaint("eval", "depo", "--model", tmp_path / "run")


@pytest.mark.parametrize("task", sorted(TASKS))
def test_every_task_has_a_command(cli, task) -> None:
    assert f"eval {task}" in cli("eval", task, "--help").stdout


@pytest.mark.parametrize("eviction", ["never", "state"])
def test_a_baseline_is_measured_as_it_was_trained(cli, micro, tmp_path, eviction) -> None:
    config = tmp_path / "baseline.toml"
    text = micro.read_text().replace("passes = 2", "passes = 1").replace("judge = [2, 1]", "judge = [1, 1]")
    config.write_text(f'eviction = "{eviction}"\n' + text)
    cli("train", "depo", "--config", config, "--steps", 1, "--out", tmp_path / "run")
    arguments = ("eval", "depo", "--model", tmp_path / "run", "--questions", 400, "--json", "--passes")
    document = json.loads(cli(*arguments, "1").stdout)
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    for found in (document, record["evaluation"]):
        reset = [row["accuracy"] for row in found["baselines"] if row["name"] == "state-reset"]
        same = [row["accuracy"] for row in found["results"]] == reset
        assert same == (eviction == "state")
    if eviction == "never":
        assert "what is never evicted is read once" in cli.complaint(*arguments[:-2], "--passes", "1,2")


def test_rule110(cli, micro, tmp_path) -> None:
    config = tmp_path / "rule.toml"
    config.write_text(micro.read_text().replace("nodes = 4", "bits = 5").replace("symbols = 4", "strings = 1"))
    cli("train", "rule110", "--config", config, "--steps", 1, "--out", tmp_path / "run")
    arguments = ("eval", "rule110", "--model", tmp_path / "run", "--passes", "1", "--questions", 50, "--json")
    document = json.loads(cli(*arguments).stdout)
    assert [row["depth"] for row in document["results"]] == [1, 2]
    assert document["baselines"][0] == {"name": "chance", "depth": 1, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--passes", "0"], "--passes is '0'"),
        (["--rounds", "one"], "--rounds is 'one'"),
        (["--questions", "0"], "questions is 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--threads", "0"], "--threads is 0"),
    ],
)
def test_mistakes(cli, finished, arguments, named) -> None:
    assert named in cli.complaint("eval", "depo", "--model", finished / "model", *arguments)


def test_another_task(cli, finished) -> None:
    complaint = cli.complaint("eval", "rule110", "--model", finished / "model")
    assert "was trained on depo; use 'agentsleep eval depo'" in complaint


def test_no_model(cli, tmp_path) -> None:
    assert f"no model at {tmp_path}" in cli.complaint("eval", "depo", "--model", tmp_path)


def test_a_model_without_its_record(cli, finished, tmp_path) -> None:
    shutil.copytree(finished / "model", tmp_path / "model")
    assert "no record.json in or beside" in cli.complaint("eval", "depo", "--model", tmp_path / "model")
    shutil.copy(finished / "record.json", tmp_path / "model")  # inside is as good as beside
    cli("eval", "depo", "--model", tmp_path / "model", "--passes", "1", "--questions", 1)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"task": "depo"}'])
def test_a_damaged_record(cli, finished, tmp_path, text) -> None:
    out = shutil.copytree(finished, tmp_path / "copy")
    (out / "record.json").write_text(text)
    assert "is no training record" in cli.complaint("eval", "depo", "--model", out)


def test_damaged_weights(cli, finished, tmp_path) -> None:
    out = shutil.copytree(finished, tmp_path / "copy")
    weights = out / "model/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    assert f"the model at {out / 'model'} cannot be read" in cli.complaint("eval", "depo", "--model", out)
