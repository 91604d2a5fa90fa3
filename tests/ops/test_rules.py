"""The chunked forms against the naive recurrences, forward and backward in every input."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentsleep import ops
from agentsleep.errors import InputError, SettingsError
from agentsleep.ops._chunks import unit_lower_inverse

TOLERANCE: dict[torch.dtype, dict[str, float]] = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 1e-5, "atol": 1e-5},
    torch.bfloat16: {"rtol": 2**-7, "atol": 1e-5},  # both count in fp32: they may round to neighbours, no more
}


def assert_same(actual: list[torch.Tensor], expected: list[torch.Tensor], dtype: torch.dtype) -> None:
    names = ("outputs", "state", "dq", "dk", "dv", "dg", "dbeta", "d initial state")
    for name, x, y in zip(names, actual, expected, strict=False):
        assert x.dtype == y.dtype, name
        torch.testing.assert_close(x, y, **TOLERANCE[dtype], msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 63, 100])
def test_chunked_equals_naive(rule: Any, draw: Any, length: int, dtype: torch.dtype) -> None:
    inputs = draw(length, dtype=dtype)
    assert_same(inputs.run_with_grads(rule.chunked), inputs.run_with_grads(rule.naive), dtype)


def test_the_wide_default_chunk(rule: Any, draw: Any) -> None:
    inputs = draw(70, batch=1, key_dim=64, value_dim=64, dtype=torch.float32)
    assert_same(inputs.run_with_grads(rule.chunked), inputs.run_with_grads(rule.naive), torch.float32)


@given(
    length=st.integers(2, 70),
    chunk_size=st.integers(1, 80),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    key_dim=st.integers(1, 9),
    value_dim=st.integers(1, 9),
)
def test_any_shape_in_any_chunks(rule: Any, draw: Any, length: int, chunk_size: int, **shape: int) -> None:
    inputs = draw(length, **shape)
    actual = inputs.run_with_grads(rule.chunked, chunk_size=chunk_size)
    assert_same(actual, inputs.run_with_grads(rule.naive), torch.float64)


@pytest.mark.parametrize("chunk_size", [4, 16])
def test_gradients_against_finite_differences(rule: Any, draw: Any, chunk_size: int) -> None:
    inputs = draw(9, batch=1, key_dim=3, value_dim=2)
    torch.autograd.gradcheck(lambda *x: rule.chunked(*x[:5], initial_state=x[5], chunk_size=chunk_size), inputs.tensors)


def test_no_initial_state_is_a_state_of_zeros(rule: Any, draw: Any) -> None:
    inputs = draw(20).tensors[:5]
    zeros = torch.zeros(2, 2, 8, 5, dtype=torch.float64)
    for form in (rule.naive, rule.chunked):
        none, given_zeros = form(*inputs), form(*inputs, initial_state=zeros)
        assert torch.equal(none[0], given_zeros[0])
        assert torch.equal(none[1], given_zeros[1])
    grads = torch.autograd.grad(rule.chunked(*inputs)[0].sum(), inputs)
    expected = torch.autograd.grad(rule.naive(*inputs)[0].sum(), inputs)
    torch.testing.assert_close(grads, expected)


def test_gradient_through_the_final_state_alone(rule: Any, draw: Any) -> None:
    inputs = draw(20)
    grads = [
        torch.autograd.grad(inputs.run(form)[1].square().sum(), inputs.tensors[1:])
        for form in (rule.chunked, rule.naive)
    ]
    torch.testing.assert_close(*grads)


# ------------------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize("strength", [30.0, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_strong_decay_neither_overflows_nor_gives_nan(
    rule: Any, draw: Any, strength: float, dtype: torch.dtype
) -> None:
    inputs = draw(63, dtype=dtype)
    with torch.no_grad():
        inputs.tensors[3].fill_(-strength)
        inputs.tensors[3][:, ::3] = -0.01  # open gates between closed ones
    results = inputs.run_with_grads(rule.chunked)
    assert all(x.isfinite().all() for x in results)
    assert_same(results, inputs.run_with_grads(rule.naive), dtype)


def test_weak_decay_stays_exact_behind_strong_decay(rule: Any, draw: Any) -> None:
    inputs = draw(32, dtype=torch.float32)
    with torch.no_grad():
        inputs.tensors[3][:, :16] = -300.0
        inputs.tensors[3][:, 16:] = -0.001
    exact = rule.naive(*(x.double() for x in inputs.tensors[:5]))[0]
    outputs = rule.chunked(*inputs.tensors[:5], chunk_size=32)[0]
    assert (outputs - exact).abs().max() < 2e-6  # sums of gates in fp32 would miss by 1e-4


def test_the_same_key_again_and_again(rule: Any, draw: Any) -> None:
    inputs = draw(64, dtype=torch.float32)
    with torch.no_grad():
        inputs.tensors[1].copy_(inputs.tensors[1][:, :1].expand_as(inputs.tensors[1]))
        inputs.tensors[3].zero_()
        inputs.tensors[4].fill_(1.0)
    actual = inputs.run_with_grads(rule.chunked, chunk_size=64)
    expected = inputs.run_with_grads(rule.naive)
    for x, y in zip(actual, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-5 * max(1.0, y.abs().max().item()))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 16, 20, 24, 32, 40, 64])
def test_unit_lower_inverse(size: int) -> None:
    a = torch.rand(3, size, size, dtype=torch.float64) - 0.5
    expected = torch.linalg.inv(a.tril(-1) + torch.eye(size))
    above = torch.ones(size, size).triu().bool()
    for garbage in (0.0, 1e30):
        torch.testing.assert_close(unit_lower_inverse(a.masked_fill(above, garbage)), expected)


# ----------------------------------------------------------------------------------------- state, modes, dtypes


@given(first=st.integers(1, 40), second=st.integers(1, 40))
def test_a_then_b_is_a_and_b(rule: Any, draw: Any, first: int, second: int) -> None:
    whole = draw(first + second)
    for form in (rule.naive, rule.chunked):
        outputs, state = whole.run(form)
        head, middle = whole.on(lambda x: x[:, :first]).run(form)
        tail, end = form(*(x[:, first:] for x in whole.tensors[:5]), initial_state=middle)
        torch.testing.assert_close(torch.cat((head, tail), 1), outputs)
        torch.testing.assert_close(end, state)


def test_gradient_flows_through_a_handed_on_state(rule: Any, draw: Any) -> None:
    whole = draw(40)
    parts = [(x[:, :23], x[:, 23:]) for x in whole.tensors[:5]]
    middle = rule.chunked(*(x[0] for x in parts), initial_state=whole.tensors[5])[1]
    end = rule.chunked(*(x[1] for x in parts), initial_state=middle)[1]
    grads = torch.autograd.grad(end.sum(), whole.tensors[1:])
    torch.testing.assert_close(grads, torch.autograd.grad(whole.run(rule.naive)[1].sum(), whole.tensors[1:]))


@pytest.mark.parametrize("length", [1, 16, 50])
def test_without_grad_the_result_is_the_same_and_the_inputs_stay(rule: Any, draw: Any, length: int) -> None:
    for shape in ({}, {"batch": 1, "heads": 1}):  # one state of one chunk: the inputs' own layout
        inputs = draw(length, dtype=torch.float32, **shape)
        before = [x.detach().clone() for x in inputs.tensors]
        expected = inputs.run(rule.chunked, chunk_size=16)
        with torch.no_grad():
            actual = inputs.run(rule.chunked, chunk_size=16)
        with torch.inference_mode():
            again = inputs.run(rule.chunked, chunk_size=16)
        torch.testing.assert_close(actual, expected)
        assert all(torch.equal(x, y) for x, y in zip(actual, again, strict=True))
        assert all(torch.equal(x, y) for x, y in zip(inputs.tensors, before, strict=True))


def test_backward_may_run_twice_on_one_graph(rule: Any, draw: Any) -> None:
    inputs = draw(40)
    loss = inputs.run(rule.chunked)[0].sum()
    first = torch.autograd.grad(loss, inputs.tensors, retain_graph=True)
    second = torch.autograd.grad(loss, inputs.tensors)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_a_second_derivative_is_refused_not_wrong(rule: Any, draw: Any) -> None:
    inputs = draw(10)
    (grad,) = torch.autograd.grad(inputs.run(rule.chunked)[0].square().sum(), inputs.tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


@pytest.mark.parametrize("length", [1, 20])
def test_state_is_kept_in_fp32(rule: Any, draw: Any, length: int) -> None:
    inputs = draw(length, dtype=torch.bfloat16)
    for form in (rule.naive, rule.chunked):
        outputs, state = inputs.run(form)
        assert outputs.dtype == torch.bfloat16
        assert state.dtype == torch.float32


def test_the_first_state_may_be_of_another_dtype(rule: Any, draw: Any) -> None:
    inputs = draw(20, dtype=torch.float32)
    state = inputs.tensors[5].detach().bfloat16().requires_grad_()
    outputs, end = rule.chunked(*inputs.tensors[:5], initial_state=state)
    expected, _ = rule.naive(*inputs.tensors[:5], initial_state=state.float())
    torch.testing.assert_close(outputs, expected, rtol=1e-5, atol=1e-5)
    (grad,) = torch.autograd.grad(end.sum(), state)
    assert grad.dtype == torch.bfloat16


def test_autocast_does_not_round_the_state(rule: Any, draw: Any) -> None:
    inputs = draw(40, dtype=torch.float32)
    expected = inputs.run_with_grads(rule.chunked)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        recurrent = inputs.run(rule.naive)
        actual = inputs.run_with_grads(rule.chunked)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)
    torch.testing.assert_close(recurrent, inputs.run(rule.naive), rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("place", "name", "shape"),
    [
        (1, "k", (2, 5, 2, 7)),
        (2, "v", (2, 4, 2, 5)),
        (3, "g", (2, 5, 1)),
        (4, "beta", (2, 5, 2, 1)),
        (5, "initial_state", (2, 2, 5, 8)),
        (6, "mask", (5, 2)),
    ],
)
def test_shapes_that_do_not_fit(rule: Any, draw: Any, place: int, name: str, shape: tuple[int, ...]) -> None:
    values = [*(x.detach() for x in draw(5).tensors), torch.ones(2, 5, dtype=torch.bool)]
    values[place] = torch.ones(shape, dtype=values[place].dtype)
    for form in (rule.naive, rule.chunked):
        with pytest.raises(InputError, match=rf"{name} has shape \[{shape[0]}, .*must be"):
            form(*values[:5], initial_state=values[5], mask=values[6])


def test_no_token_at_all(rule: Any, draw: Any) -> None:
    inputs = draw(5).on(lambda x: x[:, :0])
    for form in (rule.naive, rule.chunked):
        with pytest.raises(InputError, match="empty sequence"):
            inputs.run(form)


@pytest.mark.parametrize("length", [1, 5])
@pytest.mark.parametrize("chunk_size", [0, -16])
def test_chunk_size_out_of_range(rule: Any, draw: Any, length: int, chunk_size: int) -> None:
    with pytest.raises(SettingsError, match=f"chunk_size is {chunk_size}"):
        draw(length).run(rule.chunked, chunk_size=chunk_size)


def test_exports_are_explicit_and_sorted() -> None:
    assert ops.__all__ == sorted(ops.__all__)
    assert all(callable(getattr(ops, name)) for name in ops.__all__)
