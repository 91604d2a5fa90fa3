"""README and pages: every snippet runs, both sides of every diff run, every link leads somewhere, every command exists,
and what has a setting, a name or an error is explained."""

from __future__ import annotations

import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

import langchain_agentsleep
from agentsleep.cli import app
from langchain_agentsleep import ChatSleep, SleepMiddleware, memory_tools

PACKAGE = Path(__file__).resolve().parents[1]
REPOSITORY = PACKAGE.parents[1]
README, DOCS = PACKAGE / "README.md", PACKAGE / "docs"
PAGES = sorted([README, *DOCS.glob("*.md")])
PLACED = [*PAGES, PACKAGE.parent / "README.md"]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE.parent).as_posix()


class Block(NamedTuple):
    """A fenced block: the line of the page where its text begins, its language, and whether it runs."""

    line: int
    language: str
    text: str
    runs: bool


def blocks(page: Path) -> Iterator[Block]:
    lines = page.read_text(encoding="utf-8").splitlines()
    opened: int | None = None
    for number, line in enumerate(lines):
        if opened is None and line.startswith("```"):
            opened = number
        elif opened is not None and line == "```":
            runs = opened == 0 or lines[opened - 1] != "<!-- no-run -->"
            yield Block(opened + 2, lines[opened][3:], "\n".join(lines[opened + 1 : number]) + "\n", runs)
            opened = None
    assert opened is None, f"{name_of(page)}: a block is not closed"


def prose(page: Path) -> str:
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def side(diff: str, mark: str) -> str:
    """One side of a diff: its lines that are marked so, and those without a mark."""
    return "".join(line[1:] for line in diff.splitlines(keepends=True) if line[:1] in (mark, " ", "\n"))


WITH_PYTHON = [page for page in PAGES if any(block.language == "python" for block in blocks(page))]


def test_there_is_something_to_run() -> None:
    pages = {"README", "quickstart", "agent", "checkpoints", "jobs", "users", "tools", "structured-output", "migration"}
    assert pages <= {page.stem for page in WITH_PYTHON}
    assert len([block for block in blocks(DOCS / "migration.md") if block.language == "diff"]) >= 3


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
def test_snippets_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": "snippet"}
    for block in blocks(page):
        texts = {"python": [block.text], "diff": [side(block.text, mark) for mark in "-+"]}.get(block.language, [])
        for text in texts:
            # Empty lines before it, so that a traceback names the line of the page.
            code = compile("\n" * (block.line - 1) + text, str(page), "exec", dont_inherit=True)
            if block.runs:
                exec(code, namespace)
            if block.language == "diff" and "memory_tools(" not in text:  # no fake model takes tools
                thread = {"configurable": {"thread_id": f"{block.line} {hash(text)}"}}
                told = {"messages": [("user", "bob hands over to alice .")]}
                assert namespace["agent"].invoke(told, thread)["messages"][-1].content


def test_the_readme_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code = next(block.text for block in blocks(README) if block.language == "python")
    exec(compile(code, str(README), "exec", dont_inherit=True), {"__name__": "snippet"})
    said = re.search(r"It prints (.+):", prose(README))
    assert said is not None
    assert re.findall(r"`(.+?)`", said[1]) == capsys.readouterr().out.splitlines()


LINK = re.compile(r"\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PLACED, ids=name_of)
def test_relative_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("http://", "https://")):
            continue
        where, _, anchor = link.partition("#")
        target = (page.parent / where).resolve() if where else page
        assert target.is_relative_to(REPOSITORY), f"{link} leaves the repository"
        assert target.exists(), f"{link} leads nowhere"
        assert not anchor or anchor in anchors(target), f"{link}: there are {sorted(anchors(target))}"


def test_every_page_can_be_found_from_the_readme() -> None:
    linked = {link.partition("#")[0] for link in LINK.findall(prose(README))}
    assert [page.name for page in DOCS.glob("*.md") if f"docs/{page.name}" not in linked] == []


def commands(page: Path) -> Iterator[str]:
    for block in blocks(page):
        if block.language == "bash":
            yield from (line for line in block.text.splitlines() if line.startswith("agentsleep "))
    yield from re.findall(r"`(agentsleep [^`]+)`", prose(page))


@pytest.mark.parametrize("page", PLACED, ids=name_of)
def test_commands_exist_with_their_options(page: Path) -> None:
    for line in commands(page):
        done = CliRunner().invoke(app, [*shlex.split(line)[1:], "--help"])
        assert done.exit_code == 0, f"{line}: {done.output}"


def test_a_wrong_command_is_seen() -> None:
    for line in ("agentsleep sleep", "agentsleep worker --crons 3"):
        assert CliRunner().invoke(app, [*shlex.split(line)[1:], "--help"]).exit_code != 0


def test_every_setting_of_the_middleware_is_explained() -> None:
    page = (DOCS / "agent.md").read_text(encoding="utf-8")
    names = list(inspect.signature(SleepMiddleware).parameters)
    assert names[0] == "memory"
    assert [name for name in names[1:] if not re.search(rf"^\| [^|]*`{name}`", page, flags=re.MULTILINE)] == []


def test_every_setting_of_the_chat_model_is_explained() -> None:
    page = (DOCS / "quickstart.md").read_text(encoding="utf-8")
    names = [name for name in ChatSleep.model_fields if name in ChatSleep.__annotations__ and name != "memory"]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_tool_and_every_public_name_is_told_of(opened: Any) -> None:
    page = (DOCS / "tools.md").read_text(encoding="utf-8")
    assert [tool.name for tool in memory_tools(opened()) if f"| `{tool.name}(" not in page] == []
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [name for name in langchain_agentsleep.__all__ if name not in text] == []
