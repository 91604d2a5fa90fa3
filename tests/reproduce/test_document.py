"""``TABLE.json``: nothing is lost, whoever writes and whatever goes wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentsleep.errors import InputError
from agentsleep.reproduce import document

HEAD = {"table": "depo", "title": "Depo “hops”", "command": "agentsleep reproduce depo"}
WRITER = """
import sys
from pathlib import Path
from agentsleep.reproduce import document

for seed in range(25):
    record = {"arm": sys.argv[2], "scale": "small", "seed": seed, "digest": "d", "measures": "m", "rows": []}
    document.add(Path(sys.argv[1]), {"table": "depo"}, record)
"""


def record(arm: str, seed: int, scale: str = "small", **more: Any) -> dict[str, Any]:
    rows = [{"part": "p", "depth": 1, "accuracy": 0.5}, {"part": "p", "depth": 2, "accuracy": 0.25}]
    return {"arm": arm, "scale": scale, "seed": seed, "digest": "d", "measures": "m", "rows": rows, **more}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "evidence" / "depo.json"


def keys(path: Path) -> list[tuple[str, str, int]]:
    found = document.read(path)
    assert found is not None
    return [document.run_key(run) for run in found["runs"]]


def test_there_is_none_at_first(path) -> None:
    assert document.read(path) is None
    document.drop(path, [("small", "a", 0)])
    assert not path.parent.exists()


def test_records_are_sorted_whatever_their_order(path) -> None:
    for made in (record("b", 0), record("a", 10), record("a", 2), record("a", 0, "paper")):
        document.add(path, HEAD, made)
    assert keys(path) == [("paper", "a", 0), ("small", "a", 2), ("small", "a", 10), ("small", "b", 0)]


def test_a_record_takes_the_place_of_the_one_before(path) -> None:
    document.add(path, HEAD, record("a", 0, digest="old"))
    document.add(path, HEAD, record("a", 1))
    whole = document.add(path, {**HEAD, "command": "another"}, record("a", 0, digest="new"))
    assert keys(path) == [("small", "a", 0), ("small", "a", 1)]
    assert [run["digest"] for run in whole["runs"]] == ["new", "d"]
    assert whole["command"] == "another"
    assert document.read(path) == whole


def test_a_round_trip_and_one_line_a_row(path) -> None:
    made = record("a", 0, config={"model": {"pattern": "as"}}, history=[{"step": 25, "loss": None}], label="ä – b")
    document.add(path, HEAD, made)
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {"format": 1, **HEAD, "runs": [made]}
    lines = [line.strip() for line in text.splitlines()]
    assert '{"part": "p", "depth": 1, "accuracy": 0.5},' in lines
    assert '{"step": 25, "loss": null}' in lines
    assert '"label": "ä – b"' in lines


def test_runs_can_be_dropped(path) -> None:
    for seed in range(3):
        document.add(path, HEAD, record("a", seed))
    document.drop(path, [("small", "a", 0), ("small", "a", 2), ("small", "b", 0)])
    assert keys(path) == [("small", "a", 1)]
    assert json.loads(path.read_text(encoding="utf-8"))["title"] == HEAD["title"]
    document.drop(path, [("small", "a", 1)])
    assert keys(path) == []
    document.add(path, HEAD, record("a", 1))
    assert keys(path) == [("small", "a", 1)]


def test_two_processes_at_once_lose_nothing(path) -> None:
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(path), arm]) for arm in ("a", "b")]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert keys(path) == [("small", arm, seed) for arm in ("a", "b") for seed in range(25)]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b'{"format": 1, "runs": [',
        b"[]",
        b'{"runs": []}',
        b'{"format": 2, "runs": []}',
        b'{"format": 1, "runs": {}}',
        b'{"format": 1, "runs": [{"arm": "a"}]}',
        b'{"format": 1, "runs": [1]}',
        b"\xff\xfe",
    ],
)
def test_something_else_is_left_as_it_is(path, text) -> None:
    path.parent.mkdir()
    path.write_bytes(text)
    for touch in (
        lambda: document.read(path),
        lambda: document.add(path, HEAD, record("a", 0)),
        lambda: document.drop(path, [("small", "a", 0)]),
    ):
        with pytest.raises(InputError, match=r"depo\.json is no table of evidence .* move it away"):
            touch()
    assert path.read_bytes() == text
    assert list(path.parent.glob("*.part")) == []


def test_a_record_that_is_no_json_leaves_the_file_and_nothing_else(path) -> None:
    document.add(path, HEAD, record("a", 0))
    before = path.read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        document.add(path, HEAD, record("a", 1, config={"path": Path("x")}))
    assert path.read_bytes() == before
    assert {file.name for file in path.parent.iterdir()} <= {"depo.json", ".depo.json.lock"}
    document.add(path, HEAD, record("a", 1))  # the lock was given back
    assert len(keys(path)) == 2


def test_the_machine_is_named_with_its_versions() -> None:
    found = document.machine()
    assert set(found) == {"processor", "cores", "system", "python", "agentsleep", "torch", "transformers", "numpy"}
    assert found["cores"] >= 1
    assert found["processor"]
    assert json.loads(json.dumps(found)) == found
