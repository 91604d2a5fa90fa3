"""``agentsleep bench ops``."""

from __future__ import annotations

import json


def test_ops_as_one_document(cli) -> None:
    result = cli("bench", "ops", "--lengths", "16", "--repeats", 1, "--json")
    rows = json.loads(result.stdout)["rows"]
    assert {(row["mode"], row["rule"], row["B"], row["T"]) for row in rows} == {
        (mode, rule, 1, 16) for mode in ("fwd", "fwd+bwd") for rule in ("delta", "hebbian")
    }
    assert all(row["tokens_per_s"] > 0 and row["ratio"] > 0 for row in rows)
    assert len(result.stderr.splitlines()) == len(rows)  # progress


def test_ops_for_a_reader(cli, monkeypatch) -> None:
    from agentsleep.bench import ops

    row = {"mode": "fwd", "rule": "delta", "B": 1, "T": 64, "tokens_per_s": 12345.6, "ratio": 1.678}
    monkeypatch.setattr(ops, "bench_ops", lambda **settings: {"rows": [row]})
    shown = cli("bench", "ops").stdout
    assert "12,346" in shown
    assert "1.68" in shown


def test_mistakes(cli) -> None:
    assert "--lengths is 'long'" in cli.complaint("bench", "ops", "--lengths", "long")
    assert "repeats is 0" in cli.complaint("bench", "ops", "--repeats", 0)
