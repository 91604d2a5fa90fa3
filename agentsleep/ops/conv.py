"""Depthwise causal convolution with a tail: what the last ``W - 1`` inputs were goes in, and comes out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agentsleep.errors import InputError
from agentsleep.ops._common import accumulate_dtype, uncast


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    tail: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Depthwise causal convolution over time, without activation: ``y_t = bias + sum_i weight_i x_{t - W + 1 + i}``.

    Args:
        x: inputs ``[B, T, D]``.
        weight: filters ``[D, W]``; the last tap meets the newest token.
        bias: ``[D]`` or None.
        tail: the last ``W - 1`` inputs before x, oldest first, ``[B, D, W - 1]``; zeros when None.
        mask: ``[B, T]`` bool; a token where it is False, wherever it stands, is as if it were not there.

    Returns:
        Outputs ``[B, T, D]``, zero where the mask is False, and the new tail ``[B, D, W - 1]``: the last ``W - 1``
        real inputs of each row, those of the old tail included. Both have the dtype of x. Differentiable (once) in
        x, weight, bias and tail.

    Raises:
        InputError: the shapes do not fit together.
    """
    _check(x, weight, bias, tail, mask)
    if tail is None:
        tail = x.new_zeros(x.shape[0], x.shape[2], weight.shape[1] - 1)
    run: Any = _CausalConv.apply  # torch leaves it untyped
    if mask is None or bool(mask.all()):
        y, new_tail = run(x, weight, bias, tail, None)
        return y, new_tail
    mask = mask.bool()
    if not bool((mask[:, 1:] & ~mask[:, :-1]).any()):  # padded on the right: the real tokens are in place already
        y, new_tail = run(x, weight, bias, tail, mask)
        return y, new_tail
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)  # real tokens first, in their order
    there = (order + torch.arange(mask.shape[0], device=x.device)[:, None] * mask.shape[1]).flatten()
    back = torch.empty_like(there)
    back[there] = torch.arange(there.numel(), device=x.device)
    permute: Any = _Permute.apply
    y, new_tail = run(permute(x, there, back), weight, bias, tail, mask.gather(1, order))
    return permute(y, back, there), new_tail


class _Permute(torch.autograd.Function):
    """The B * T tokens of x ``[B, T, D]`` in another order; its backward is the way back, not a scatter."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, there: Tensor, back: Tensor) -> Tensor:
        ctx.back = back
        return x.flatten(0, 1).index_select(0, there).view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.flatten(0, 1).index_select(0, ctx.back).view(grad.shape), None, None


class _CausalConv(torch.autograd.Function):
    """W shifted multiplies. Hand-written, since the backward of each slice would fill a whole tensor with zeros.

    A mask ``[B, T]`` must be padded on the right.
    """

    @staticmethod
    @uncast
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        dtype = accumulate_dtype(x)
        (batch, length, channels), width = x.shape, weight.shape[1]
        padded = torch.cat((tail.transpose(1, 2).to(x.dtype), x), 1)  # [B, W - 1 + T, D]
        ctx.hidden = ctx.ends = None  # rows of [B * T, D] to hide; places in padded that become the tail
        if mask is not None:
            ctx.hidden = (~mask).flatten().nonzero().squeeze(1)
            in_padded = ctx.hidden + (ctx.hidden // length + 1) * (width - 1)
            padded.view(-1, channels).index_fill_(0, in_padded, 0)  # garbage must not reach the gradients
            starts = mask.sum(1) + torch.arange(batch, device=x.device) * padded.shape[1]
            ctx.ends = (starts[:, None] + torch.arange(width - 1, device=x.device)).flatten()
        taps = weight.to(dtype).t().contiguous()  # [W, D]
        wide = padded.to(dtype)
        y = wide[:, :length] * taps[0]
        for i in range(1, width):
            y.addcmul_(wide[:, i : i + length], taps[i])
        if bias is not None:
            y.add_(bias.to(dtype))
        if ctx.hidden is not None:
            y.view(-1, channels).index_fill_(0, ctx.hidden, 0)
        if ctx.ends is None:
            new_tail = padded[:, length:]
        else:
            new_tail = padded.view(-1, channels).index_select(0, ctx.ends).view(batch, width - 1, channels)
        ctx.save_for_backward(padded, weight)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype, tail.dtype
        ctx.set_materialize_grads(False)
        # the tail is a copy: one that is kept for long must not keep all inputs alive
        return y.to(x.dtype), new_tail.transpose(1, 2).clone(memory_format=torch.contiguous_format)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor | None, grad_tail: Tensor | None) -> tuple[Tensor | None, ...]:
        padded, weight = ctx.saved_tensors
        weight_dtype, bias_dtype, tail_dtype = ctx.dtypes
        dtype = accumulate_dtype(padded)
        channels, width = weight.shape
        length = padded.shape[1] - width + 1
        grad_padded = torch.zeros_like(padded, dtype=dtype)
        grad_weight = grad_bias = None
        if grad_y is not None:
            grad_y = grad_y.to(dtype)
            if ctx.hidden is not None:
                grad_y = grad_y.flatten(0, 1).index_fill(0, ctx.hidden, 0).view(grad_y.shape)
            taps = weight.to(dtype).t().contiguous()
            for i in range(width):
                grad_padded[:, i : i + length].addcmul_(grad_y, taps[i])
            if ctx.needs_input_grad[1]:
                wide = padded.to(dtype)
                per_tap = [(wide[:, i : i + length] * grad_y).sum((0, 1)) for i in range(width)]
                grad_weight = torch.stack(per_tap, 1).to(weight_dtype)
            if ctx.needs_input_grad[2]:
                grad_bias = grad_y.sum((0, 1)).to(bias_dtype)
        if grad_tail is not None:
            grad_tail = grad_tail.transpose(1, 2).to(dtype)
            if ctx.ends is None:
                grad_padded[:, length:] += grad_tail
            else:
                grad_padded.view(-1, channels).index_add_(0, ctx.ends, grad_tail.reshape(-1, channels))
        grad_x = grad_padded[:, width - 1 :].to(padded.dtype)
        return grad_x, grad_weight, grad_bias, grad_padded[:, : width - 1].transpose(1, 2).to(tail_dtype), None


def _check(x: Tensor, weight: Tensor, bias: Tensor | None, tail: Tensor | None, mask: Tensor | None) -> None:
    if x.dim() != 3 or weight.dim() != 2 or weight.shape[0] != x.shape[2] or weight.shape[1] < 1:
        raise InputError(
            f"a causal convolution wants x [B, T, D] and weight [D, W], got {list(x.shape)} and {list(weight.shape)}; "
            "give each channel of x one row of weight"
        )
    wanted: tuple[tuple[str, Tensor | None, tuple[int, ...]], ...] = (
        ("bias", bias, (x.shape[2],)),
        ("tail", tail, (x.shape[0], x.shape[2], weight.shape[1] - 1)),
        ("mask", mask, (x.shape[0], x.shape[1])),
    )
    for name, value, shape in wanted:
        if value is not None and tuple(value.shape) != shape:
            raise InputError(f"{name} has shape {list(value.shape)}; pass {list(shape)}, which is what x asks for")
