"""What changed between two states: against changes that are known."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from agentsleep.compare import Change, compare
from agentsleep.errors import InputError
from agentsleep.gauge import effective_rank, written
from agentsleep.state import FastWeights

NOTHING = Change(norm_a=0.0, norm_b=0.0, norm_change=0.0, relative=0.0, cosine=1.0, rank=0.0)


def state(**layers: Tensor) -> FastWeights:
    """Recurrent states by layer, such as ``l3=...``."""
    return FastWeights({f"layers.{name[1:]}.recurrent": tensor for name, tensor in layers.items()})


def diagonal(*values: float) -> Tensor:
    return torch.diag(torch.tensor(values))


def heads(*matrices: Tensor) -> Tensor:
    """``[1, H, K, V]``."""
    return torch.stack(matrices)[None]


def test_each_head_of_a_known_change() -> None:
    a = state(l2=heads(diagonal(3.0, 0.0), diagonal(1.0, 1.0), diagonal(2.0, 0.0)))
    b = state(l2=heads(diagonal(3.0, 4.0), diagonal(1.0, 1.0), diagonal(-2.0, 0.0)))
    (layer,) = compare(a, b).layers
    assert (layer.layer, layer.part, layer.label) == (2, 0, "2")
    first, second, third = layer.heads
    assert vars(first) == pytest.approx(
        {"norm_a": 3.0, "norm_b": 5.0, "norm_change": 4.0, "relative": 0.8, "cosine": 0.6, "rank": 0.5}
    )
    assert (second.norm_change, second.relative, second.rank) == (0.0, 0.0, 0.0)
    assert second.cosine == pytest.approx(1.0)
    assert second.cosine <= 1.0
    assert (third.norm_change, third.relative) == (4.0, 2.0)
    assert third.cosine == pytest.approx(-1.0)
    assert third.cosine >= -1.0


def test_totals_are_over_all_heads_of_a_layer_and_of_the_state() -> None:
    a = state(l0=torch.randn(1, 2, 4, 6), l11=torch.randn(1, 3, 4, 4), l3=torch.randn(1, 1, 2, 2))
    b = state(l0=torch.randn(1, 2, 4, 6), l11=torch.randn(1, 3, 4, 4), l3=torch.randn(1, 1, 2, 2))
    diff = compare(a, b)
    assert [layer.layer for layer in diff.layers] == [0, 3, 11]
    assert (diff.total.norm_a, diff.total.norm_b) == pytest.approx((a.norm(), b.norm()))
    flat_a, flat_b = (torch.cat([t.double().flatten() for t in x.values()]) for x in (a, b))
    assert diff.total.norm_change == pytest.approx(float((flat_b - flat_a).norm()))
    assert diff.total.cosine == pytest.approx(float(torch.cosine_similarity(flat_a, flat_b, dim=0)))
    assert {layer.layer: layer.total.relative for layer in diff.layers} == pytest.approx(written(a, b))
    ranks = []
    for layer in diff.layers:
        name = f"layers.{layer.layer}.recurrent"
        expected = effective_rank(b[name].double() - a[name].double())[0].tolist()
        assert [head.rank for head in layer.heads] == pytest.approx(expected)
        assert layer.total.rank == pytest.approx(sum(expected) / len(expected))
        ranks += expected
    assert diff.total.rank == pytest.approx(sum(ranks) / 6)


def test_what_is_missing_is_zero() -> None:
    some = state(l1=heads(diagonal(1.0, 2.0)))
    (made,) = compare(FastWeights(), some).layers
    assert (made.total.relative, made.total.cosine) == (1.0, 0.0)
    (lost,) = compare(some, FastWeights()).layers
    assert (lost.total.relative, lost.total.cosine) == (math.inf, 0.0)
    assert lost.total.norm_change == made.total.norm_change == pytest.approx(math.sqrt(5))
    zeros = state(l1=torch.zeros(1, 1, 2, 2))
    assert compare(zeros, FastWeights()).layers[0].heads == (NOTHING,)
    empty = compare(FastWeights(), FastWeights())
    assert (empty.layers, empty.total, empty.others, empty.same) == ((), NOTHING, {}, True)
    assert compare(state(l1=torch.zeros(1, 0, 2, 2)), FastWeights()).layers == ()


def test_same_means_every_tensor() -> None:
    some = state(l1=torch.randn(1, 2, 3, 3)).merged({"layers.1.conv": torch.randn(1, 4, 3)})
    assert compare(some, some.clone()).same
    assert not compare(some, some.merged({"layers.1.conv": some["layers.1.conv"] + 1})).same
    assert not compare(some, some.merged({"layers.1.recurrent": some["layers.1.recurrent"] * 1.001})).same
    flags = {"layers.2.seen": torch.tensor([[True, False]])}
    assert not compare(some.merged(flags), some).same


def test_what_is_not_recurrent_is_one_number_each() -> None:
    a = FastWeights(
        {
            "layers.0.conv": torch.tensor([[[1.0, -2.0]]]),
            "layers.1.keys": torch.ones(1, 2, 3, 4),
            "layers.1.seen": torch.tensor([[True, False]]),
            "window.position": torch.tensor(7),
        }
    )
    b = a.merged(
        {
            "layers.0.conv": torch.tensor([[[1.5, 2.0]]]),
            "layers.1.seen": torch.tensor([[True, True]]),
            "layers.1.values": torch.full((1, 2, 3, 4), -3.0),
            "window.position": torch.tensor(12),
        }
    )
    diff = compare(a, b)
    assert diff.layers == ()
    assert diff.others == {
        "layers.0.conv": 4.0,
        "layers.1.keys": 0.0,
        "layers.1.seen": 1.0,
        "layers.1.values": 3.0,
        "window.position": 5.0,
    }
    assert isinstance(hash(diff), int)


def test_keys_of_a_shorter_window_are_compared_from_the_newest() -> None:
    longer = torch.randn(1, 2, 5, 4)
    longer[:, :, 0] = 9.0
    a, b = FastWeights({"layers.1.keys": longer}), FastWeights({"layers.1.keys": longer[:, :, 2:]})
    assert compare(a, b).others == compare(b, a).others == {"layers.1.keys": 9.0}
    assert compare(b, b).others == {"layers.1.keys": 0.0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_any_precision_in_or_out_of_a_graph(dtype: torch.dtype) -> None:
    leaf = torch.eye(4, dtype=dtype)[None, None].requires_grad_()
    before = leaf.detach().clone()
    one = FastWeights({"layers.0.recurrent": leaf, "layers.0.conv": torch.full((1, 2, 3), 1.0, dtype=dtype)})
    other = FastWeights({"layers.0.recurrent": leaf.detach().float() * 3, "layers.0.conv": torch.full((1, 2, 3), 1.25)})
    diff = compare(one, other)
    assert (diff.total.norm_change, diff.total.rank) == pytest.approx((4.0, 1.0))
    assert diff.others == {"layers.0.conv": 0.25}
    assert torch.equal(leaf.detach(), before)
    assert leaf.grad is None


def test_small_differences_of_bf16_are_not_rounded() -> None:
    a = FastWeights({"layers.0.conv": torch.full((1, 1, 1), 256.0, dtype=torch.bfloat16)})
    b = FastWeights({"layers.0.conv": torch.full((1, 1, 1), 0.5, dtype=torch.bfloat16)})
    assert compare(a, b).others == {"layers.0.conv": 255.5}  # bf16 has no 255.5


def test_tiny_and_huge_numbers_of_fp32_have_a_cosine() -> None:
    tiny, huge = state(l0=torch.full((1, 1, 2, 2), 1e-40)), state(l0=torch.full((1, 1, 2, 2), 3e38))
    total = compare(tiny, huge).total
    assert total.cosine == pytest.approx(1.0)
    assert total.relative == pytest.approx(1.0)
    assert math.isfinite(compare(huge, tiny).total.relative)


@pytest.mark.parametrize("shape", [(1, 12, 5), (1, 12)])
def test_a_state_without_heads_is_one(shape: tuple[int, ...]) -> None:
    """Mamba-1 keeps ``[B, D, N]``."""
    a, b = torch.randn(shape), torch.randn(shape)
    flat = compare(state(l4=a), state(l4=b))
    padded = (1, 1, *shape[1:]) if len(shape) == 3 else (1, 1, 1, shape[1])
    several = compare(state(l4=a.reshape(padded)), state(l4=b.reshape(padded)))
    assert flat == several
    assert len(flat.layers[0].heads) == 1


def test_several_states_of_a_layer_are_told_apart() -> None:
    one = FastWeights({"layers.3.recurrent": torch.ones(1, 1, 2, 2), "layers.3.1.recurrent": torch.ones(1, 2, 2, 2)})
    diff = compare(FastWeights(), one)
    assert [(layer.label, len(layer.heads)) for layer in diff.layers] == [("3", 1), ("3.1", 2)]


def test_rows_and_json() -> None:
    a = state(l2=torch.randn(1, 2, 3, 3), l5=torch.ones(1, 1, 3, 3)).merged({"layers.2.conv": torch.ones(1, 2, 2)})
    b = state(l2=torch.randn(1, 2, 3, 3))
    diff = compare(a, b)
    rows = diff.as_rows()
    assert [(row["layer"], row["part"], row["head"]) for row in rows] == [(2, 0, 0), (2, 0, 1), (5, 0, 0)]
    assert rows[1]["cosine"] == diff.layers[0].heads[1].cosine
    assert rows[2]["relative"] is None  # infinite: nothing is left of it
    document = json.loads(json.dumps(diff.as_json(), allow_nan=False))
    assert document["same"] is False
    assert document["total"]["norm_b"] == diff.total.norm_b
    assert [len(layer["heads"]) for layer in document["layers"]] == [2, 1]
    assert document["layers"][1]["total"]["relative"] is None
    assert document["others"] == {"layers.2.conv": 1.0}


@pytest.mark.parametrize("name", ["layers.7.recurrent", "layers.7.conv", "layers.7.keys"])
def test_states_of_two_models_are_not_compared(name: str) -> None:
    one, other = FastWeights({name: torch.ones(1, 2, 4, 4)}), FastWeights({name: torch.ones(1, 1, 4, 4)})
    with pytest.raises(InputError, match=r"layer 7 .*\(1, 2, 4, 4\) in the first state and \(1, 1, 4, 4\) in the sec"):
        compare(one, other)


def test_one_row_of_a_batch_at_a_time() -> None:
    batch = state(l1=torch.randn(2, 2, 3, 3))
    with pytest.raises(InputError, match=r"layer 1 .*\(2, 2, 3, 3\).*one row of a batch at a time"):
        compare(batch, batch)
    row = batch.rows(torch.tensor([1]))
    assert compare(row, row).same
    odd = state(l1=torch.randn(1, 2, 3, 3, 3))
    with pytest.raises(InputError, match=r"layer 1 .*\(1, 2, 3, 3, 3\)"):
        compare(odd, odd)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("name", ["layers.1.recurrent", "layers.1.conv"])
def test_what_is_not_finite_is_named(name: str, bad: float) -> None:
    good = FastWeights({name: torch.ones(1, 2, 3, 3)})
    damaged = good.clone()
    damaged[name][0, 1, 2, 0] = bad
    with pytest.raises(InputError, match=r"layer 1 .*of the second state holds NaN or Inf; restore another snapshot"):
        compare(good, damaged)
    with pytest.raises(InputError, match="of the first state"):
        compare(damaged, good)
