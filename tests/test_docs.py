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
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
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


def load(path: Path) -> ModuleType:
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up
    spec.loader.exec_module(module)
    return module


# ------------------------------------------------------------------------------------------------------- snippets

WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def test_there_is_something_to_run() -> None:
    assert {"README.md", "docs/memory.md", "docs/archive.md", "docs/training.md"} <= {name_of(p) for p in WITH_PYTHON}
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
            if word not in command.commands:
                return f"{command.name} has no command {word!r}; it has {sorted(command.commands)}"
            command = command.commands[word]
        else:
            expected += 1
    given = sum(isinstance(param, click.Argument) or param.param_type_name == "argument" for param in command.params)
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


# ------------------------------------------------------------------------------------- figures and pictures

FIGURES = load(ROOT / "docs" / "figures.py")


def test_the_tables_are_what_the_files_say() -> None:
    command = [sys.executable, str(ROOT / "docs" / "figures.py"), "--check"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_block_has_its_place() -> None:
    pages = [ROOT / "README.md", ROOT / "docs" / "evidence.md"]
    named = [found["name"] for page in pages for found in FIGURES.BLOCK.finditer(page.read_text(encoding="utf-8"))]
    assert sorted(named) == sorted(FIGURES.BLOCKS)


def test_the_figures_are_of_the_shipped_model() -> None:
    measured = FIGURES.load(FIGURES.EVIDENCE / "eval-rota.json")
    if measured is not None:
        from agentsleep.backends import load_backend

        assert measured["fingerprint"] == load_backend().fingerprint, "measure eval rota again, on the shipped model"


def rota_document() -> dict[str, Any]:
    rows = [
        {"passes": 4, "rounds": 1, "depth": d, "spread": s, "mode": mode, "accuracy": a, "questions": q}
        for mode in ("fork", "sequence")
        for d, s, a, q in ((1, 1, 0.5, 100), (2, 1, 0.0, 50), (2, 2, 0.9, 100), (2, 3, 0.8, 100))
    ]
    baselines = [{"name": "no-memory", "depth": d, "accuracy": 0.125} for d in (1, 2)]
    return {
        "task": "rota",
        "model": "nap-mini",
        "fingerprint": "0123456789abcdef",
        "window": 96,
        "seed": 5,
        "episodes": 7,
        "results": rows,
        "baselines": baselines,
        "tool_call_accuracy": 0.75,
    }


def test_a_missing_file_is_said_so(tmp_path: Path) -> None:
    for name, render in FIGURES.BLOCKS.items():
        assert render(tmp_path).startswith("*not measured yet* (`agentsleep "), name
    assert "no training record" in FIGURES.nap_mini(tmp_path / "record.json")


def test_the_rota_table_counts_only_facts_that_were_spread(tmp_path: Path) -> None:
    (tmp_path / "eval-rota.json").write_text(json.dumps(rota_document()))
    shown = FIGURES.rota(tmp_path)
    assert shown.count("| 4 | 1 | 0.500<br>") == 2
    assert "0.850<br><sub>0.794–0.893</sub>" in shown  # 170 of 200: the questions of spread 1 are left out at depth 2
    assert "| no-memory |  | 0.125 | 0.125 |" in shown
    assert "`agentsleep eval rota --passes 4 --rounds 1 --episodes 7 --seed 5 --json`, seed 5" in shown
    assert "at least 100 questions" in shown
    assert "0.750" in shown
    assert "`0123456789ab`" in shown


def evidence_document() -> dict[str, Any]:
    """Depo in one window: sleep at N = 4 over two seeds, and one run at N = 1."""

    def run(arm: str, seed: int, passes: int, accuracy: float) -> dict[str, Any]:
        row = {"part": "one-window", "windows": 1, "form": "plain", "passes": passes, "rounds": 1, "depth": 8}
        return {
            "arm": arm,
            "label": f"the arm {arm}",
            "scale": "small",
            "seed": seed,
            "machine": {"processor": "a processor", "torch": "2", "transformers": "5", "python": "3"},
            "parameters": 1000,
            "steps": 3706,
            "minutes": 12.0,
            "training_flops": 2 * 10**12,
            "flops_per_token": {"1": 10**6, "4": 4 * 10**6},
            "config": {"threads": 1, "device": "cpu"},
            "rows": [{**row, "accuracy": accuracy, "questions": 100}],
        }

    runs = [run("depo1/random", 0, 4, 0.9), run("depo1/random", 1, 4, 0.94), run("depo1/n1", 0, 1, 0.1)]
    return {"format": 1, "table": "depo", "runs": runs}


def test_the_evidence_is_averaged_over_seeds(tmp_path: Path) -> None:
    (tmp_path / "depo.json").write_text(json.dumps(evidence_document()))
    shown = FIGURES.BLOCKS["evidence-depo"](tmp_path)
    assert "| 0.920<br><sub>0.666–1.000</sub> | 2 |" in shown  # .92 +- 12.706 * .0283 / sqrt(2)
    assert "| 0.100<br><sub>0.055–0.174</sub> | 1 |" in shown  # Wilson, 10 of 100
    assert "| the arm depo1/n1 | `depo1/n1` | 1,000 | 3,706 | 12.0 | 2.0 | 1.00 | 4.00 |" in shown
    assert "](evidence/depo.png)" in shown
    assert "8 hops, N = 4 | 0.920<br>" in FIGURES.headline(tmp_path)
    assert FIGURES.BLOCKS["evidence-rule110"](tmp_path).startswith("*not measured yet*")


def test_speed_tables(tmp_path: Path) -> None:
    rows = [{"history_tokens": n, "ms_per_token": 2.0, "state_bytes": 41984} for n in (1000, 100000)]
    (tmp_path / "bench-wake.json").write_text(json.dumps({"rows": rows, "ratio": 1.04}))
    assert "| 100,000 | 2.00 | 41,984 |" in FIGURES.wake(tmp_path)
    assert "1.04 for a token. `agentsleep bench wake --history 1000,100000 --json`" in FIGURES.wake(tmp_path)
    row = {"mode": "fwd+bwd", "rule": "delta", "B": 1, "T": 1024, "tokens_per_s": 43210.9, "ratio": 1.514}
    (tmp_path / "bench-ops.json").write_text(json.dumps({"rows": [row], "threads": 1, "reference": "another"}))
    assert "| delta | fwd+bwd | 1 | 1024 | 43,211 | 1.51 |" in FIGURES.ops(tmp_path)


def test_a_block_is_filled_and_a_stale_one_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- figures:rota -->\nold\n<!-- /figures -->\nafter\n")
    monkeypatch.setattr(FIGURES, "ROOT", tmp_path)
    monkeypatch.setattr(FIGURES, "pages", lambda: [page])
    monkeypatch.setattr(FIGURES.filled, "__defaults__", (tmp_path, tmp_path / "record.json"))
    assert FIGURES.main(["--check"]) == 1
    assert "old" in page.read_text()
    assert FIGURES.main([]) == 0
    assert "*not measured yet*" in page.read_text()
    assert page.read_text().startswith("before\n<!-- figures:rota -->\n")
    assert page.read_text().endswith("<!-- /figures -->\nafter\n")
    assert FIGURES.main(["--check"]) == 0
    (tmp_path / "eval-rota.json").write_text(json.dumps(rota_document()))
    assert FIGURES.main(["--check"]) == 1
    assert FIGURES.main(["--chekc"]) == 2


def test_the_picture_can_be_drawn_again(tmp_path: Path) -> None:
    script = ROOT / "docs" / "pictures" / "make_sleep.py"
    done = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    drawn = sorted(tmp_path.glob("*.svg"))
    assert [path.name for path in drawn] == ["sleep-dark.svg", "sleep-light.svg"]
    for path in drawn:
        assert ElementTree.parse(path).getroot().tag.endswith("svg")
        assert (ROOT / "docs" / "pictures" / path.name).is_file()
    assert drawn[0].read_bytes() != drawn[1].read_bytes()
