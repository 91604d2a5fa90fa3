from __future__ import annotations

import json

import pytest

from tests.cli.conftest import Cli

FEW = ("--layers", 2, "--heads", 1, "--repeats", 1)


def test_json_is_one_document(cli: Cli) -> None:
    document = json.loads(cli("bench", "archive", *FEW, "--json").stdout)
    assert [row["backend"] for row in document["rows"]] == ["sqlite"]
    assert [bar["bar"] for bar in document["bars"]] == ["save_ratio", "checkpoint_ratio", "load_ratio"]
    assert document["threads"] == 1
    assert document["command"] == "agentsleep bench archive --layers 2 --heads 1 --repeats 1 --json"


def test_a_table_for_a_reader(cli: Cli) -> None:
    shown = cli("bench", "archive", *FEW).stdout
    for text in ("0.1 MB", "sqlite: save and checkpoint", "sqlite: load", "at most 1.5", "power cut"):
        assert text in shown, text
    assert "postgresql" not in shown


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--layers", 0), "layers is 0"),
        (("--repeats", 0), "repeats is 0"),
        (("--threads", 0), "--threads is 0"),
        (("--postgres", "postgresql://nobody@127.0.0.1:1/none"), "cannot be reached"),
    ],
)
def test_mistakes(cli: Cli, arguments: tuple[object, ...], says: str) -> None:
    assert says in cli.complaint("bench", "archive", *FEW, *arguments)
