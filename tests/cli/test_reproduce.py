"""``agentsleep reproduce``: what it lists, what it refuses, and a table of thirty-step runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentsleep.reproduce import campaign
from agentsleep.reproduce.plan import table_names
from tests.reproduce.toys import toy_plans


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[Path]:
    with toy_plans(tmp_path / "package") as plans:
        yield plans


@pytest.fixture
def places(tmp_path: Path) -> list[object]:
    """Options that keep everything in this test's own folder."""
    return ["--out", tmp_path / "out", "--runs", tmp_path / "runs"]


def test_the_list(cli, places, tmp_path) -> None:
    shown = cli("reproduce", "list", *places).stdout
    assert "tables at scale small, 3 seeds" in shown
    assert all(name in shown for name in table_names())
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_the_list_as_json(cli, places) -> None:
    found = json.loads(cli("reproduce", "list", "--json", "--scale", "paper", "--seeds", 2, *places).stdout)
    assert found["scale"] == "paper"
    assert [row["table"] for row in found["tables"]] == table_names()
    for row in found["tables"]:
        assert set(row) == {"table", "title", "runs", "missing"}
        assert row["runs"] == len(row["missing"]) == len(set(row["missing"])) > 0
    assert "retention/n1 seed 1" in next(r for r in found["tables"] if r["table"] == "retention")["missing"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ([], "Missing argument 'table'"),
        (["bogus"], "no table 'bogus'; there are depo, "),
        (["depo", "--seeds", "0"], "--seeds is 0 and --workers is 1"),
        (["depo", "--workers", "0"], "--workers is 0; give at least 1"),
        (["depo", "--seeds", "11"], "--seeds is 11; there are intervals for at most 10"),
        (["depo", "--scale", "huge"], "no scale 'huge'; there are small, paper"),
        (["list", "--scale", "huge"], "no scale 'huge'"),
        (["depo", "--arm", "gsm/n1"], "table depo has no arm ['gsm/n1']; it has depo1/full, "),
        (["depo", "--resume", "--anew"], "--resume keeps what --anew throws away"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(cli, places, tmp_path, arguments, named) -> None:
    assert named in cli.complaint("reproduce", *arguments, *places)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "runs").exists()


def test_the_help_names_every_option() -> None:
    from typer.testing import CliRunner

    from agentsleep.cli import app

    shown = CliRunner().invoke(app, ["reproduce", "--help"], env={"COLUMNS": "120"}).stdout
    options = ("--scale", "--seeds", "--resume", "--arm", "--out", "--runs", "--workers", "--anew", "--json")
    assert all(option in shown for option in options)
    assert "--resume goes on" in shown


def test_a_table_its_refusal_and_its_remedies(cli, toys, places, tmp_path) -> None:
    command = ["reproduce", "two", "--seeds", "1", "--arm", "hops/n1", *places]
    first = cli(*command)
    assert first.stdout.startswith("1 runs measured; wrote ")
    assert "hops/n1, seed 0: training, depth 1" in first.stderr
    assert "1 runs: 100% done" in first.stderr
    out = tmp_path / "out"
    files = [out / f"two.{ending}" for ending in ("json", "md", "png")]
    assert all(file.is_file() for file in files)
    before = files[0].read_bytes()
    assert json.loads(before)["command"].startswith("agentsleep reproduce two --seeds 1 --arm hops/n1 --out ")

    complaint = cli.complaint(*command)
    assert f"two was begun in {tmp_path / 'runs'} or is held by {files[0]}" in complaint
    assert "--resume" in complaint
    assert "--anew" in complaint
    assert files[0].read_bytes() == before

    document = json.loads(cli(*command, "--resume", "--json").stdout)
    assert document == {"table": "two", "scale": "small", "measured": 0, "files": [str(file) for file in files]}
    assert files[0].read_bytes() == before
    document = json.loads(cli(*command, "--anew", "--json").stdout)
    assert document["measured"] == 1
    again = json.loads(files[0].read_bytes())["runs"]
    assert [run["rows"] for run in again] == [run["rows"] for run in json.loads(before)["runs"]]

    listed = json.loads(cli("reproduce", "list", "--json", "--seeds", 1, *places).stdout)["tables"]
    assert next((row["table"], row["missing"]) for row in listed) == ("two", ["hops/random seed 0"])


def test_ctrl_c_says_how_to_go_on(cli, toys, places, monkeypatch) -> None:
    def interrupted(*_: Any, **__: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "carry_out", interrupted)
    result = cli("reproduce", "two", *places, code=130)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("agentsleep: stopped; what was measured is kept")
    assert "--resume" in result.stderr


def test_a_document_that_is_damaged(cli, toys, places, tmp_path) -> None:
    (tmp_path / "out").mkdir()
    document = tmp_path / "out/two.json"
    document.write_text("{")
    for option in ([], ["--resume"], ["--anew"]):
        assert "is no table of evidence" in cli.complaint("reproduce", "two", *option, *places)
    assert document.read_text() == "{"
    assert not (tmp_path / "runs").exists()
