"""FLOPs as they are counted, against what a block must cost."""

from __future__ import annotations

import pytest

from agentsleep.reproduce.flops import sleep_flops, training_flops
from tests.tiny import tiny


@pytest.mark.parametrize("pattern", ["as", "aa", "ss", "asas"])
def test_every_pass_costs_the_same(pattern) -> None:
    model = tiny(pattern)
    one = sleep_flops(model, 24, 1)
    assert one > 0
    assert [sleep_flops(model, 24, n) for n in (2, 4, 8)] == [2 * one, 4 * one, 8 * one]


def test_more_layers_and_more_tokens_cost_more() -> None:
    assert sleep_flops(tiny("asas"), 24, 1) == 2 * sleep_flops(tiny("as"), 24, 1)
    model = tiny("ssss")
    assert sleep_flops(model, 48, 1) > sleep_flops(model, 24, 1)


def test_flops_of_a_block_by_hand() -> None:
    """Its matrices, 2 FLOPs a weight and token, and what lies between them."""
    model = tiny("a")
    matrices = sum(p.numel() for name, p in model.named_parameters() if name.startswith("layers.") and p.ndim == 2)
    scores = 2 * 2 * 24 * 24 * 16  # two products [T, T] x D; of the causal half all is counted
    assert sleep_flops(model, 24, 1) == 2 * 24 * matrices + scores


def test_flops_of_training() -> None:
    model = tiny("as")
    assert training_flops(model, 240, 24) == 30 * sleep_flops(model, 24, 1)
    assert training_flops(model, 0, 24) == 0
