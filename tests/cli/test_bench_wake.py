from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.agent_model import save_agent_model
from tests.cli.conftest import Cli


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_agent_model(tmp_path_factory.mktemp("untrained"))


def test_json_is_one_document(cli: Cli, model: Path) -> None:
    result = cli("bench", "wake", "--model", model, "--history", "100,300", "--tokens", 16, "--json")
    document = json.loads(result.stdout)
    assert [row["history_tokens"] for row in document["rows"]] == [100, 300]
    assert {"ms_per_token", "state_bytes", "add_ms", "reopen_ms"} <= set(document["rows"][0])
    assert {"ratio", "add_ratio", "reopen_ratio"} <= set(document)
    assert document["threads"] == 1


def test_a_table_for_a_reader(cli: Cli, model: Path) -> None:
    shown = cli("bench", "wake", "--model", model, "--history", "100,1000", "--tokens", 16, "--passes", 2).stdout
    for text in ("1,000", "read with 2 passes", "reopen_ratio", "at most 1.2", "equal size"):
        assert text in shown, text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--history", "1000"), "give at least two different numbers"),
        (("--history", "many"), "--history is 'many'"),
        (("--tokens", 0), "tokens is 0"),
        (("--threads", 0), "--threads is 0"),
    ],
)
def test_mistakes(cli: Cli, model: Path, arguments: tuple[object, ...], says: str) -> None:
    assert says in cli.complaint("bench", "wake", "--model", model, *arguments)
