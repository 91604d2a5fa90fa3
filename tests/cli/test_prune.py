"""``agentsleep snapshots prune``: what it takes away, what it only says, and how it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from agentsleep.archive import Archive, Snapshot
from agentsleep.cli.app import Commands, root
from agentsleep.cli.prune import prune
from agentsleep.cli.verify import verify
from tests.archive.helpers import opened, slept

app = typer.Typer(cls=Commands, invoke_without_command=True)
app.callback()(root)
app.command("prune")(prune)
app.command("verify")(verify)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


@pytest.fixture
def snapshots(path: Path) -> list[Snapshot]:
    with Archive(path) as archive:
        user = archive.user("default", "ada")
        session = opened(user, "rota")
        other = slept(user, opened(user, "other").id, b"other")
        return [*(slept(user, session.id, bytes([place]) * 10) for place in range(4)), other]


def stored(path: Path, snapshots: list[Snapshot]) -> list[int]:
    with Archive(path) as archive:
        user = archive.user("default", "ada")
        return [place for place, one in enumerate(snapshots) if user.snapshot(one.id).status == "stored"]


def said(path: Path, *arguments: object) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(
        call("prune", "--archive", path, "--user", "ada", "--json", *arguments).stdout
    )
    return document


def test_it_takes_away_and_says_what(path: Path, snapshots: list[Snapshot]) -> None:
    would = said(path, "--keep-last", 2, "--dry-run")
    assert stored(path, snapshots) == [0, 1, 2, 3, 4]
    done = said(path, "--keep-last", 2)
    assert stored(path, snapshots) == [2, 3, 4]
    assert (would["dry_run"], done["dry_run"]) == (True, False)
    assert would["snapshots"] == done["snapshots"]
    assert [(one["id"], one["thread"], one["reason"], one["bytes"]) for one in done["snapshots"]] == [
        (one.id, "rota", "keep_last", 10) for one in snapshots[:2]
    ]
    assert (done["bytes"], done["over_quota"], done["user"]) == (20, 0, "ada")
    assert said(path, "--keep-last", 2)["snapshots"] == []


def test_a_reader_gets_a_table(path: Path, snapshots: list[Snapshot]) -> None:
    arguments = ("prune", "--archive", path, "--user", "ada", "--keep-last", 1, "--quota-bytes", 1)
    shown = call(*arguments, "--dry-run").stdout
    assert snapshots[0].id[:8] in shown
    assert "3 states would be taken away, 30 bytes would be free" in shown
    shown = call(*arguments).stdout
    assert "3 states taken away, 30 bytes free" in shown
    assert "still 14 bytes over the quota: heads and tagged states stay" in shown
    assert call("prune", "--archive", path, "--user", "eve").stdout == "0 states taken away, 0 bytes free\n"


def test_options_are_the_rules(path: Path, snapshots: list[Snapshot]) -> None:
    assert said(path, "--keep-last", 0)["snapshots"] == []
    assert said(path)["snapshots"] == []
    assert said(path, "--thread", "other", "--keep-last", 1)["snapshots"] == []
    assert [one["reason"] for one in said(path, "--ttl-days", 1e-9, "--dry-run")["snapshots"]] == ["ttl"] * 3
    assert [one["id"] for one in said(path, "--keep-last", 1, "--every", 2)["snapshots"]] == [
        snapshots[0].id,
        snapshots[2].id,
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--keep-last", -1], "retention.keep_last must be an int of at least 1"),
        (["--keep-last", 0, "--every", 2], "retention.every is 2, but keep_last=None"),
        (["--ttl-days", 0], "retention.ttl must be more than 0"),
        (["--quota-bytes", -5], "retention.quota_bytes must be an int of at least 0"),
        (["--thread", "none"], "no thread 'none' of user 'ada'"),
        (["--archive", "nowhere.db"], "there is no archive at nowhere.db"),
    ],
)
def test_mistakes_are_one_line(
    path: Path, snapshots: list[Snapshot], arguments: list[object], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    result = call("prune", "--archive", path, "--user", "ada", *arguments, code=2)
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert stored(path, snapshots) == [0, 1, 2, 3, 4]
