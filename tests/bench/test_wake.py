from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentsleep.bench import wake
from agentsleep.bench.wake import bench_wake
from agentsleep.errors import CheckpointMissing, SettingsError
from agentsleep.memory import Session
from tests.agent_model import save_agent_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_agent_model(tmp_path_factory.mktemp("untrained"))


def test_both_histories_are_read_and_every_step_is_timed(model: Path) -> None:
    parts: list[float] = []
    document = bench_wake(model, history=(300, 900), tokens=48, passes=2, progress=parts.append)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert [row["history_tokens"] for row in document["rows"]] == [300, 900]
    for row in document["rows"]:
        assert row["history_tokens"] <= row["read_tokens"] < row["history_tokens"] + 300
        for what in ("ms_per_token", "add_ms", "reopen_ms", "sleep_ms", "read_seconds", "archive_bytes"):
            assert row[what] > 0, what
    assert document["state_bytes_equal"]
    assert document["rows"][0]["state_bytes"] == document["rows"][1]["state_bytes"] > 0
    assert (document["window"], document["passes"], document["tokens"]) == (96, 2, 48)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_ratios_are_the_longest_history_over_the_shortest_in_whatever_order(model: Path) -> None:
    document = bench_wake(model, history=(600, 100, 300), tokens=16)
    long, short, _ = document["rows"]
    for ratio, value in (
        ("ratio", "ms_per_token"),
        ("add_ratio", "add_ms"),
        ("reopen_ratio", "reopen_ms"),
        ("sleep_ratio", "sleep_ms"),
    ):
        assert document[ratio] == long[value] / short[value]
    assert [bar["bar"] for bar in document["bars"]] == ["ratio", "add_ratio", "reopen_ratio"]
    for bar in document["bars"]:
        assert bar["ratio"] == document[bar["bar"]]
        assert bar["passed"] == (bar["ratio"] <= bar["most"])


def test_the_sides_take_turns_with_equally_full_windows(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, int, int]] = []
    generate = Session.generate

    def noted(session: Session, **settings: Any) -> Any:
        written.append((session.id, session.window_tokens, settings["max_new_tokens"]))
        return generate(session, **settings)

    monkeypatch.setattr(Session, "generate", noted)
    bench_wake(model, history=(100, 400), tokens=100)
    pairs = list(zip(written[::2], written[1::2], strict=True))
    assert sum(first[2] for first, _ in pairs) >= 100 + wake.WARM * wake.TURN
    assert len({first[0] for first, _ in pairs}) == 2  # who begins alternates
    for first, second in pairs:
        assert first[0] != second[0]
        assert first[1:] == second[1:]
    assert len({fill for (_, fill, _), _ in pairs}) >= wake.FILLS  # at different fills of the window


def test_no_sleep_falls_into_a_timed_turn(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: set[str] = set()
    generate = Session.generate

    def noted(session: Session, **settings: Any) -> Any:
        before = session.head
        answer = generate(session, **settings)
        assert session.head == before
        reasons.update(snapshot.trigger for snapshot in session.history()[-3:])
        return answer

    monkeypatch.setattr(Session, "generate", noted)
    bench_wake(model, history=(100, 400), tokens=64)
    assert reasons <= {"asked", "overflow"}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"history": (1000,)}, r"history is \[1000\]; give at least two"),
        ({"history": (1000, 1000)}, "two different numbers"),
        ({"history": (0, 1000)}, "history is 0"),
        ({"tokens": 0}, "tokens is 0"),
        ({"passes": 0}, "passes is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_settings_out_of_range(model: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        bench_wake(model, **{"history": (10, 20), **settings})


def test_a_missing_model_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(CheckpointMissing, match="no checkpoint at"):
        bench_wake(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_waking_does_not_feel_a_long_history(model: Path) -> None:
    document = bench_wake(model, history=(1_000, 15_000), tokens=800)  # many: the machine may be busy
    assert document["state_bytes_equal"]
    assert all(bar["passed"] for bar in document["bars"]), document["bars"]
