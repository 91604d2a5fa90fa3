"""``agentsleep snapshots verify``: exit code 0 for what is whole, 1 and names for what is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from agentsleep.archive import Archive
from agentsleep.cli.app import Commands, root
from agentsleep.cli.prune import prune
from agentsleep.cli.verify import verify
from tests.archive.helpers import change, opened, slept

app = typer.Typer(cls=Commands, invoke_without_command=True)
app.callback()(root)
app.command("prune")(prune)
app.command("verify")(verify)


def call(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["verify", *(str(argument) for argument in arguments)])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "memory.db"
    with Archive(path) as archive:
        for name in ("ada", "eve"):
            user = archive.user("default", name)
            slept(user, opened(user).id, name.encode())
    return path


def damage(path: Path, user: str) -> None:
    with Archive(path) as archive:
        change(archive.user("default", user), "UPDATE chunks SET data = x'00' WHERE scope_id = :scope")


def test_what_is_whole(path: Path) -> None:
    shown = call("--archive", path, "--user", "ada").stdout
    assert shown == ("user 'ada' of tenant 'default': 1 sessions, 1 snapshots, 1 chunks, 1 events: nothing wrong\n")
    document = json.loads(call("--archive", path, "--everyone", "--json").stdout)
    assert document["ok"] is True
    assert [(report["user"], report["ok"], report["deep"]) for report in document["users"]] == [
        ("ada", True, True),
        ("eve", True, True),
    ]


def test_what_is_damaged_is_named(path: Path) -> None:
    damage(path, "eve")
    shown = call("--archive", path, "--user", "eve", code=1).stdout
    assert "1 findings" in shown
    assert "part 0 of layers.0.recurrent) does not match its digest" in shown
    document = json.loads(call("--archive", path, "--everyone", "--json", code=1).stdout)
    assert [(report["user"], report["ok"]) for report in document["users"]] == [("ada", True), ("eve", False)]
    (finding,) = document["users"][1]["findings"]
    assert (finding["problem"], finding["tensor"]) == ("chunk", "layers.0.recurrent")
    call("--archive", path, "--user", "ada")
    call("--archive", path, "--user", "eve", "--fast")  # does not read the bytes


def test_a_missing_archive_is_a_mistake(tmp_path: Path) -> None:
    result = call("--archive", tmp_path / "none.db", code=2)
    assert "there is no archive at" in result.stderr
    assert not (tmp_path / "none.db").exists()
