"""``agentsleep bench agent``, whole and in small; the bars in a slow test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentsleep.cli import app
from langchain_agentsleep.bench import bench_agent

FEW = ("--dialogues", "1", "--questions", "1", "--depths", "1,3", "--passes", "4", "--turns", "3")
ARMS = ["sleep-4", "trim", "summary", "summary-oracle", "retrieval", "retrieval-iterated", "full"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["bench", "agent", *arguments])


def test_one_document_and_a_picture(tmp_path: Path) -> None:
    picture = tmp_path / "agent.png"
    result = run(*FEW, "--json", "--png", str(picture))
    assert result.exit_code == 0, (result.stderr, result.exception)
    found = json.loads(result.stdout)
    assert found["command"] == " ".join(["agentsleep bench agent", *FEW, "--json --png", str(picture)])
    assert [row["arm"] for row in found["costs"]] == ARMS
    assert {(row["arm"], row["depth"]) for row in found["accuracy"]} == {
        (arm, depth) for arm in [*ARMS, "facts-alone"] for depth in (1, 3)
    }
    assert {row["questions"] for row in found["accuracy"]} == {1}
    by_arm = {row["arm"]: row for row in found["costs"]}
    assert by_arm["full"]["wake_tokens"] > by_arm["sleep-4"]["wake_tokens"] > 0
    right = {(row["arm"], row["depth"]): row["right"] for row in found["accuracy"]}
    assert right["sleep-4", 1] == right["retrieval", 1] == 1  # they know a single fact, and trimming has lost it
    assert right["trim", 1] == 0
    assert [row["bar"] for row in found["bars"]][1:] == ["sleep-4, wake tokens a turn, end over beginning"]
    assert {"window", "seed", "fingerprint", "machine", "threads", "notes"} <= set(found)
    assert {"langchain", "langgraph", "bm25s", "torch", "processor"} <= set(found["machine"])
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_table_for_a_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain_agentsleep.bench import measure

    row = {"arm": "trim", "depth": 3, "right": 1, "questions": 2, "accuracy": 0.5, "interval": [0.25, 0.75]}
    keys = ("ms", "mean_ms", "ratio", "wake_tokens", "sleep_tokens", "probe_tokens", "tokens", "first", "last")
    cost = {"arm": "trim", **dict.fromkeys(keys, 12.345), "ends": 20, "calls": None, "listed": 9}
    bar = {"bar": "a bar", "value": 0.25, "interval": [-0.1, 0.6], "need": "above 0", "passed": False}
    document = {"arms": [{"arm": "trim", "what": "trim_messages"}], "accuracy": [row], "costs": [cost], "bars": [bar]}
    document |= {"questions": 2, "depths": [3], "turns": 100, "notes": ["a note"]}
    monkeypatch.setenv("COLUMNS", "200")  # so that no cell is broken, however wide the terminal is
    monkeypatch.setattr(measure, "bench_agent", lambda *model, **settings: document)
    shown = run().stdout
    for text in (
        "trim_messages",
        "0.500",
        "0.250–0.750",
        "12.3",
        "first 20",
        "a bar: 0.250 (-0.100 to +0.600)",
        "missed",
    ):
        assert text in shown, text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--passes", "none"), "--passes is 'none'"),
        (("--dialogues", "0"), "dialogues is 0"),
        (("--questions", "13"), "questions is 13; it must lie in 1..12"),
        (("--depths", "9"), "depths are [9]; the vocabulary has 1..8"),
        (("--turns", "1"), "turns is 1"),
        (("--seed", "-1"), "seed is -1"),
        (("--png", "/no/such/folder/x.png"), "make it first"),
        (("--model", "/none"), "no checkpoint at /none"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], says: str) -> None:
    result = run(*FEW, *arguments)
    assert result.exit_code == 2, (result.stdout, result.exception)
    assert result.stdout == ""
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_model_of_other_words_is_refused(tmp_path: Path) -> None:
    from agentsleep.chat import CHAT_TEMPLATE
    from agentsleep.models.nap import NapConfig, NapForCausalLM
    from agentsleep.tokens import build_tokenizer

    tokenizer = build_tokenizer([" other", " words"], CHAT_TEMPLATE)
    config = NapConfig(
        pattern="as",
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_attention_heads=2,
        linear_num_heads=2,
        linear_key_head_dim=4,
        linear_value_head_dim=4,
    )
    NapForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    result = run(*FEW, "--model", str(tmp_path))
    assert result.exit_code == 2
    assert "does not speak rota's English" in result.stderr


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_bars() -> None:
    """At the depths that the shipped model was trained to: its curriculum ends at 4."""
    found = bench_agent(passes=(4,), dialogues=20, questions=6, depths=(3, 4), turns=100, seed=11)
    assert [row["passed"] for row in found["bars"]] == [True, True, True], found["bars"]
    growth = {row["arm"]: row["growth"] for row in found["costs"]}
    assert growth["full"] > 3
