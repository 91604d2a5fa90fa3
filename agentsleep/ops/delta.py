"""The gated delta rule: a naive recurrence, which is the truth, and its chunk-parallel form.

    S_t = a_t S_{t-1} (I - b_t k_t k_t^T) + b_t v_t k_t^T        o_t = S_t q_t        (a_t = exp(g_t))

Source: Gated Delta Networks (arXiv 2412.06464, eq. 10); the chunk-parallel (WY) form follows
"Parallelizing Linear Transformers with the Delta Rule" (arXiv 2406.06484, section 3). Here S is stored
transposed, as ``[B, H, K, V]``, which is how transformers and flash-linear-attention store it.
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
    unit_lower_inverse,
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
def gated_delta_naive(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    g: Tensor,
    beta: Tensor,
    *,
    initial_state: Tensor | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gated delta rule, one token after the other: the reference.

    Args:
        q, k: queries and keys ``[B, T, H, K]``; callers normalise and scale them.
        v: values ``[B, T, H, V]``.
        g: log of the forget gate ``[B, T, H]``, at most 0.
        beta: write strength ``[B, T, H]``, in (0, 1).
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
        state = state * g_t.exp()[..., None, None]
        recalled = torch.einsum("bhk,bhkv->bhv", k_t, state)
        written = (v_t - recalled) * beta_t[..., None]
        state = state + k_t[..., :, None] * written[..., None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q_t, state))
    return torch.stack(outputs, 1).to(out_dtype), state


@uncast
def gated_delta_chunked(
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
    """Gated delta rule in chunks of ``chunk_size`` tokens: the fast path.

    Arguments, result and dtypes are those of :func:`gated_delta_naive`; by default the chunk size follows the shape.
    Within a chunk the writes solve one unit lower triangular system; only the state walks from chunk to chunk.
    Differentiable once, in every tensor but the mask.

    Raises:
        InputError: the shapes do not fit together, or there is no token.
        SettingsError: ``chunk_size`` is below 1.
    """
    check_chunk_size(chunk_size)
    if q.shape[1] == 1:  # decoding: one step of the recurrence is the cheapest form
        return gated_delta_naive(q, k, v, g, beta, initial_state=initial_state, mask=mask)
    check_inputs(q, k, v, g, beta, initial_state, mask)
    size = chunk_size or default_chunk_size(q.shape[1], q.shape[3])
    g, beta = apply_mask(g, beta, mask)
    run: Any = _ChunkedDelta.apply  # torch leaves it untyped
    outputs, state = run(q, k, v, g, beta, initial_state, Layout.of(q, size, mask), torch.is_grad_enabled())
    return outputs, state


class _ChunkedDelta(torch.autograd.Function):
    """The chunk-parallel form with its backward written by hand: autograd's own spends most of its time on copies.

    With V' the values that a chunk really writes, D the pairwise decays and S the state at the chunk's start:

        A = beta * (K K^T * D), strictly lower      T = (I + A)^-1      V' = T (beta V - beta grown K S)
        O = (Q K^T * D) V' + grown Q S              S_next = whole S + (to_end K)^T V'
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
        k_t = k.transpose(1, 2)
        similar = torch.bmm(k, k_t).mul_(decay.pairwise).mul_(beta[..., None])
        inverse = unit_lower_inverse(similar)
        scores = torch.bmm(q, k_t, out=similar).mul_(decay.pairwise)
        weights = inverse * beta[:, None, :]
        written = torch.bmm(weights, v)  # what a zero state would have written; the walk takes off what S recalls
        stale = torch.bmm(weights.mul_(decay.grown.transpose(1, 2)), k)
        # where nothing is kept for a backward, copies of inputs are used up and one state does for the walk:
        # touching fresh memory costs as much as the arithmetic
        k_late = torch.mul(k, decay.to_end, out=None if keep else k)
        q_grown = torch.mul(q, decay.grown, out=None if keep else q)
        outputs = torch.empty_like(v) if keep else v
        states = walk_states(initial_state, layout, k, v, layout.count + 1 if keep else 1)
        steps = (layout.by_chunk(x) for x in (written, stale, k_late.transpose(1, 2), q_grown, outputs))
        state = states[0]
        later = states[1:].unbind(0) if keep else [state] * layout.count
        for next_state, whole, written_n, stale_n, k_n, q_n, outputs_n in zip(
            later, decay.whole.unbind(0), *steps, strict=True
        ):
            torch.bmm(q_n, state, out=outputs_n)
            written_n.baddbmm_(stale_n, state, alpha=-1)
            torch.mul(state, whole, out=next_state).baddbmm_(k_n, written_n)
            state = next_state
        outputs.baddbmm_(scores, written)
        if keep:
            ctx.save_for_backward(q, k, v, beta, scores, inverse, stale, written, states, *decay)
            ctx.layout = layout
        return layout.unload(outputs, out_dtype), state.view(layout.batch, layout.heads, *state.shape[1:]).clone()

    @staticmethod
    @once_differentiable
    @uncast
    def backward(ctx: Any, grad_outputs: Tensor, grad_state: Tensor) -> tuple[Tensor | None, ...]:
        layout: Layout = ctx.layout
        q, k, v, beta, scores, inverse, stale, written, states, *rest = ctx.saved_tensors
        decay = Decays(*rest)
        d_out = layout.load(grad_outputs, q.dtype)
        d_out_grown = d_out * decay.grown
        d_written = torch.bmm(scores.transpose(1, 2), d_out)
        d_states = torch.empty_like(states)
        d_states[-1] = grad_state.flatten(0, 1)
        torch.bmm(q.transpose(1, 2), d_out_grown, out=d_states[:-1].flatten(0, 1))
        k_late = k * decay.to_end
        steps = (layout.by_chunk(x)[::-1] for x in (d_written, stale.transpose(1, 2), k_late))
        d_next, *earlier = d_states.unbind(0)[::-1]
        for d_state, whole, d_written_n, stale_n, k_n in zip(earlier, decay.whole.unbind(0)[::-1], *steps, strict=True):
            d_written_n.baddbmm_(k_n, d_next)
            d_state.addcmul_(d_next, whole).baddbmm_(stale_n, d_written_n, alpha=-1)
            d_next = d_state
        before_t = states[:-1].flatten(0, 1).transpose(1, 2)  # [M, V, K]
        after, d_after = states[1:].flatten(0, 1), d_states[1:].flatten(0, 1)
        d_rhs = torch.bmm(inverse.transpose(1, 2), d_written)  # of beta V - beta grown K S
        written_t = written.transpose(1, 2)
        d_scores = torch.bmm(d_out, written_t).mul_(decay.pairwise)
        d_similar = torch.bmm(d_rhs, written_t).mul_(decay.pairwise)  # its sign is turned where it is used
        d_similar.diagonal(dim1=1, dim2=2).zero_()
        dq = torch.bmm(d_out_grown, before_t).baddbmm_(d_scores, k)
        d_rhs_grown = torch.mul(d_rhs, decay.grown, out=d_out_grown)
        read = torch.bmm(d_rhs_grown, before_t).baddbmm_(d_similar, k).neg_()  # of k where it reads, over beta
        dk = torch.bmm(torch.mul(written, decay.to_end, out=d_out_grown), d_after.transpose(1, 2))
        dk.baddbmm_(d_scores.transpose(1, 2), q)
        dk.baddbmm_(d_similar.mul_(beta[..., None]).transpose(1, 2), k, alpha=-1)
        d_beta = (read * k).sum(2)
        # a running sum of g occurs as exp(+sum) with q and the reading k, as exp(-sum) with the writing k
        by_token = (dq * q).sum(2).addcmul_(d_beta, beta).sub_((dk * k).sum(2))
        dg = gate_gradient(by_token, (after * d_after).sum((1, 2)))
        d_beta += (d_rhs * v).sum(2)
        dk.addcmul_(read, beta[..., None])
        dv = d_rhs.mul_(beta[..., None])
        return input_gradients(layout, ctx.dtypes, (dq, dk, dv, dg, d_beta), d_states[0])
