"""Every example runs offline on the shipped model, leaves nothing behind, and says what its memory must know."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
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


@pytest.mark.parametrize("name", SAID)
def test_it_runs_and_says_what_it_must(name: str, tmp_path: Path) -> None:
    work, kept = tmp_path / "work", tmp_path / "kept"
    work.mkdir()
    kept.mkdir()
    before = os.environ | {"TMPDIR": str(kept)}
    command = [sys.executable, "-W", "error", str(FOLDER / name)]
    done = subprocess.run(command, cwd=work, env=before, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    place = 0
    for said in SAID[name]:
        found = done.stdout.find(said, place)
        assert found >= 0, f"{said!r} does not come behind {done.stdout[:place]!r} in:\n{done.stdout}"
        place = found + len(said)
    assert max(len(line) for line in done.stdout.splitlines()) <= 160
    assert not list(work.iterdir()), "it leaves files behind where it was started"


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
