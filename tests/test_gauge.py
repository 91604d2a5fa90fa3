"""How full a state is, and where a sleep has written: against spectra that are known."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from agentsleep.errors import InputError
from agentsleep.gauge import LayerGauge, Saturation, effective_rank, saturation, written
from agentsleep.state import FastWeights


def matrix(*spectrum: float, rows: int = 0, columns: int = 0) -> Tensor:
    """A matrix ``[rows, columns]`` in fp64 with these singular values, turned at random."""
    rows, columns = rows or len(spectrum), columns or len(spectrum)
    left = torch.linalg.qr(torch.randn(rows, rows).double())[0][:, : len(spectrum)]
    right = torch.linalg.qr(torch.randn(columns, columns).double())[0][: len(spectrum)]
    return left * torch.tensor(spectrum).double() @ right


def layer(index: int, *heads: Tensor) -> dict[str, Tensor]:
    """S of one layer, batch 1."""
    return {FastWeights.name(index, "recurrent"): torch.stack(heads)[None]}


@pytest.mark.parametrize(
    ("spectrum", "directions"),
    [
        ((1.0, 1.0, 1.0, 1.0), 4.0),
        ((3.0, 0.0, 0.0, 0.0), 1.0),
        ((2.0, 2.0, 0.0, 0.0), 2.0),
        # shares of energy 0.36 and 0.64
        ((3.0, 4.0, 0.0, 0.0), math.exp(-0.36 * math.log(0.36) - 0.64 * math.log(0.64))),
        ((0.0, 0.0, 0.0, 0.0), 0.0),
    ],
)
@pytest.mark.parametrize("shape", [(4, 4), (4, 7), (9, 4)])
def test_known_spectra(spectrum: tuple[float, ...], directions: float, shape: tuple[int, int]) -> None:
    found = effective_rank(matrix(*spectrum, rows=shape[0], columns=shape[1]))
    assert found.shape == ()
    assert float(found) == pytest.approx(directions / 4, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1e150, 1e300])
def test_scale_does_not_count(scale: float) -> None:
    some = matrix(1.0, 2.0, 3.0)
    assert float(effective_rank(some * scale)) == pytest.approx(float(effective_rank(some)), abs=1e-9)


def test_it_lies_between_zero_and_one_for_each_matrix() -> None:
    many = torch.randn(3, 2, 5, 6)
    many[1, 1] = 0
    ranks = effective_rank(many)
    assert (ranks.shape, ranks.dtype) == ((3, 2), torch.float64)
    assert float(ranks[1, 1]) == 0.0
    assert int((ranks > 1 / 5).sum()) == 5
    assert float(ranks.max()) <= 1.0
    assert float(effective_rank(torch.eye(7))) <= 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_has_no_rank(bad: float) -> None:
    some = torch.ones(1, 2, 3, 3)
    some[0, 1, 2, 0] = bad
    with pytest.raises(InputError, match=r"NaN or Inf have no effective rank; restore another snapshot"):
        saturation(FastWeights({"layers.1.recurrent": some}))


def test_saturation_by_layer_and_overall() -> None:
    tensors = layer(11, matrix(3.0, 0.0)) | layer(2, matrix(1.0, 1.0), torch.zeros(2, 2).double())
    gauge = saturation(FastWeights({**tensors, "layers.2.conv": torch.full((1, 3, 3), 100.0)}))
    assert list(gauge.layers) == [2, 11]
    assert gauge.layers[2].heads == pytest.approx((1.0, 0.0))
    assert gauge.layers[2].rank == pytest.approx(0.5)
    assert gauge.layers[2].norm == pytest.approx(math.sqrt(2))
    assert gauge.layers[11].heads == (gauge.layers[11].rank,) == pytest.approx((0.5,))
    assert gauge.layers[11].norm == pytest.approx(3.0)
    assert gauge.overall == pytest.approx((1.0 + 0.0 + 0.5) / 3)  # every head counts once
    assert isinstance(hash(gauge), int)


def test_the_empty_memory() -> None:
    assert saturation(FastWeights()) == Saturation(overall=0.0, layers={})
    zeros = FastWeights({"layers.0.recurrent": torch.zeros(2, 3, 4, 5)})
    assert saturation(zeros).overall == 0.0
    assert saturation(zeros).layers[0] == LayerGauge(rank=0.0, norm=0.0, heads=(0.0, 0.0, 0.0))
    assert saturation(FastWeights({"layers.0.recurrent": torch.zeros(0, 3, 4, 5)})).layers == {}


def test_a_batch_is_averaged() -> None:
    rows = [FastWeights(layer(1, matrix(1.0, 1.0), matrix(5.0, 0.0))), FastWeights(layer(1, *torch.zeros(2, 2, 2)))]
    batch = FastWeights({"layers.1.recurrent": torch.cat([row["layers.1.recurrent"] for row in rows])})
    gauge, alone = saturation(batch), saturation(rows[0])
    assert gauge.overall == pytest.approx(alone.overall / 2)
    assert gauge.layers[1].heads == pytest.approx([rank / 2 for rank in alone.layers[1].heads])
    assert gauge.layers[1].norm == pytest.approx(alone.layers[1].norm / 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_any_precision_in_or_out_of_a_graph(dtype: torch.dtype) -> None:
    leaf = torch.eye(4, dtype=dtype)[None, None].requires_grad_()
    before = leaf.detach().clone()
    state = FastWeights({"layers.0.recurrent": leaf * 2})
    assert saturation(state).overall == pytest.approx(1.0)
    assert written(FastWeights(), state) == {0: 1.0}
    assert torch.equal(leaf.detach(), before)
    assert leaf.grad is None


def test_what_was_written() -> None:
    some = FastWeights(layer(3, matrix(1.0, 2.0)) | layer(12, matrix(2.0, 2.0)) | layer(4, torch.zeros(2, 2)))
    more = some.merged({"layers.3.recurrent": some["layers.3.recurrent"] * 2})
    assert written(FastWeights(), some) == {3: 1.0, 4: 0.0, 12: 1.0}
    assert written(some, some) == {3: 0.0, 4: 0.0, 12: 0.0}
    assert written(some, more) == {3: pytest.approx(0.5), 4: 0.0, 12: 0.0}
    assert written(more, some) == {3: pytest.approx(1.0), 4: 0.0, 12: 0.0}
    assert list(written(FastWeights(), some)) == [3, 4, 12]
    lost = FastWeights({"layers.3.recurrent": torch.zeros(1, 1, 2, 2)})
    assert written(some, lost) == {3: math.inf, 4: 0.0, 12: math.inf}
    assert written(FastWeights(), FastWeights()) == {}
    assert written(FastWeights(), FastWeights({"layers.3.conv": torch.ones(1, 2, 2)})) == {}


def test_what_was_written_in_a_batch_is_averaged() -> None:
    before = torch.ones(2, 1, 2, 2)
    after = before.clone()
    after[1] *= 2
    (change,) = written(
        FastWeights({"layers.0.recurrent": before}), FastWeights({"layers.0.recurrent": after})
    ).values()
    assert change == pytest.approx(0.25)  # 0 and 0.5


def test_states_of_two_models_are_not_compared() -> None:
    one = FastWeights({"layers.0.recurrent": torch.ones(1, 2, 4, 4)})
    other = FastWeights({"layers.0.recurrent": torch.ones(2, 2, 4, 4)})
    with pytest.raises(InputError, match=r"layer 0 is \(1, 2, 4, 4\) before and \(2, 2, 4, 4\) after"):
        written(one, other)


def test_a_state_without_heads_is_one_matrix() -> None:
    """Mamba-1 keeps ``[B, D, N]``."""
    flat = torch.randn(2, 12, 5)
    one, several = FastWeights({"layers.0.recurrent": flat}), FastWeights({"layers.0.recurrent": flat[:, None]})
    assert saturation(one) == saturation(several)
    assert written(FastWeights(), one) == {0: 1.0}
