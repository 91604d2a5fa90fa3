from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from agentsleep.cli.eval_rota import depth_range
from agentsleep.errors import SettingsError
from tests.agent_model import save_agent_model
from tests.cli.conftest import Cli
from tests.evals.oracle import Oracle

FEW = (
    "--episodes",
    1,
    "--passes",
    1,
    "--rounds",
    "1,2",
    "--people",
    9,
    "--depths",
    "1-2",
    "--workers",
    1,
    "--harness",
    5,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_agent_model(tmp_path_factory.mktemp("untrained") / "model")


def test_json_is_one_document_and_the_picture_is_drawn(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Oracle().install(monkeypatch)
    png = tmp_path / "rota.png"
    result = cli("eval", "rota", "--model", model, *FEW, "--seed", 7, "--json", "--png", png)
    document = json.loads(result.stdout)
    assert {"task", "model", "fingerprint", "window", "seed", "results", "baselines", "tool_call_accuracy"} <= set(
        document
    )
    assert (document["task"], document["seed"], document["tool_call_accuracy"]) == ("rota", 7, 1.0)
    assert {row["depth"] for row in document["results"]} == {1, 2}
    assert {row["rounds"] for row in document["results"]} == {1, 2}
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "drawn:" in result.stderr


def test_tables_for_a_reader(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Oracle().install(monkeypatch)
    shown = cli("eval", "rota", "--model", model, *FEW).stdout
    for text in ("fork", "sequence", "no-memory", "one-hop", "tool calls", "training harness", "not asked", "1.000"):
        assert text in shown, text


def test_the_folder_of_a_run_will_do(cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Oracle().install(monkeypatch)
    shutil.copytree(model, tmp_path / "run" / "model")
    result = cli("eval", "rota", "--model", tmp_path / "run", *FEW, "--json")
    assert json.loads(result.stdout)["model"] == str(tmp_path / "run" / "model")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--depths", "3-1"), "--depths is '3-1'"),
        (("--depths", "1-"), "--depths is '1-'"),
        (("--depths", "0-2"), "--depths is '0-2'"),
        (("--depths", "1-9"), "the vocabulary has 1..8"),
        (("--passes", "0"), "--passes is '0'"),
        (("--rounds", "one"), "--rounds is 'one'"),
        (("--people", 5), "people is 5"),
        (("--workers", 0), "workers is 0"),
        (("--threads", 0), "--threads is 0"),
    ],
)
def test_mistakes(cli: Cli, model: Path, arguments: tuple[object, ...], says: str) -> None:
    assert says in cli.complaint("eval", "rota", "--model", model, *FEW, *arguments)


def test_a_missing_model(cli: Cli, tmp_path: Path) -> None:
    assert "no checkpoint at" in cli.complaint("eval", "rota", "--model", tmp_path / "none", *FEW)


def test_a_folder_for_the_picture_that_is_missing_is_said_before_the_work(cli: Cli, tmp_path: Path) -> None:
    png = tmp_path / "none" / "rota.png"
    assert "make it first" in cli.complaint("eval", "rota", "--model", tmp_path, *FEW, "--png", png)


def test_depths() -> None:
    assert depth_range("1-6") == [1, 2, 3, 4, 5, 6]
    assert depth_range("3-3") == [3]
    assert depth_range("1,4, 2") == [1, 4, 2]
    for wrong in ("a-b", "1,2-3", "1-2-3", "1-99999999", ""):
        with pytest.raises(SettingsError, match="--depths"):
            depth_range(wrong)
