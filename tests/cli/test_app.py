"""The frame: help, exit codes, one line for each error, and what is written where."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

import agentsleep
from agentsleep import errors
from agentsleep.cli.app import Commands, Invocation, app, console, emit, numbers, root

ROOT = Path(__file__).resolve().parents[2]


def failing(error: BaseException) -> typer.Typer:
    """An app like ours with one command, which raises."""
    made = typer.Typer(cls=Commands, invoke_without_command=True)
    made.callback()(root)

    @made.command("fail")
    def fail() -> None:
        raise error

    return made


def test_help_lists_the_commands(cli) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        shown = cli(*arguments)
        assert shown.stderr == ""
        for command in ("train", "eval", "bench", "--version", "--debug"):
            assert command in shown.stdout


def test_version(cli) -> None:
    assert cli("--version").stdout == f"agentsleep {agentsleep.__version__}\n"


def test_help_in_a_process_of_its_own_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom agentsleep.cli import main\nsys.argv = ['agentsleep', 'train', '--help']\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert done.code == 0, done.code\n"
        "print(sorted({'torch', 'transformers', 'numpy', 'matplotlib', 'sqlalchemy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_mistake_in_a_process_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agentsleep.cli", "train", "--out"], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "agentsleep: Option '--out' requires an argument; see 'agentsleep --help'\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["trian"], "Did you mean 'train'"),
        (["train", "depo", "--nope", "--out", "x"], "--nope"),
        (["train"], "Missing argument"),
        (["train", "depo", "--out", "x", "--steps", "many"], "--steps"),
        (["eval"], "agentsleep eval --help"),
        (["eval", "depo"], "--model"),
        (["bench"], "agentsleep bench --help"),
    ],
)
def test_usage_errors_are_one_line(cli, arguments, named) -> None:
    assert named in cli.complaint(*arguments)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.SettingsError("passes is 0; it must be at least 1"), 2),
        (errors.MessageTooLong("too long"), 2),
        (errors.CheckpointMissing("no model"), 2),
        (errors.FingerprintMismatch("another model"), 2),
        (errors.ArchiveDamaged("no database"), 2),
        (errors.SessionBusy("held by 17"), 2),
        (errors.SleepFailed("NaN"), 1),
        (errors.ToolTimeout("10 s"), 1),
        (errors.AgentsleepError("odd"), 1),
    ],
)
def test_errors_of_ours_are_one_line(error, code) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr == f"agentsleep: {error}\n"


def test_a_message_of_many_lines_becomes_one() -> None:
    result = CliRunner().invoke(failing(errors.ModelError("size\n  mismatch:\n\tlayers.0")), ["fail"])
    assert result.stderr == "agentsleep: size mismatch: layers.0\n"


def test_an_error_of_the_system_names_the_file(tmp_path) -> None:
    with pytest.raises(OSError, match="directory") as raised:
        (tmp_path / "none" / "x").write_text("")
    result = CliRunner().invoke(failing(raised.value), ["fail"])
    assert result.exit_code == 2
    assert result.stderr == f"agentsleep: {tmp_path}/none/x: No such file or directory\n"
    assert CliRunner().invoke(failing(OSError("odd")), ["fail"]).stderr == "agentsleep: odd\n"


def test_an_unexpected_error_is_one_line_and_says_how_to_see_more() -> None:
    result = CliRunner().invoke(failing(KeyError("layer")), ["fail"])
    assert result.exit_code == 1
    assert result.stderr == "agentsleep: unexpected KeyError: 'layer'; 'agentsleep --debug ...' shows where\n"


@pytest.mark.parametrize("error", [errors.SettingsError("passes is 0"), KeyError("layer")])
def test_the_traceback_is_shown_on_demand_alone(error, monkeypatch) -> None:
    plain = CliRunner().invoke(failing(error), ["fail"])
    assert "Traceback" not in plain.stderr
    asked = CliRunner().invoke(failing(error), ["--debug", "fail"])
    assert "Traceback" in asked.stderr
    assert "raise error" in asked.stderr
    monkeypatch.setenv("AGENTSLEEP_DEBUG", "1")
    by_environment = CliRunner().invoke(failing(error), ["fail"])
    assert "Traceback" in by_environment.stderr
    assert plain.exit_code == asked.exit_code == by_environment.exit_code
    assert plain.stdout == asked.stdout == by_environment.stdout == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), typer.Abort()])
def test_an_interrupt_is_130_without_a_traceback(error) -> None:
    result = CliRunner().invoke(failing(error), ["fail"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_a_command_may_choose_its_exit_code() -> None:
    assert CliRunner().invoke(failing(typer.Exit(7)), ["fail"]).exit_code == 7


def test_the_command_line_can_be_pasted_back() -> None:
    assert (
        Invocation(["train", "depo", "--out", "my runs/a"], False).command == "agentsleep train depo --out 'my runs/a'"
    )


def test_emit_writes_one_document_or_what_a_reader_sees(capsys) -> None:
    document = {"model": "größe", "rows": [1, 2]}
    emit(document, True, lambda out: pytest.fail("rendered in spite of --json"))
    captured = capsys.readouterr()
    assert json.loads(captured.out) == document
    assert "größe" in captured.out
    assert captured.err == ""
    emit(document, False, lambda out: out.print("table"))
    assert capsys.readouterr().out == "table\n"


def test_emit_refuses_what_is_no_json(capsys) -> None:
    with pytest.raises(ValueError, match="JSON"):
        emit({"loss": float("nan")}, True, lambda out: None)
    assert capsys.readouterr().out == ""


def test_consoles_write_where_they_should(capsys, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert isinstance(console(), Console)
    console().print("x" * 130)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "x" * 130 + "\n"


@pytest.mark.parametrize(("text", "values"), [("1", [1]), ("1,2,4", [1, 2, 4]), ("4, 1,4", [4, 1])])
def test_numbers(text, values) -> None:
    assert numbers(text, "--passes") == values


@pytest.mark.parametrize("text", ["", "0", "1,", "x", "-1", "1.5", "1;2", "²"])
def test_numbers_that_are_none(text) -> None:
    with pytest.raises(errors.SettingsError, match="--passes is"):
        numbers(text, "--passes")


def test_every_command_has_help(cli) -> None:
    for path in (["train"], ["eval"], ["eval", "depo"], ["eval", "rule110"], ["bench"], ["bench", "ops"]):
        shown = cli(*path, "--help").stdout
        assert f"agentsleep {' '.join(path)}" in shown
    assert app.info.help
