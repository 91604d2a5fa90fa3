"""A masked token is as if it were not there, wherever it stands and whatever it holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

MASKS = {
    "right": [[1, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0]],
    "left": [[0, 0, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 1]],
    "middle": [[1, 1, 0, 0, 1, 1, 1], [1, 0, 0, 0, 0, 0, 1]],
    "mixed": [[0, 1, 0, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 1]],
    "empty row": [[0, 0, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 1]],
    "nothing": [[0, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]],
}


def check(form: Any, naive: Any, inputs: Any, mask: Tensor, **settings: Any) -> None:
    """Results and gradients of the masked batch are those of each row's real tokens alone."""
    outputs, state, *grads = inputs.run_with_grads(form, mask=mask, **settings)
    # the same weights on the results as run_with_grads gives them
    generator = torch.Generator().manual_seed(7)
    w_outputs, w_state = (torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (outputs, state))
    for row in range(mask.shape[0]):
        real = mask[row].bool()
        alone = [x.detach()[row : row + 1] for x in inputs.tensors]
        assert not outputs[row, ~real].any()
        for grad in grads[:5]:
            assert not grad[row, ~real].any()
        if not real.any():
            assert torch.equal(state[row], alone[5][0])
            torch.testing.assert_close(grads[5][row], w_state[row])
            continue
        leaves = [x[:, real].clone().requires_grad_() for x in alone[:5]] + [alone[5].clone().requires_grad_()]
        expected, end = naive(*leaves[:5], initial_state=leaves[5])
        torch.testing.assert_close(outputs[row, real], expected[0])
        torch.testing.assert_close(state[row], end[0])
        loss = (expected[0] * w_outputs[row, real]).sum() + (end[0] * w_state[row]).sum()
        *by_token, by_state = torch.autograd.grad(loss, leaves)
        for grad, wanted in zip(grads[:5], by_token, strict=True):
            torch.testing.assert_close(grad[row, real], wanted[0])
        torch.testing.assert_close(grads[5][row], by_state[0])


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("dtype", [torch.bool, torch.int64], ids=str)
def test_masked_equals_unpadded(rule: Any, draw: Any, name: str, dtype: torch.dtype) -> None:
    mask = torch.tensor(MASKS[name], dtype=dtype)
    check(rule.naive, rule.naive, draw(7), mask)
    for chunk_size in (None, 3):
        check(rule.chunked, rule.naive, draw(7), mask, chunk_size=chunk_size)


@given(data=st.data(), length=st.integers(1, 40), chunk_size=st.sampled_from([None, 5, 8, 16]))
def test_any_mask(rule: Any, draw: Any, data: st.DataObject, length: int, chunk_size: int | None) -> None:
    rows = st.lists(st.booleans(), min_size=length, max_size=length)
    mask = torch.tensor([data.draw(rows), data.draw(rows)])
    check(rule.chunked, rule.naive, draw(length, key_dim=4, value_dim=3), mask, chunk_size=chunk_size)


@pytest.mark.parametrize("garbage", [1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("length", [1, 7, 40])
def test_what_a_masked_token_holds_does_not_matter(rule: Any, draw: Any, length: int, garbage: float) -> None:
    mask = torch.rand(2, length) < 0.5
    clean = draw(length, dtype=torch.float32)
    dirty = clean.on(lambda x: torch.where(mask.view(2, length, *[1] * (x.dim() - 2)), x, garbage))
    for form in (rule.naive, rule.chunked):
        expected = clean.run_with_grads(form, mask=mask)
        actual = dirty.run_with_grads(form, mask=mask)
        assert all(torch.equal(x, y) for x, y in zip(actual, expected, strict=True))


def test_a_full_mask_is_no_mask(rule: Any, draw: Any) -> None:
    inputs = draw(20)
    mask = torch.ones(2, 20, dtype=torch.bool)
    for form in (rule.naive, rule.chunked):
        for x, y in zip(inputs.run_with_grads(form, mask=mask), inputs.run_with_grads(form), strict=True):
            assert torch.equal(x, y)


def test_masked_without_grad(rule: Any, draw: Any) -> None:
    inputs, mask = draw(20), torch.rand(2, 20) < 0.5
    expected = inputs.run(rule.chunked, mask=mask)
    with torch.no_grad():
        torch.testing.assert_close(inputs.run(rule.chunked, mask=mask), expected)
