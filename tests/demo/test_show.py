"""What a reader sees, in a terminal and without one; and the command."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agentsleep.cli import app
from agentsleep.cli import demo as command
from agentsleep.demo.run import Demo
from agentsleep.demo.show import Display, plain_lines, report, shown

CALL = '<|call|>{"name": "look_up", "arguments": {"person": "bob"}}'


def console(**settings) -> Console:
    return Console(file=io.StringIO(), width=settings.pop("width", 140), highlight=False, **settings)


def text_of(made: Console) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", made.file.getvalue())


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("bob hands over to alice .", "bob hands over to alice ."),
        (CALL, "→ look_up(person='bob')"),
        ("<|call|>{broken", "<|call|>{broken"),
        ("<|call|>[1]", "<|call|>[1]"),
        ('<|call|>{"name": "f", "arguments": 3}', '<|call|>{"name": "f", "arguments": 3}'),
        ("two\n  lines", "two lines"),
        ("x" * 61, "x" * 59 + "…"),
    ],
)
def test_a_message_is_one_line(text, line) -> None:
    assert shown(text) == line


def test_without_a_terminal_every_turn_and_sleep_is_a_plain_line(small) -> None:
    _, notes, _ = small
    made = console()
    with Display(made) as display:
        display.chapter("[bold]title[/bold]")
        for state in notes.states:
            display.status(state)
        display.remark("[red]done[/red]")
    said = text_of(made)
    assert "\x1b" not in made.file.getvalue()
    assert "[bold]title[/bold]" in said  # what a model says is never taken for markup
    assert "[red]done[/red]" in said
    sleeps = [snapshot for state in notes.states for snapshot in state.slept]
    assert said.count("window evicted") == len(sleeps)
    assert all(snapshot.id[:8] in said for snapshot in sleeps)
    turns = [line for state in notes.states for line in plain_lines(state) if line.startswith("  window")]
    assert said.count("  window ") == len(turns)
    assert all(len(line.splitlines()) == 1 for line in turns)


def test_in_a_terminal_the_window_is_a_bar(small) -> None:
    _, notes, _ = small
    made = console(force_terminal=True)
    with Display(made) as display:
        display.chapter("one")
        for state in notes.states[:6]:
            display.status(state)
        display.remark("done")
        display.status(notes.states[6])
    said = text_of(made)
    for state in notes.states[:7]:
        assert f"{state.window_tokens}/{state.capacity} tokens" in said
    assert "━" in said or "╸" in said
    assert "sleeps and snapshots" in said


def test_a_display_that_is_interrupted_gives_the_cursor_back(small) -> None:
    made = console(force_terminal=True)

    def interrupted() -> None:
        with Display(made) as display:
            display.status(small[1].states[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert made.file.getvalue().rstrip().endswith("\x1b[?25h")


def test_the_report_has_the_tables(small) -> None:
    document, _, _ = small
    made = console()
    made.print(report(document))
    said = text_of(made)
    for part in ("Accuracy by depth", "Some of the questions", "chance", "0.12", "all the same", "A fork of snapshot"):
        assert part in said
    assert document["files"]["chart"] in said.replace("\n", "")
    assert said.count("who comes 1 after") == 1 + 9  # one example, and the fork's people
    for name in ("passes 1", "passes 2", "+ deep sleep"):
        assert name in said


def test_the_report_says_so_when_the_new_process_differs(small) -> None:
    document = small[0] | {"again": small[0]["again"] | {"equal": False, "same_answers": 3}}
    made = console()
    made.print(report(document))
    assert "NOT the same (3 equal answers" in " ".join(text_of(made).split())


def test_the_command_writes_one_document(tiny_model, tmp_path, monkeypatch, small) -> None:
    asked = {}

    def run(self):
        asked["settings"] = self.settings
        self.watcher.chapter("a part")
        return small[0]

    monkeypatch.setattr(Demo, "run", run)
    result = CliRunner().invoke(
        app, ["demo", "--json", "--fast", "--model", str(tiny_model), "--out", str(tmp_path), "--seed", "4"]
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == small[0]
    assert "a part" in result.stderr
    assert (asked["settings"].starts, asked["settings"].seed) == (command.FAST_STARTS, 4)
    assert asked["settings"].pace == 0
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path), "--archive", str(tmp_path / "x.db")])
    assert result.exit_code == 0
    assert "Accuracy by depth" in result.stdout
    assert "a part" in result.stdout
    assert result.stderr == ""
    assert asked["settings"].archive == tmp_path / "x.db"
    assert asked["settings"].starts is None


def test_the_command_fails_when_the_new_process_differs(tmp_path, monkeypatch, small) -> None:
    document = small[0] | {"again": small[0]["again"] | {"equal": False}}
    monkeypatch.setattr(Demo, "run", lambda self: document)
    result = CliRunner().invoke(app, ["demo", "--json", "--out", str(tmp_path)])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["again"]["equal"] is False
    assert "the new process did not answer as this one did" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--model", "none"], "no checkpoint at none"),
        (["--seed", "-1"], "seed is -1"),
        (["--threads", "0"], "--threads is 0"),
        (["--seed", "x"], "--seed"),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, named) -> None:
    result = CliRunner().invoke(app, ["demo", "--json", "--out", str(tmp_path / "out"), *arguments])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("agentsleep: ")
    assert named in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_folder_that_is_a_file(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "file")])
    assert result.exit_code == 2
    assert "file" in result.stderr
