"""Commands of other packages: listed without being loaded, run when they are called, harmless when they are broken."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
import typer

from agentsleep.cli import plugins
from tests.cli.conftest import Cli

MODULE = "a_package_that_measures"


def command(context: typer.Context, size: int = 3) -> None:
    """Measures something."""
    typer.echo(f"{context.obj.command}: {size}")


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A package with a sound command, one that is no function, one whose module is missing, and one that is ours."""
    module = ModuleType(MODULE)
    module.command, module.number = command, 7  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, MODULE, module)
    found = [
        EntryPoint("sound", f"{MODULE}:command", "agentsleep.bench"),
        EntryPoint("number", f"{MODULE}:number", "agentsleep.bench"),
        EntryPoint("missing", "no_such_package_at_all:command", "agentsleep.bench"),
        EntryPoint("ops", f"{MODULE}:command", "agentsleep.bench"),
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found if group == "agentsleep.bench" else [])
    return module


def test_help_lists_them_and_loads_none(cli: Cli, brought: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(entry: EntryPoint) -> None:
        raise AssertionError(f"{entry.name} was loaded")

    monkeypatch.setattr(EntryPoint, "load", refuse)
    shown = cli("bench", "--help").stdout
    for name in ("sound", "missing", "From no_such_package_at_all:command", "Tokens per second"):
        assert name in shown, name


def test_a_command_runs_with_its_options(cli: Cli, brought: ModuleType) -> None:
    assert cli("bench", "sound", "--size", 5).stdout == "agentsleep bench sound --size 5: 5\n"
    assert "Measures something." in cli("bench", "sound", "--help").stdout
    assert "--size" in cli.complaint("bench", "sound", "--size", "much")


def test_a_broken_one_is_named_and_breaks_nothing_else(cli: Cli, brought: ModuleType) -> None:
    said = cli.complaint("bench", "missing", code=1)
    assert said.startswith("the command 'missing' of no_such_package_at_all:command")
    assert "ModuleNotFoundError" in said
    assert "it is a int, not a function" in cli.complaint("bench", "number", code=1)
    assert "bench sound: 3" in cli("bench", "sound").stdout


def test_our_own_command_goes_first(cli: Cli, brought: ModuleType) -> None:
    assert "--lengths is 'long'" in cli.complaint("bench", "ops", "--lengths", "long")
    assert cli("bench", "--help").stdout.count("ops ") == 1


def test_an_unknown_command_is_a_mistake(cli: Cli, brought: ModuleType) -> None:
    assert "No such command 'nothing'" in cli.complaint("bench", "nothing")
