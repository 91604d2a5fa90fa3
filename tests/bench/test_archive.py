from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from agentsleep.archive import Archive
from agentsleep.bench import archive as bench
from agentsleep.bench.archive import BARS, bench_archive
from agentsleep.errors import ArchiveError, SettingsError

TINY: dict[str, Any] = {"layers": 2, "heads": 1}
SIZE = 2 * (128 * 128 + 384 * 3) * 4


def test_a_state_is_stored_and_loaded_both_ways(tmp_path: Path) -> None:
    parts: list[float] = []
    document = bench_archive(**TINY, repeats=2, folder=tmp_path, progress=parts.append)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    (row,) = document["rows"]
    assert (row["backend"], row["bytes"]) == ("sqlite", SIZE)
    assert row["save_ratio"] == pytest.approx(row["save_ms"] / row["file_save_ms"])
    assert row["checkpoint_ratio"] == pytest.approx(row["checkpoint_ms"] / row["file_save_ms"])
    assert row["load_ratio"] == pytest.approx(row["load_ms"] / row["file_load_ms"])
    assert row["checkpoint_ms"] > row["save_ms"] > 0
    assert {bar["bar"]: bar["most"] for bar in document["bars"]} == BARS
    assert all(bar["passed"] == (bar["ratio"] <= bar["most"]) for bar in document["bars"])
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert list(tmp_path.iterdir()) == []


def test_who_begins_changes_and_every_state_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    states = []
    for name in ("_archive_side", "_file_side"):
        side = getattr(bench, name)

        def noted(place: Any, state: Any, taken: Any, name: str = name, side: Any = side) -> Any:
            order.append(name)
            states.append(float(state["layers.0.recurrent"].sum()))
            return side(place, state, taken)

        monkeypatch.setattr(bench, name, noted)
    bench_archive(**TINY, repeats=1)
    assert order == ["_file_side", "_archive_side", "_archive_side", "_file_side"]
    assert states[0] == states[1] != states[2] == states[3]


def test_what_is_loaded_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bench.from_bytes
    monkeypatch.setattr(bench, "from_bytes", lambda tensors: real(tensors[:-1]))
    with pytest.raises(AssertionError, match="lost a tensor"):
        bench_archive(**TINY, repeats=1)


def test_a_server_is_measured_and_left_as_it_was(postgres_url: str) -> None:
    document = bench_archive(**TINY, repeats=1, postgres=postgres_url)
    assert [row["backend"] for row in document["rows"]] == ["sqlite", "postgresql"]
    row = document["rows"][1]
    assert (row["checkpoint_ms"], row["checkpoint_ratio"]) == (None, None)
    assert row["save_ratio"] > 0
    assert [bar["ratio"] for bar in document["bars"]] == [document["rows"][0][name] for name in BARS]
    with Archive(postgres_url) as archive:
        assert archive.users() == []
        with archive.user("agentsleep bench archive", "x").reading() as (tx, _scope_id):
            assert tx.scalar(text("SELECT count(*) FROM chunks")) == 0


@pytest.mark.parametrize("name", ["layers", "heads", "repeats"])
def test_settings_out_of_range(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is 0"):
        bench_archive(**{**TINY, "repeats": 1, name: 0})


def test_a_server_that_is_not_there() -> None:
    with pytest.raises(ArchiveError, match="cannot be reached"):
        bench_archive(**TINY, repeats=1, postgres="postgresql://nobody@127.0.0.1:1/none")


@pytest.mark.slow
def test_the_archive_costs_hardly_more_than_a_file() -> None:
    document = bench_archive(repeats=9)
    assert [bar["bar"] for bar in document["bars"] if not bar["passed"]] == []
