"""``agentsleep conformance``: tables, exit codes, families, and a tiny model to try things on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentsleep.conformance import save_model, suite
from agentsleep.conformance.outcome import Failed


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_model("bamba", tmp_path_factory.mktemp("bamba"))


def test_a_model_that_conforms(cli, model, tmp_path) -> None:
    out = tmp_path / "found.json"
    result = cli("conformance", "--model", model, "--checks", "padding, wake", "--out", out, "--json")
    document = json.loads(result.stdout)
    assert json.loads(out.read_text()) == document
    assert document["command"].startswith("agentsleep conformance --model")
    assert [check["name"] for check in document["checks"]] == ["wake", "padding"]
    (report,) = document["models"]
    assert (report["model"], report["class"], report["ok"]) == (str(model), "BambaForCausalLM", True)
    assert [one["status"] for one in report["outcomes"]] == ["ok", "ok"]


def test_the_table_for_a_reader(cli, monkeypatch, model) -> None:
    def broken(subject) -> None:
        raise Failed("[bold]the state is lost", 0.25)

    monkeypatch.setattr(suite, "CHECKS", {**suite.CHECKS, "padding": broken})
    result = cli("conformance", "--model", model, "--checks", "wake,padding", code=1)
    assert "BambaForCausalLM, float32" in " ".join(result.stdout.split())
    assert "✓" in result.stdout
    assert "✗" in result.stdout
    assert "[bold]the state is lost" in result.stdout
    assert "2.5e-01" in result.stdout
    assert f"1 failed: {model}: padding" in result.stdout.replace("\n", "")


def test_the_shipped_model_is_the_default(cli) -> None:
    shown = cli("conformance", "--checks", "wake,padding").stdout
    assert "nap-mini (NapForCausalLM" in shown
    assert "all checks hold" in shown


def test_families(cli) -> None:
    document = json.loads(cli("conformance", "--families", "qwen3_5", "mamba2", "--checks", "sliding", "--json").stdout)
    assert [report["model"] for report in document["models"]] == ["qwen3_5", "mamba2"]
    assert [report["outcomes"][0]["status"] for report in document["models"]] == ["ok", "skip"]
    assert "cache_params" in document["models"][1]["repairs"][0]


def test_a_tiny_model_is_made(cli, tmp_path) -> None:
    folder = tmp_path / "tiny"
    assert "a tiny qwen3_5 with random weights" in cli("conformance", "--make", "qwen3_5", folder).stdout
    assert (folder / "config.json").is_file()
    assert (folder / "tokenizer.json").is_file()
    assert json.loads(cli("conformance", "--model", folder, "--checks", "padding", "--json").stdout)["ok"] is True
    assert "is not empty" in cli.complaint("conformance", "--make", "qwen3_5", folder)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nowhere/none"), "no model 'nowhere/none'"),
        (("--model", "./none"), "no checkpoint at"),
        (("--checks", "sleeping"), "there is no check 'sleeping'"),
        (("--families", "gpt"), "family 'gpt' is not known"),
        (("--families", "llama"), "no fast weights"),
        (("--families", "--model", "x"), "give one of them"),
        (("bamba",), "families are named behind --families"),
        (("--families", "--dtype", "bfloat16"), "are for --model"),
        (("--out", "no/such/folder.json"), "there is no folder"),
        (("--make", "gpt", "x"), "family 'gpt' is not known"),
        (("--threads", "0"), "give at least 1"),
    ],
)
def test_mistakes(cli, arguments, said, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert said in cli.complaint("conformance", *arguments)
    assert list(tmp_path.glob("*")) in ([], [tmp_path / "agentsleep-home"])
