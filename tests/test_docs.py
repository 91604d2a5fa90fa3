"""README and docs: every snippet runs, every example runs, every link leads somewhere, every command exists, and every
figure is the one that its file gives. What the model answers is not looked at: it may be trained anew at any time."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import typer

import agentsleep
from agentsleep import errors
from agentsleep.cli import app
from agentsleep.errors import ToolError
from agentsleep.memory import Agent, Answer
from agentsleep.policy import SleepPolicy
from agentsleep.training.config import Stage, TrainConfig, Visits
from agentsleep.training.presets import preset_names

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
COMMANDS = typer.main.get_command(app)
SHELLS = ("bash", "sh", "console")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


class Block(NamedTuple):
    """A fenced block: where its code begins, its language, its text, and whether it is only to compile."""

    line: int
    language: str
    code: str
    runs: bool


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    fence: int | None = None
    for number, line in enumerate(lines):
        if fence is None and line.startswith("```"):
            fence = number
        elif fence is not None and line == "```":
            before = lines[fence - 1] if fence else ""
            code = "\n".join(lines[fence + 1 : number]) + "\n"
            yield Block(fence + 2, lines[fence][3:].strip(), code, before != "<!-- no-run -->")
            fence = None
    assert fence is None, f"{page}: the block that opens at line {fence} is not closed"


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


# ------------------------------------------------------------------------------------------------------- snippets

WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def test_there_is_something_to_run() -> None:
    assert {
        "README.md",
        "docs/memory.md",
        "docs/archive.md",
        "docs/forgetting.md",
        "docs/lineage.md",
        "docs/training.md",
    } <= {name_of(p) for p in WITH_PYTHON}
    assert len(EXAMPLES) >= 3
    assert (Path(agentsleep.__file__).parent / "assets" / "nap-mini" / "config.json").is_file(), "no shipped model"


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_python_snippets_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Agent.run

    def run(agent: Agent, text: str) -> Answer:
        try:
            return asked(agent, text)
        except ToolError:  # a model in the middle of its training may call tools for ever
            return Answer(text="", snapshot=None, tokens=0)

    monkeypatch.setattr(Agent, "run", run)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "snippet"}
    for block in blocks(page):
        if block.language != "python":
            continue
        # Empty lines before it, so that a traceback names the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, str(page), "exec")
        if block.runs:
            exec(code, namespace)


@pytest.mark.parametrize("example", EXAMPLES, ids=name_of)
def test_examples_run_and_say_something(example: Path, tmp_path: Path) -> None:
    before = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-W", "error", str(example)]
    done = subprocess.run(command, cwd=tmp_path, env=before, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) >= 5
    assert max(len(line) for line in done.stdout.splitlines()) <= 160
    assert not list(tmp_path.glob("*.db")), "an example leaves files behind where it was started"


def test_toml_and_json_blocks_can_be_read() -> None:
    for page in PAGES:
        for block in blocks(page):
            if block.language == "toml":
                tomllib.loads(block.code)
            elif block.language == "json":
                json.loads(block.code)
            else:
                assert block.language in ("python", "text", "", *SHELLS), f"{name_of(page)}:{block.line}"


# ---------------------------------------------------------------------------------------------------------- links

LINK = re.compile(r"\]\(([^)\s]+)\)|(?:src|srcset|href)=\"([^\"\s]+)\"")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for found in LINK.finditer(prose(page)):
        link = found[1] or found[2]
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        where, _, anchor = link.partition("#")
        target = (page.parent / where).resolve() if where else page
        assert target.is_relative_to(ROOT), f"{link} leaves the repository"
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: no such heading; there are {sorted(anchors(target))}"


def test_every_page_and_example_can_be_found_from_the_readme() -> None:
    readme = prose(ROOT / "README.md")
    linked = {(found[1] or found[2]).partition("#")[0] for found in LINK.finditer(readme)}
    assert [name for name in map(name_of, (ROOT / "docs").glob("*.md")) if name not in linked] == []
    assert "examples" in linked


# ------------------------------------------------------------------------------------------------------- commands


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z-]+):.*## ", makefile, flags=re.MULTILINE))


def shell_lines(page: Path) -> Iterator[tuple[str, str]]:
    """Every command line of a page, with its place: whole lines of shell blocks, and what stands in backticks."""
    for block in blocks(page):
        if block.language in SHELLS:
            for number, line in enumerate(block.code.replace("\\\n", " ").splitlines()):
                if line.strip() and not line.startswith("#"):
                    yield f"{name_of(page)}:{block.line + number}", line.removeprefix("$ ")
    for found in re.finditer(r"`((?:agentsleep|make|python) [^`]+)`", prose(page)):
        yield f"{name_of(page)}: `{found[1]}`", found[1]


def complaint(line: str) -> str | None:
    """What is wrong with a command line, as far as can be seen without running it."""
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    program, arguments = words[0].removeprefix(".venv/bin/"), words[1:]
    if program == "make":
        named = [word for word in arguments if "=" not in word]
        return next((f"no target {word!r} in the Makefile" for word in named if word not in targets()), None)
    if program == "agentsleep":
        return no_such_command(arguments)
    if program == "python" and arguments[0] == "-m":
        return None if arguments[1] in ("pytest", "agentsleep.cli") else f"unknown module {arguments[1]}"
    if program == "python":
        return None if (ROOT / arguments[0]).is_file() else f"no script {arguments[0]}"
    return None if program in ("pip", "sqlite3", "pytest", "cd", "git") else f"unknown program {program!r}"


def no_such_command(arguments: list[str]) -> str | None:
    command: Any = COMMANDS
    expected = 0
    while arguments:
        word = arguments.pop(0)
        if word.startswith("-"):
            options = {opt: param for param in command.params for opt in (*param.opts, *param.secondary_opts)}
            name, has_value, _ = word.partition("=")
            if name == "--help":
                continue
            if name not in options:
                return f"{command.name} has no option {name}; it has {sorted(options)}"
            if not has_value and not options[name].is_flag:
                if not arguments:
                    return f"{command.name} {name} needs a value"
                arguments.pop(0)
        elif hasattr(command, "commands"):
            if word == "COMMAND":
                return None
            if word in getattr(command, "_brought", {}):  # by a package beside this one; it is there once it is called
                command.resolve_command(click.Context(command), [word])
            if word not in command.commands:
                return f"{command.name} has no command {word!r}; it has {sorted(command.commands)}"
            command = command.commands[word]
        else:
            expected += 1
    arguments_of = [p for p in command.params if isinstance(p, click.Argument) or p.param_type_name == "argument"]
    if any(param.nargs == -1 for param in arguments_of):
        return None
    given = len(arguments_of)
    return f"{command.name} takes {given} arguments, not {expected}" if expected > given else None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shell_lines_name_what_exists(page: Path) -> None:
    wrong = {place: said for place, line in shell_lines(page) if (said := complaint(line)) is not None}
    assert wrong == {}


@pytest.mark.parametrize(
    "line",
    [
        "make tests",
        "agentsleep sleep",
        "agentsleep eval rota --pass 4",
        "agentsleep train depo rota --out runs",
        "agentsleep bench wake --history",
        "python examples/missing.py",
        "curl example.org",
    ],
)
def test_a_wrong_shell_line_is_seen(line: str) -> None:
    assert complaint(line) is not None


def leaves(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield path, command
        return
    for name, sub in command.commands.items():
        yield from leaves(sub, f"{path} {name}")


def test_every_command_has_its_place_and_its_options() -> None:
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    headings = "\n".join(re.findall(r"^## .*$", page, flags=re.MULTILINE))
    found = dict(leaves(COMMANDS, "agentsleep"))
    assert [path for path in found if path not in headings] == []
    options = {opt for command in found.values() for param in command.params for opt in param.opts if opt[:2] == "--"}
    assert [opt for opt in sorted(options) if f"{opt}`" not in page and f"{opt} " not in page] == []


# ------------------------------------------------------------------------------------------- names in the tables


def test_every_error_is_explained() -> None:
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    raised = [name for name, value in vars(errors).items() if isinstance(value, type) and not name.startswith("_")]
    assert [name for name in raised if f"`{name}`" not in page] == []
    explained = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert [name for name in explained if name not in raised] == []


def test_every_setting_of_a_run_is_explained() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    fields = [field.name for kind in (TrainConfig, Stage, Visits) for field in dataclasses.fields(kind)]
    assert [name for name in fields if f"`{name}`" not in page] == []
    assert [name for name in preset_names() if f"`{name}`" not in page] == []


def test_the_defaults_in_the_table_are_those_of_the_code() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", page, flags=re.MULTILINE))
    defaults = {field.name: field.default for field in dataclasses.fields(TrainConfig)}
    numbers = {name: value for name, value in defaults.items() if isinstance(value, (int, float)) and name in rows}
    assert len(numbers) >= 12
    for name, value in numbers.items():
        # `max_steps` is a field of a stage too, whose row comes later
        said = {"true": True, "false": False}.get(rows[name])
        assert (float(rows[name]) if said is None else said) == value or name == "max_steps", name


def test_every_setting_of_a_policy_is_shown() -> None:
    page = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8")
    assert [field.name for field in dataclasses.fields(SleepPolicy) if f"{field.name}=" not in page] == []


def test_the_floors_are_drawn_as_they_are_checked() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    layers = next(contract["layers"] for contract in contracts if contract["id"] == "floors")
    package = ROOT / "agentsleep"
    floors = [[name for name in re.findall(r"\w+", layer) if list(package.glob(f"{name}*"))] for layer in layers]
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Floors")[1].split("## Habits")[0]
    drawn = [re.split(r"\s{2,}", line.strip())[0] for line in text.splitlines() if line.startswith("    ")]
    assert [re.findall(r"\w+", line) for line in drawn] == [floor for floor in floors if floor]
