"""Every example runs offline on the shipped model, leaves nothing behind, and says what its memory must know."""

from __future__ import annotations

import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from agentsleep.memory import sleeping
from agentsleep.state import FastWeights

FOLDER = Path(__file__).resolve().parents[1] / "examples"
# Lines that must be in what an example prints, in this order. What the memory knows, each example asserts itself too.
SAID = {
    "api_model.py": ["The memory answers: dave", "bob hands over to alice ."],
    "between_tasks.py": ["worker: ", "the night", "deep sleep", "who comes 2 after bob ? dave"],
    "deep_agent.py": ["0 of them known", "'alice'", "its checkpoint holds: ", "its graph: "],
    "killed_and_resumed.py": ["in the tool", "killed with SIGKILL", "noted", "alice", "dave", "bob"],
    "prebuilt_react_agent.py": ["sleeps so far: 0", "sleeps so far: 1"],
    "several_users.py": ["ada's threads: ['ada/rota']", "ben's threads: ['ben/rota']"],
    "time_travel.py": ["alice", "back to the checkpoint", "erin", "dave", "and forward", "alice", "watch@"],
}


def test_each_example_is_known() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.py")) == sorted(SAID)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where an example is started; what it throws away lies beside it."""
    work, thrown_away = tmp_path / "work", tmp_path / "thrown-away"
    work.mkdir()
    thrown_away.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("TMPDIR", str(thrown_away))
    monkeypatch.setattr(tempfile, "tempdir", None)  # read anew
    return work


def check(name: str, said: str, complained: str, work: Path) -> None:
    assert complained == ""
    place = 0
    for line in SAID[name]:
        found = said.find(line, place)
        assert found >= 0, f"{line!r} does not come behind {said[:place]!r} in:\n{said}"
        place = found + len(line)
    assert max(len(line) for line in said.splitlines()) <= 160
    assert not list(work.iterdir()), "it leaves files behind where it was started"
    assert not [path for path in work.with_name("thrown-away").iterdir() if list(path.rglob("*.db"))]


def test_the_killed_one_runs_as_a_process_of_its_own(work: Path) -> None:
    name = "killed_and_resumed.py"
    command = [sys.executable, "-W", "error", str(FOLDER / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    check(name, done.stdout, done.stderr, work)


# As scripts, but in this process: a process of its own is busy with its imports for longer than with the example.
@pytest.mark.parametrize("name", [name for name in SAID if not name.startswith("killed")])
def test_it_runs_and_says_what_it_must(name: str, work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(FOLDER / name), run_name="__main__")
    check(name, *capfd.readouterr(), work)


@pytest.mark.parametrize("name", ["several_users.py", "api_model.py"])
def test_it_fails_where_the_memory_holds_something_else(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sleeping.consolidate

    def blank(*given: Any) -> Any:
        """Noise of the same size in place of what was slept on."""
        state, *more = real(*given)
        return FastWeights({key: torch.randn_like(t) * t.std() for key, t in state.items()}), *more

    monkeypatch.setattr(sleeping, "consolidate", blank)
    with pytest.raises(AssertionError, match="is the memory empty"):
        runpy.run_path(str(FOLDER / name), run_name="__main__")
