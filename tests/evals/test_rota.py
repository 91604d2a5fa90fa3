"""The whole evaluation: its document, its settings, and that neither processes nor chunks change it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import agentsleep.evals.rota as evaluation
from agentsleep.errors import CheckpointMissing, SettingsError
from agentsleep.evals.rota import evaluate_rota
from tests.evals.oracle import Oracle

SMALL: dict[str, Any] = {
    "passes": (1, 2),
    "rounds": (1, 2),
    "episodes": 2,
    "people": 10,
    "depths": (1, 2, 3),
    "per_depth": 1,
    "harness": 0,
}


def test_the_document_of_an_agent_that_knows_everything(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Oracle().install(monkeypatch)
    monkeypatch.setattr(evaluation, "CHUNK", 1)
    parts: list[float] = []
    document = evaluate_rota(untrained, **SMALL, seed=5, progress=parts.append)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert (document["task"], document["model"], document["seed"]) == ("rota", str(untrained), 5)
    assert (document["window"], len(document["fingerprint"])) == (96, 64)
    assert (document["tool_call_accuracy"], document["tool_calls"]) == (1.0, 40)
    assert document["fact_windows"]["least"] >= 3
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    keys = {"passes", "rounds", "depth", "spread", "mode", "accuracy", "questions", "interval"}
    assert all(row.keys() == keys and row["accuracy"] == 1.0 for row in document["results"])
    cells = {(row["passes"], row["rounds"], row["mode"]) for row in document["results"]}
    assert cells == {(n, r, mode) for n in (1, 2) for r in (1, 2) for mode in ("fork", "sequence")}
    for cell in cells:
        rows = [row for row in document["results"] if (row["passes"], row["rounds"], row["mode"]) == cell]
        assert sum(row["questions"] for row in rows) == 2 * 3


def test_the_summary_leaves_out_deeper_questions_whose_facts_lay_in_one_window(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Oracle(slips=lambda depth, person, remember: person < "k").install(monkeypatch)
    document = evaluate_rota(untrained, **SMALL | {"episodes": 6, "passes": (1,), "rounds": (1,), "per_depth": 3})
    assert {row["spread"] for row in document["results"]} >= {1, 2}
    assert document["summary"]
    for row in document["summary"]:
        same = [
            other
            for other in document["results"]
            if (other["mode"], other["depth"]) == (row["mode"], row["depth"])
            and (other["spread"] >= 2 or other["depth"] == 1)
        ]
        questions = sum(other["questions"] for other in same)
        assert row["questions"] == questions > 0
        assert row["accuracy"] == pytest.approx(sum(o["accuracy"] * o["questions"] for o in same) / questions)
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]
    dropped = [row for row in document["results"] if row["spread"] == 1 and row["depth"] > 1]
    assert dropped


def test_chunks_do_not_change_the_result(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = SMALL | {"passes": (1,), "rounds": (1,), "people": 9, "harness": 5}
    whole = evaluate_rota(untrained, **few)
    monkeypatch.setattr(evaluation, "CHUNK", 1)
    assert evaluate_rota(untrained, **few) == whole


@pytest.mark.slow
def test_two_processes_give_the_result_of_one(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "CHUNK", 1)
    few = SMALL | {"passes": (1,), "harness": 5}
    assert evaluate_rota(untrained, **few, workers=2) == evaluate_rota(untrained, **few)


def test_the_training_harness_is_asked_too(untrained: Path) -> None:
    document = evaluate_rota(untrained, **SMALL | {"episodes": 1, "harness": 20})
    asked = {(row["passes"], row["rounds"], row["depth"]): row["questions"] for row in document["harness"]}
    assert asked.keys() == {(n, r, depth) for n in (1, 2) for r in (1, 2) for depth in (1, 2, 3)}
    assert min(asked.values()) >= 20
    assert {(row["passes"], row["rounds"], row["mode"]) for row in document["agreement"]} == {
        (n, r, mode) for n in (1, 2) for r in (1, 2) for mode in ("fork", "sequence")
    }
    for row in document["agreement"]:
        assert row["difference"] == row["live"] - row["harness"]
        rates = [
            h["accuracy"] for h in document["harness"] if (h["passes"], h["rounds"]) == (row["passes"], row["rounds"])
        ]
        assert row["harness"] == pytest.approx(sum(rates) / len(rates))


@pytest.mark.parametrize(
    ("setting", "value", "says"),
    [
        ("passes", (), "no passes"),
        ("passes", (1, 0), "passes is 0"),
        ("rounds", (0,), "rounds is 0"),
        ("depths", (1, 9), r"depths are \[1, 9\]"),
        ("depths", (0,), r"depths are \[0\]"),
        ("episodes", 0, "episodes is 0"),
        ("seed", -1, "seed is -1"),
        ("people", 8, "people is 8"),
        ("people", 41, "people is 41"),
        ("per_depth", 0, "per_depth is 0"),
        ("per_depth", 13, "per_depth is 13"),
        ("harness", -1, "harness is -1"),
        ("workers", 0, "workers is 0"),
    ],
)
def test_settings_out_of_range(untrained: Path, setting: str, value: object, says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        evaluate_rota(untrained, **SMALL | {setting: value})


def test_a_missing_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="no checkpoint at"):
        evaluate_rota(tmp_path / "none", **SMALL)
