from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentsleep.bench import turn
from agentsleep.bench.turn import BAR, PLAIN, bench_turn, make_model
from agentsleep.errors import CheckpointMissing, SettingsError
from agentsleep.memory import Answer, Session, SleepMemory
from tests.agent_model import save_agent_model

KINDS = ["session, NORMAL", "session, FULL", PLAIN]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A window of 96 tokens."""
    return save_agent_model(tmp_path_factory.mktemp("untrained"))


def test_three_kinds_are_timed_on_the_same_tokens(model: Path) -> None:
    parts: list[float] = []
    document = bench_turn(model, prefill=40, tokens=4, repeats=3, progress=parts.append)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert [row["turn"] for row in document["rows"]] == KINDS
    for row in document["rows"]:
        assert row["ms"] > 0
        assert row["cpu_ms"] > 0
        assert row["ratio"] == pytest.approx(row["ms"] / document["rows"][-1]["ms"])
        assert (row["read_ms"] is None) == (row["turn"] == PLAIN)
        assert row["read_ms"] is None or 0 < row["read_ms"] < row["ms"]
    assert document["ratio"] == document["rows"][0]["ratio"]
    assert [bar["bar"] for bar in document["bars"]] == KINDS[:2]
    assert all(bar["passed"] == (bar["ratio"] <= BAR) for bar in document["bars"])
    assert document["same_tokens"] is True
    assert document["counted"] == document["repeats"] == 3
    assert 40 <= document["prefill"] < 60
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_who_begins_changes_and_the_archives_differ(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    begin, plain = turn._turn, turn._plain

    def noted(memory: SleepMemory, *rest: Any) -> Any:
        order.append(memory.archive._db.synchronous)
        return begin(memory, *rest)

    def noted_plain(*rest: Any) -> Any:
        order.append(PLAIN)
        return plain(*rest)

    monkeypatch.setattr(turn, "_turn", noted)
    monkeypatch.setattr(turn, "_plain", noted_plain)
    bench_turn(model, prefill=20, tokens=3, repeats=2)
    assert order == ["NORMAL", "FULL", PLAIN, "FULL", PLAIN, "NORMAL", PLAIN, "NORMAL", "FULL"]


def test_a_turn_is_one_message_and_one_answer_on_disk_without_a_sleep(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str | None], bool]] = []
    close = Session.close

    def noted(session: Session) -> None:
        seen.append(([event.role for event in session.messages()], session.head is None))
        close(session)

    monkeypatch.setattr(Session, "close", noted)
    bench_turn(model, prefill=20, tokens=3, repeats=1)
    assert seen == [(["user"], True), *[(["user", "assistant"], True)] * 4]


def test_turns_that_ended_elsewhere_are_no_pairs(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate = Session.generate
    calls: list[int] = []

    def shorter(session: Session, *, max_new_tokens: int) -> Answer:
        calls.append(1)
        return generate(session, max_new_tokens=max_new_tokens - (len(calls) == 3))

    monkeypatch.setattr(Session, "generate", shorter)
    document = bench_turn(model, prefill=20, tokens=4, repeats=2)
    assert (document["counted"], document["same_tokens"]) == (1, False)
    monkeypatch.setattr(Session, "generate", lambda session, *, max_new_tokens: generate(session, max_new_tokens=2))
    with pytest.raises(SettingsError, match="never wrote equally many of 4 tokens"):
        bench_turn(model, prefill=20, tokens=4, repeats=1)


def test_the_model_that_is_made_never_ends_early_and_is_the_same_for_a_seed(tmp_path: Path) -> None:
    with SleepMemory(make_model(tmp_path / "a"), archive=":memory:") as memory:
        assert len(memory.backend.tokenizer) == memory.backend.config.vocab_size == 2048
        assert memory.backend.settings.window == 512
        assert len(memory.chat.message("user", "babababa bababako")) == 4  # a token a word
        with memory.session() as session:
            session.add("user", "babababa")
            answer = session.generate(max_new_tokens=5)
        assert (answer.tokens, answer.finished) == (5, False)
        fingerprint = memory.fingerprint
    with SleepMemory(make_model(tmp_path / "b"), archive=":memory:") as again:
        assert again.fingerprint == fingerprint


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"prefill": 7}, "prefill is 7"),
        ({"tokens": 1}, "tokens is 1"),
        ({"repeats": 0}, "repeats is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"prefill": 60, "tokens": 64}, "does not fit into the window of 96"),
    ],
)
def test_settings_out_of_range(model: Path, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        bench_turn(model, **{"prefill": 20, "tokens": 3, "repeats": 1, **settings})


def test_a_missing_model_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(CheckpointMissing, match="no checkpoint at"):
        bench_turn(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_session_is_hardly_slower_than_generate() -> None:
    document = bench_turn(repeats=9)
    assert document["same_tokens"]
    normal, *_ = document["rows"]
    # CPU time, which other work on the machine disturbs less than the clock; on a busy one this may still fail.
    assert normal["cpu_ratio"] <= BAR
