from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.agent_model import save_agent_model
from tests.cli.conftest import Cli

FEW = ("--prefill", 20, "--tokens", 3, "--repeats", 1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_agent_model(tmp_path_factory.mktemp("untrained"))


def test_json_is_one_document(cli: Cli, model: Path) -> None:
    document = json.loads(cli("bench", "turn", "--model", model, *FEW, "--json").stdout)
    assert [row["turn"] for row in document["rows"]] == ["session, NORMAL", "session, FULL", "generate"]
    assert {"ratio", "bars", "same_tokens", "prefill", "parameters"} <= set(document)
    assert document["threads"] == 1
    assert document["command"] == f"agentsleep bench turn --model {model} --prefill 20 --tokens 3 --repeats 1 --json"


def test_a_table_for_a_reader(cli: Cli, model: Path) -> None:
    shown = cli("bench", "turn", "--model", model, *FEW).stdout
    for text in ("3 written", "session, NORMAL", "CPU ratio", "at most 1.05", "the same tokens", "power cut"):
        assert text in shown, text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--prefill", 2), "prefill is 2"),
        (("--tokens", 500), "does not fit into the window of 96"),
        (("--repeats", 0), "repeats is 0"),
        (("--threads", 0), "--threads is 0"),
        (("--model", "/none"), "no checkpoint at /none"),
    ],
)
def test_mistakes(cli: Cli, model: Path, arguments: tuple[object, ...], says: str) -> None:
    assert says in cli.complaint("bench", "turn", "--model", model, *FEW, *arguments)
