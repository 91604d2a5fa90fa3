"""What the two chunk-parallel forms share: the layout in chunks, the decays inside a chunk, a triangular inverse.

In the shapes below C is the tokens in a chunk, N the chunks, G = B * H and M = N * G: chunks come first, so that the
walk from chunk to chunk reads and writes whole contiguous blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_BLOCK = 8  # smaller triangles are cheaper to solve than to split


def default_chunk_size(length: int, dim: int, least: int = 8) -> int:
    """The size, a power of two, that measured fastest for T = length and K = dim; at least ``least``."""
    size, least = (32, max(least, 16)) if dim >= 48 else (16, least)
    # a shorter chunk when that spares at least a sixth of the work on filling
    while size > least and 6 * _rounded(length, size // 2) <= 5 * _rounded(length, size):
        size //= 2
    return size


def _rounded(length: int, size: int) -> int:
    return -(-length // size) * size


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """How ``[B, T, H, ...]`` is cut into ``[M, C, ...]``; the last chunk is filled with zeros (no decay, no write)."""

    batch: int
    length: int
    heads: int
    size: int
    hidden: Tensor | None = None  # rows of [M * C, ...] that a mask hides

    @classmethod
    def of(cls, x: Tensor, size: int, mask: Tensor | None) -> Layout:
        """The layout of x ``[B, T, H, ...]`` in chunks of ``size`` tokens, mask ``[B, T]``."""
        layout = cls(x.shape[0], x.shape[1], x.shape[2], size)
        if mask is None:
            return layout
        rows = layout.load((~mask.bool())[..., None].expand(-1, -1, x.shape[2]), torch.uint8)
        hidden = rows.flatten().nonzero().squeeze(1)
        return cls(x.shape[0], x.shape[1], x.shape[2], size, hidden) if hidden.numel() else layout

    @property
    def count(self) -> int:
        """N, the number of chunks."""
        return -(-self.length // self.size)

    @property
    def groups(self) -> int:
        """G, the number of independent states."""
        return self.batch * self.heads

    def load(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x ``[B, T, H, ...]`` as ``[M, C, ...]`` in the given dtype, one copy; hidden tokens become zeros."""
        inner = x.shape[3:]
        out = torch.empty((self.count, self.batch, self.heads, self.size, *inner), dtype=dtype, device=x.device)
        whole, rest = divmod(self.length, self.size)
        chunked = x[:, : whole * self.size].unflatten(1, (whole, self.size))  # [B, N, C, H, ...]
        out[:whole].copy_(chunked.movedim((1, 3), (0, 2)))
        if rest:
            out[whole, :, :, :rest].copy_(x[:, whole * self.size :].transpose(1, 2))
            out[whole, :, :, rest:].zero_()
        out = out.view(self.count * self.groups, self.size, *inner)
        if self.hidden is not None:
            out.view(-1, *inner).index_fill_(0, self.hidden, 0)
        return out

    def by_chunk(self, x: Tensor) -> tuple[Tensor, ...]:
        """x ``[M, C, ...]`` as N tensors ``[G, C, ...]``, views."""
        parts: tuple[Tensor, ...] = x.unflatten(0, (self.count, self.groups)).unbind(0)
        return parts

    def unload(self, x: Tensor, dtype: torch.dtype) -> Tensor:
        """x ``[M, C, ...]`` back as ``[B, T, H, ...]``."""
        x = x.view(self.count, self.batch, self.heads, self.size, *x.shape[2:]).movedim((0, 2), (1, 3))
        inner = x.shape[4:]
        out = torch.empty((self.batch, self.count * self.size, self.heads, *inner), dtype=dtype, device=x.device)
        out.view(self.batch, self.count, self.size, self.heads, *inner).copy_(x)
        return out[:, : self.length]


def walk_states(initial_state: Tensor | None, layout: Layout, k: Tensor, v: Tensor, count: int) -> Tensor:
    """Room for states ``[count, G, K, V]`` between the chunks of k and v ``[M, C, ...]``, the first one set."""
    states = k.new_empty(count, layout.groups, k.shape[2], v.shape[2])
    if initial_state is None:
        states[0].zero_()
    else:
        states[0].copy_(initial_state.flatten(0, 1))
    return states


class Decays(NamedTuple):
    """The decays of a chunk; exponents are at most 0, so nothing overflows however strong the gates are."""

    pairwise: Tensor  # [M, C, C]: from token j (after it) to token i, 0 above the diagonal
    grown: Tensor  # [M, C, 1]: from the chunk's start through token i
    to_end: Tensor  # [M, C, 1]: from token i (after it) to the chunk's end
    whole: Tensor  # [N, G, 1, 1]: the whole chunk


def decays(g: Tensor, layout: Layout) -> Decays:
    """All decays of g ``[M, C]``, the logs of the forget gates."""
    size = g.shape[1]
    sums = g.cumsum(1, dtype=torch.float64)  # differences of long sums: in fp32 a strong gate would blur weak ones
    pairwise = (sums[:, :, None] - sums[:, None, :]).to(g.dtype)
    lower = torch.ones(size, size, dtype=g.dtype, device=g.device).tril()
    pairwise.mul_(lower).exp_().mul_(lower)  # masked on both sides: above the diagonal exp could overflow
    grown = sums.exp().to(g.dtype)[..., None]
    to_end = (sums[:, -1:] - sums).exp().to(g.dtype)[..., None]
    return Decays(pairwise, grown, to_end, grown[:, -1].view(layout.count, layout.groups, 1, 1))


def gate_gradient(by_sum: Tensor, by_last: Tensor) -> Tensor:
    """Gradient of g ``[M, C]`` from that of its running sums ``[M, C]``, and what the last sum gets besides, [M]."""
    by_sum[:, -1] += by_last
    return by_sum.flip(1).cumsum(1).flip(1)


def input_gradients(
    layout: Layout, dtypes: Sequence[torch.dtype | None], by_token: Sequence[Tensor], d_initial: Tensor
) -> tuple[Tensor | None, ...]:
    """What a rule's backward returns: the gradients ``[M, C, ...]`` of q, k, v, g, beta, that of the first state
    ``[G, K, V]`` where there was one (a dtype that is not None), and None for the two settings."""
    grads = [layout.unload(x, dtype) for x, dtype in zip(by_token, dtypes, strict=False) if dtype is not None]
    last = dtypes[-1]
    state = None if last is None else d_initial.view(layout.batch, layout.heads, *d_initial.shape[1:]).to(last)
    return *grads, state, None, None


def unit_lower_inverse(a: Tensor) -> Tensor:
    """Inverse of ``I + strictly_lower(a)``, a ``[M, C, C]``; what a holds on and above the diagonal is ignored.

    Triangles of 8 are solved, then merged in pairs by products, which beats a LAPACK call on every whole matrix; and
    unlike a Neumann series it stays accurate when keys repeat.
    """
    count, size = a.shape[0], a.shape[1]
    width = size if size % _BLOCK else _BLOCK
    diagonal = _diagonal_blocks(a, width).permute(0, 3, 1, 2).reshape(-1, width, width)
    eye = torch.eye(width, dtype=a.dtype, device=a.device).expand_as(diagonal)
    solved = torch.linalg.solve_triangular(diagonal, eye, upper=False, unitriangular=True)
    inverse = torch.zeros_like(a)
    _diagonal_blocks(inverse, width).copy_(solved.view(count, -1, width, width).permute(0, 2, 3, 1))
    while width < size:
        for start in range(0, size - width, 2 * width):
            middle, end = start + width, start + 2 * width  # where the blocks are odd, slices end at size
            below = inverse[:, middle:end, middle:end] @ a[:, middle:end, start:middle]
            torch.neg(below @ inverse[:, start:middle, start:middle], out=inverse[:, middle:end, start:middle])
        width *= 2
    return inverse


def _diagonal_blocks(a: Tensor, width: int) -> Tensor:
    """A view of a ``[M, C, C]``: its diagonal blocks, ``[M, width, width, C / width]``."""
    square: Tensor = a.unflatten(1, (-1, width)).unflatten(3, (-1, width))
    return square.diagonal(dim1=1, dim2=3)
