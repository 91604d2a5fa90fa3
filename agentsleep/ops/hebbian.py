"""The gated Hebbian rule: a naive recurrence, which is the truth, and its chunk-parallel form.

    S_t = a_t S_{t-1} + b_t v_t k_t^T        o_t = S_t q_t        (a_t = exp(g_t))

Source: Mamba-2 (arXiv 2405.21060, section 6), with b_t in the place of dt_t, k_t of B_t and q_t of C_t. Here S is
stored transposed, as ``[B, H, K, V]``, like the state of the delta rule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from agentsleep.ops._chunks import (
    Decays,
    Layout,
    decays,
    default_chunk_size,
    gate_gradient,
    input_gradients,
    walk_states,
)
from agentsleep.ops._common import (
    accumulate_dtype,
    apply_mask,
    check_chunk_size,
    check_inputs,
    hide,
    new_state,
    uncast,
)


@uncast
def gated_hebbian_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated Hebbian rule, one token after the other: the reference.

    Args:
        q, k: queries and keys ``[B, T, H, K]`` (Mamba-2's C and B).
        v: values ``[B, T, H, V]`` (Mamba-2's x).
        g: log of the forget gate ``[B, T, H]``, at most 0 (Mamba-2's dt * A).
        beta: write strength ``[B, T, H]``, at least 0 (Mamba-2's dt).
        initial_state: fast weights ``[B, H, K, V]``; zeros when None.
        mask: ``[B, T]`` bool; a token where it is False, wherever it stands, is as if it were not there.

    Returns:
        Outputs ``[B, T, H, V]`` in v's dtype, zero where the mask is False, and the final state ``[B, H, K, V]`` in
        fp32 (fp64 for fp64 input).

    Raises:
        InputError: the shapes do not fit together, or there is no token.
    """
    check_inputs(q, k, v, g, beta, initial_state, mask)
    dtype = accumulate_dtype(v)
    out_dtype = v.dtype
    g, beta = apply_mask(g, beta, mask)
    q, k, v = (hide(x, mask) for x in (q, k, v))
    q, k, v, g, beta = (x.to(dtype) for x in (q, k, v, g, beta))
    state = new_state(initial_state, k, v)
    outputs = []
    steps = zip(q.unbind(1), k.unbind(1), v.unbind(1), g.unbind(1), beta.unbind(1), strict=True)
    for q_t, k_t, v_t, g_t, beta_t in steps:
        written = v_t * beta_t[..., None]
        state = state * g_t.exp()[..., None, None] + k_t[..., :, None] * written[..., None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_t, state))
    return torch.stack(outputs, 1).to(out_dtype), state


@uncast
def gated_hebbian_chunked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
    chunk_size: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated Hebbian rule in chunks of ``chunk_size`` tokens: the fast path.

    Arguments, result and dtypes are those of :func:`gated_hebbian_naive`; by default the chunk size follows the
    shape. Differentiable once, in every tensor but the mask.

    Raises:
        InputError: the shapes do not fit together, or there is no token.
        SettingsError: ``chunk_size`` is below 1.
    """
    check_chunk_size(chunk_size)
    if q.shape[1] == 1:  # decoding: one step of the recurrence is the cheapest form
        return gated_hebbian_naive(q, k, v, g, beta, initial_state=initial_state, mask=mask)
    check_inputs(q, k, v, g, beta, initial_state, mask)
    size = chunk_size or default_chunk_size(q.shape[1], q.shape[3], least=16)
    g, beta = apply_mask(g, beta, mask)
    run: Any = _ChunkedHebbian.apply  # torch leaves it untyped
    outputs, state = run(q, k, v, g, beta, initial_state, Layout.of(q, size, mask), torch.is_grad_enabled())
    return outputs, state


class _ChunkedHebbian(torch.autograd.Function):
    """The chunk-parallel form with its backward written by hand.

    With D the pairwise decays and S the state at the chunk's start:

        O = (Q K^T * D) beta V + grown Q S              S_next = whole S + (to_end K)^T beta V
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        initial_state: Tensor | None,
        layout: Layout,
        keep: bool,
    ) -> tuple[Tensor, Tensor]:
        dtype = accumulate_dtype(v)
        ctx.dtypes = [None if x is None else x.dtype for x in (q, k, v, g, beta, initial_state)]
        out_dtype = v.dtype
        q, k, v, g, beta = (layout.load(x, dtype) for x in (q, k, v, g, beta))
        decay = decays(g, layout)
        scores = torch.bmm(q, k.transpose(1, 2)).mul_(decay.pairwise)
        # where nothing is kept for a backward the inputs' copies are used up: fresh memory is what costs most here
        written = torch.mul(v, beta[..., None], out=None if keep else v)
        k_late = torch.mul(k, decay.to_end, out=None if keep else k)
        states = walk_states(initial_state, layout, k, v, layout.count + 1)
        torch.bmm(k_late.transpose(1, 2), written, out=states[1:].flatten(0, 1))  # what each chunk adds
        for n, whole in enumerate(decay.whole.unbind(0)):
            states[n + 1].addcmul_(states[n], whole)
        outputs = torch.bmm(scores, written)
        outputs.baddbmm_(torch.mul(q, decay.grown, out=k_late), states[:-1].flatten(0, 1))
        if keep:
            ctx.save_for_backward(q, k, v, beta, scores, written, states, *decay)
            ctx.layout = layout
        return layout.unload(outputs, out_dtype), states[-1].view(layout.batch, layout.heads, *states.shape[2:]).clone()

    @staticmethod
    @once_differentiable
    @uncast
    def backward(ctx: Any, grad_outputs: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        q, k, v, beta, scores, written, states, *rest = ctx.saved_tensors
        decay = Decays(*rest)
        d_out = layout.load(grad_outputs, q.dtype)
        d_out_grown = d_out * decay.grown
        d_states = torch.empty_like(states)
        d_states[-1] = grad_state.flatten(0, 1)
        torch.bmm(q.transpose(1, 2), d_out_grown, out=d_states[:-1].flatten(0, 1))
        for n in reversed(range(layout.count)):
            d_states[n].addcmul_(d_states[n + 1], decay.whole[n])
        before_t = states[:-1].flatten(0, 1).transpose(1, 2)  # [M, V, K]
        after, d_after = states[1:].flatten(0, 1), d_states[1:].flatten(0, 1)
        d_written = torch.bmm(scores.transpose(1, 2), d_out).baddbmm_(k * decay.to_end, d_after)
        d_scores = torch.bmm(d_out, written.transpose(1, 2)).mul_(decay.pairwise)
        dq = torch.bmm(d_out_grown, before_t).baddbmm_(d_scores, k)
        dk = torch.bmm(torch.mul(written, decay.to_end, out=d_out_grown), d_after.transpose(1, 2)).baddbmm_(
            d_scores.transpose(1, 2), q
        )
        d_beta = (d_written * v).sum(2)
        # a running sum of g occurs as exp(+sum) with q, as exp(-sum) with k
        dg = gate_gradient((dq * q).sum(2).sub_((dk * k).sum(2)), (after * d_after).sum((1, 2)))
        dv = d_written.mul_(beta[..., None])
        return input_gradients(layout, ctx.dtypes, (dq, dk, dv, dg, d_beta), d_states[0])
