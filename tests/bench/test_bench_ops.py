"""What the benchmark of the rules reports, and that it compares like with like."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from agentsleep.bench import ops as bench
from agentsleep.bench.ops import bench_ops
from agentsleep.errors import SettingsError


def test_report() -> None:
    lines: list[str] = []
    before = torch.get_num_threads()
    report = bench_ops(lengths=(8, 20), repeats=1, threads=1, progress=lines.append)
    assert set(report) == {"rows", "torch", "threads", "reference"}
    assert report["torch"] == torch.__version__
    assert report["threads"] == 1
    assert "transformers" in report["reference"]
    rows = report["rows"]
    assert {(row["rule"], row["mode"], row["T"]) for row in rows} == {
        (rule, mode, length) for rule in ("delta", "hebbian") for mode in ("fwd", "fwd+bwd") for length in (8, 20)
    }
    assert len(rows) == len(lines) == 8
    for row in rows:
        assert set(row) == {"mode", "rule", "B", "T", "tokens_per_s", "ratio"}
        assert row["B"] == 1
        assert row["tokens_per_s"] > 0
        assert row["ratio"] > 0
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("rule", ["delta", "hebbian"])
def test_both_sides_compute_the_same(rule: str) -> None:
    ours, reference, make = bench._rules()[rule]
    inputs = make(70)
    results = []
    for form in (ours, reference):
        outputs = form(*inputs)
        results.append((outputs, *torch.autograd.grad(outputs.square().sum(), inputs)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lengths": ()}, "no length"),
        ({"lengths": (8, 0)}, "length is 0"),
        ({"repeats": 0}, "repeats is 0"),
        ({"threads": -1}, "threads is -1"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        bench_ops(**settings)


def test_threads_are_set_back_after_a_failure() -> None:
    before = torch.get_num_threads()

    def fail(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="delta fwd T=8"):
        bench_ops(lengths=(8,), repeats=1, threads=before + 1, progress=fail)
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_the_delta_rule_beats_the_torch_path_of_transformers() -> None:
    rows = [row for row in bench_ops(lengths=(1024,))["rows"] if row["rule"] == "delta"]
    assert len(rows) == 2
    assert all(row["ratio"] >= 1.5 for row in rows), rows
