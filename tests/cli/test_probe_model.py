from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentsleep.cli.probe_model import setting
from agentsleep.errors import SettingsError
from tests.agent_model import save_agent_model
from tests.cli.conftest import Cli

FEW = ("--samples", 10, "--passes", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_agent_model(tmp_path_factory.mktemp("untrained"))


def test_json_is_one_document_and_the_picture_is_drawn(cli: Cli, model: Path, tmp_path: Path) -> None:
    png, text = tmp_path / "probe.png", tmp_path / "text.txt"
    text.write_text("the coffee is cold today . " * 100)
    result = cli("probe", "--model", model, *FEW, "--seed", 3, "--text", text, "--out", png, "--json")
    document = json.loads(result.stdout)
    assert (document["model"], document["passes"], document["seed"]) == (str(model), [1, 2], 3)
    assert [row["measure"] for row in document["measures"]] == ["recall", "log-odds", "perplexity"]
    assert "your text" in document["measures"][2]["what"]
    assert document["verdict"] == document["measures"][0]["verdict"]
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "drawn:" in result.stderr


def test_a_table_and_sentences_for_a_reader(cli: Cli, model: Path) -> None:
    shown = cli("probe", "--model", model, *FEW).stdout
    for text in ("S dropped", "N = 1", "N = 2", "log-odds", "95 % interval", "verdict, by recall:"):
        assert text in shown, text


def test_a_run_without_a_tokenizer_is_asked_its_task(cli: Cli, finished: Path) -> None:
    document = json.loads(cli("probe", "--model", finished, *FEW, "--json").stdout)
    assert document["decisive"] == "depo"
    assert [row["measure"] for row in document["measures"]] == ["depo", "depo, depth 1", "depo, depth 2"]
    whole, first, second = (row["items"] for row in document["measures"])
    assert whole == first + second > 0
    assert {row["groups"] for row in document["measures"][:1]} == {10}
    for arguments in (("--set", "window=64"), ("--text", __file__)):
        assert "no tokenizer" in cli.complaint("probe", "--model", finished, *FEW, *arguments)


def test_settings_are_overridden(cli: Cli, model: Path) -> None:
    shown = cli("probe", "--model", model, *FEW, "--set", "window=80", "--set", "feedback=hidden", "--json").stdout
    assert (json.loads(shown)["window"], json.loads(shown)["feedback"]) == (80, "hidden")


def test_values_of_settings() -> None:
    assert setting("feedback=tokens") == ("feedback", "tokens")
    assert setting(" window = 256 ") == ("window", 256)
    assert setting("loop=2,5") == ("loop", (2, 5))
    for wrong in ("feedback", "=tokens", "feedback=", ""):
        with pytest.raises(SettingsError, match="--set"):
            setting(wrong)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--passes", "1"), "passes is 1 alone"),
        (("--passes", "none"), "--passes is 'none'"),
        (("--samples", 3), "samples is 3"),
        (("--set", "feedback"), "--set is 'feedback'"),
        (("--set", "nothing=1"), "there is no sleep setting nothing"),
        (("--set", "feedback=tokens"), "a nap model does not follow feedback='tokens'"),
        (("--text", "/none.txt"), "/none.txt: No such file"),
        (("--out", "/none/probe.png"), "make it first"),
        (("--threads", 0), "--threads is 0"),
    ],
)
def test_mistakes(cli: Cli, model: Path, arguments: tuple[object, ...], says: str) -> None:
    assert says in cli.complaint("probe", "--model", model, *FEW, *arguments)


def test_a_missing_model_and_a_text_that_is_none(cli: Cli, model: Path, tmp_path: Path) -> None:
    assert "no checkpoint at" in cli.complaint("probe", "--model", tmp_path / "none", *FEW)
    binary = tmp_path / "picture"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "is no UTF-8 text" in cli.complaint("probe", "--model", model, *FEW, "--text", binary)
    short = tmp_path / "short.txt"
    short.write_text("hello")
    assert "too few for 8 pairs" in cli.complaint("probe", "--model", model, *FEW, "--text", short)
