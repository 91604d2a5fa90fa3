"""``agentsleep train transcripts``: from a JSONL file to a memory that is served."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentsleep.conformance.families import make_model
from agentsleep.memory import SleepMemory
from tests.chats.families import tokenizer
from tests.tasks.test_transcripts import conversation, write


@pytest.fixture
def model(tmp_path: Path) -> Path:
    out = tmp_path / "qwen"
    make_model("qwen3_5", vocab_size=len(tokenizer("qwen3"))).save_pretrained(out)
    tokenizer("qwen3").save_pretrained(out)
    return out


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write(tmp_path / "t.jsonl", *[conversation(3 + i, tools=False) for i in range(4)])


def test_from_transcripts_to_a_served_memory(cli, model: Path, data: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    cli("train", "transcripts", "--data", data, "--init", model, "--window", 128, "--steps", 2, "--out", run)
    record = json.loads((run / "record.json").read_text())
    assert record["task"] == "transcripts"
    assert record["config"]["task"] == {"path": data, "tokenizer": str(model), "window": 128}
    (row,) = [row for row in record["evaluation"]["results"] if row["passes"] == 2]
    assert row["questions"] >= 400
    with SleepMemory(run / "model", archive=":memory:") as memory:
        assert memory.backend.settings.window == 128
        assert memory.backend.settings.trained
        with memory.session("t", system="be brief .") as session:
            for i in range(6):
                session.add("user", f"who is p{i} ?")
            assert session.ask("well ?", max_new_tokens=4).tokens == 4
            assert session.stats().snapshots > 0
    cli("train", "transcripts", "--resume", "--steps", 3, "--out", run)
    assert json.loads((run / "record.json").read_text())["steps"] == 3


def test_what_it_needs_is_said(cli, model: Path, data: str, tmp_path: Path) -> None:
    complaint = cli.complaint("train", "transcripts", "--init", model, "--out", tmp_path / "run")
    assert "transcripts want --data: agentsleep train transcripts --data FILE.jsonl" in complaint
    complaint = cli.complaint("train", "transcripts", "--out", tmp_path / "run")
    assert "transcripts want --data and --init" in complaint
    complaint = cli.complaint("train", "depo", "--data", data, "--out", tmp_path / "run")
    assert "--data and --window belong to 'transcripts', not to depo" in complaint
    bad = write(tmp_path / "bad.jsonl", "{")
    complaint = cli.complaint("train", "transcripts", "--data", bad, "--init", model, "--out", tmp_path / "run")
    assert "line 1 of" in complaint
    assert not (tmp_path / "run").exists()
