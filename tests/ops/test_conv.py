"""The causal convolution against torch's own, its tail, and its mask."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from agentsleep.errors import InputError
from agentsleep.ops import causal_conv1d

MASKS = {
    "right": [[1, 1, 1, 1, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1]],
    "middle": [[1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1]],
    "empty row": [[0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]],
    "nothing": [[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
}


def make(length: int, *, width: int = 4, batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, weight, bias, tail with five channels, all leaves."""
    shapes = ((batch, length, 5), (5, width), (5,), (batch, 5, width - 1))
    return [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]


def reference(x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor) -> tuple[Tensor, Tensor]:
    """torch's convolution over the tail and x, [B, D, W - 1 + T]."""
    if not x.shape[1]:
        return x, tail
    padded = torch.cat((tail, x.transpose(1, 2)), 2)
    y = F.conv1d(padded, weight[:, None], bias, groups=weight.shape[0])
    return y.transpose(1, 2), padded[..., padded.shape[2] - tail.shape[2] :]


def grads_of(results: tuple[Tensor, ...], leaves: list[Tensor]) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in results]
    loss = sum((x.double() * w).sum() for x, w in zip(results, weights, strict=True))
    assert isinstance(loss, Tensor)
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


@pytest.mark.parametrize("length", [1, 2, 3, 17])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_equals_torch(length: int, width: int) -> None:
    leaves = make(length, width=width)
    x, weight, bias, tail = leaves
    actual, expected = causal_conv1d(x, weight, bias, tail=tail), reference(*leaves)
    torch.testing.assert_close(actual, expected)
    wanted = leaves if width > 1 else leaves[:3]
    torch.testing.assert_close(grads_of(actual, wanted), grads_of(expected, wanted))


def test_gradients_against_finite_differences() -> None:
    masks = [None, torch.tensor(MASKS["right"]), torch.tensor(MASKS["middle"])]
    for mask in masks:
        torch.autograd.gradcheck(
            lambda x, weight, bias, tail, mask=mask: causal_conv1d(x, weight, bias, tail=tail, mask=mask), make(7)
        )


def test_without_bias_and_without_tail() -> None:
    x, weight, _, tail = make(6)
    actual, expected = causal_conv1d(x, weight), reference(x, weight, None, torch.zeros_like(tail))
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads_of(actual, [x, weight]), grads_of(expected, [x, weight]))


def test_bfloat16_is_summed_in_fp32() -> None:
    x, weight, bias, tail = make(50, dtype=torch.bfloat16)
    y, new_tail = causal_conv1d(x, weight, bias, tail=tail)
    assert y.dtype == new_tail.dtype == torch.bfloat16
    exact, exact_tail = reference(*(leaf.double() for leaf in (x, weight, bias, tail)))
    assert torch.equal(y, exact.float().bfloat16())
    assert torch.equal(new_tail.double(), exact_tail)
    for grad, leaf in zip(grads_of((y, new_tail), [x, weight, bias, tail]), (x, weight, bias, tail), strict=True):
        assert grad.dtype == leaf.dtype


def test_the_tail_may_be_of_another_dtype() -> None:
    x, weight, bias, tail = make(5, dtype=torch.float32)
    half = tail.detach().bfloat16().requires_grad_()
    y, new_tail = causal_conv1d(x, weight, bias, tail=half)
    torch.testing.assert_close(y, reference(x, weight, bias, half.float())[0])
    assert grads_of((y, new_tail), [half])[0].dtype == torch.bfloat16


@pytest.mark.parametrize("masked", [False, True])
def test_a_kept_tail_does_not_keep_the_inputs(masked: bool) -> None:
    x, weight, bias, tail = (leaf.detach() for leaf in make(100))
    mask = torch.arange(100).expand(2, -1) < 50 if masked else None
    kept = causal_conv1d(x, weight, bias, tail=tail, mask=mask)[1]
    assert kept.untyped_storage().nbytes() == kept.numel() * kept.element_size()
    assert kept.is_contiguous()


@given(first=st.integers(1, 9), second=st.integers(1, 9))
def test_a_then_b_is_a_and_b(first: int, second: int) -> None:
    x, weight, bias, tail = make(first + second)
    y, end = causal_conv1d(x, weight, bias, tail=tail)
    head, middle = causal_conv1d(x[:, :first], weight, bias, tail=tail)
    rest, last = causal_conv1d(x[:, first:], weight, bias, tail=middle)
    torch.testing.assert_close(torch.cat((head, rest), 1), y)
    assert torch.equal(last, end)
    leaves = [x, weight, bias, tail]
    torch.testing.assert_close(
        grads_of((torch.cat((head, rest), 1), last), leaves), grads_of((y, end), leaves)
    )  # through the handed-on tail


def test_nothing_read_leaves_the_tail() -> None:
    x, weight, bias, tail = make(0)
    y, new_tail = causal_conv1d(x, weight, bias, tail=tail)
    assert y.shape == (2, 0, 5)
    assert torch.equal(new_tail, tail)


# ---------------------------------------------------------------------------------------------------- masks


def check_mask(mask: Tensor, leaves: list[Tensor]) -> None:
    """Each row of the masked batch is what its real tokens alone give, gradients included."""
    x, weight, bias, tail = leaves
    actual = causal_conv1d(x, weight, bias, tail=tail, mask=mask)
    outputs, tails = [], []
    for row, real in enumerate(mask.bool()):
        y, end = reference(x[row : row + 1, real], weight, bias, tail[row : row + 1])
        outputs.append(torch.zeros_like(x[row]).masked_scatter(real[:, None].expand_as(x[row]), y))
        tails.append(end[0])
    expected = (torch.stack(outputs), torch.stack(tails))
    torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(grads_of(actual, leaves), grads_of(expected, leaves))


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
def test_masked_equals_unpadded(name: str, dtype: torch.dtype) -> None:
    check_mask(torch.tensor(MASKS[name], dtype=dtype), make(7))


@given(data=st.data(), length=st.integers(1, 12), width=st.integers(2, 5))
def test_any_mask(data: st.DataObject, length: int, width: int) -> None:
    rows = st.lists(st.booleans(), min_size=length, max_size=length)
    check_mask(torch.tensor([data.draw(rows) for _ in range(3)]), make(length, width=width, batch=3))


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("name", ["right", "left", "middle"])
def test_what_a_masked_token_holds_does_not_matter(name: str, garbage: float) -> None:
    x, weight, bias, tail = make(7)
    mask = torch.tensor(MASKS[name]).bool()
    dirty = x.detach().masked_fill(~mask[..., None], garbage).requires_grad_()
    expected = causal_conv1d(x, weight, bias, tail=tail, mask=mask)
    actual = causal_conv1d(dirty, weight, bias, tail=tail, mask=mask)
    leaves = [weight, bias, tail]
    for a, b in zip(
        (*actual, *grads_of(actual, [dirty, *leaves])), (*expected, *grads_of(expected, [x, *leaves])), strict=True
    ):
        assert torch.equal(a, b)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(2, 5)}, r"x \[B, T, D\]"),
        ({"weight": torch.ones(4, 5)}, r"\[2, 7, 5\] and \[4, 5\]"),
        ({"weight": torch.ones(5, 0)}, r"weight \[D, W\]"),
        ({"bias": torch.ones(4)}, r"bias has shape \[4\]; pass \[5\]"),
        ({"tail": torch.ones(2, 3, 5)}, r"tail has shape \[2, 3, 5\]; pass \[2, 5, 3\]"),
        ({"mask": torch.ones(7, 2)}, r"mask has shape \[7, 2\]; pass \[2, 7\]"),
    ],
)
def test_shapes_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = dict(zip(("x", "weight", "bias", "tail"), make(7), strict=True))
    with pytest.raises(InputError, match=message):
        causal_conv1d(**{**arguments, **change})
