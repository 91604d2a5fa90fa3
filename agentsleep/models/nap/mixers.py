"""The token mixers of nap: causal attention, and the two fast-weight rules."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from agentsleep.models.nap.configuration import NapConfig
from agentsleep.ops import causal_conv1d, gated_delta_chunked, gated_hebbian_chunked


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, with a learned scale."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float() if x.dtype == torch.bfloat16 else x
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return (wide * scale).to(x.dtype) * self.weight


class ResidualOut(nn.Linear):
    """A projection without bias that ends a residual branch; it starts smaller than the others."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)


def rope_table(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines ``[B, 1, T, head_dim / 2]`` for positions ``[B, T]`` (rotary embedding, arXiv 2104.09864)."""
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angles = positions[:, None, :, None].float() * theta**-exponents
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Applies rotary positions to ``[B, H, T, head_dim]``; the two halves of a head hold the pairs."""
    cos, sin = rope
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class Attention(nn.Module):
    """Multi-head attention with rotary positions. Keys and values are kept by the caller."""

    def __init__(self, config: NapConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.in_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.out_proj = ResidualOut(config.hidden_size, config.hidden_size)

    def project(self, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``[B, H, T, head_dim]``, not rotated yet, from hidden states ``[B, T, D]``."""
        batch, length, size = hidden.shape
        qkv = self.in_proj(hidden).view(batch, length, 3, self.heads, size // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        return q, k, v

    def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """Attends and projects to ``[B, T, D]``; ``mask`` broadcasts to ``[B, H, T, T_kv]``, causal when None."""
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and q.shape[2] > 1)
        out: Tensor = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out


class DeltaMixer(nn.Module):
    """Gated delta rule block, in the form of Gated DeltaNet (arXiv 2412.06464) as Qwen3.5 builds it.

    ``in_proj`` stacks the projections of q, k, v, the output gate z, the write gate b and the forget gate a.
    """

    def __init__(self, config: NapConfig) -> None:
        super().__init__()
        self.heads, self.k_dim, self.v_dim = (
            config.linear_num_heads,
            config.linear_key_head_dim,
            config.linear_value_head_dim,
        )
        keys, values = self.heads * self.k_dim, self.heads * self.v_dim
        self.splits = [2 * keys + values, values, self.heads, self.heads]
        self.in_proj = nn.Linear(config.hidden_size, sum(self.splits), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(2 * keys + values, config.linear_conv_kernel_dim))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.norm = RMSNorm(self.v_dim, config.rms_norm_eps)
        self.out_proj = ResidualOut(values, config.hidden_size)

    def forward(
        self, hidden: Tensor, recurrent: Tensor | None, tail: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output ``[B, T, D]``, final S ``[B, H, K, V]`` and convolution tail ``[B, 2HK + HV, W - 1]``."""
        qkv, z, b, a = self.in_proj(hidden).split(self.splits, -1)
        qkv, tail = causal_conv1d(qkv, self.conv_weight, None, tail=tail, mask=mask)
        keys, values = self.heads * self.k_dim, self.heads * self.v_dim
        q, k, v = F.silu(qkv).split((keys, keys, values), -1)
        q = unit(q.unflatten(-1, (self.heads, self.k_dim))) * self.k_dim**-0.5
        k = unit(k.unflatten(-1, (self.heads, self.k_dim)))
        v = v.unflatten(-1, (self.heads, self.v_dim))
        g = -self.A_log.float().exp() * F.softplus(a.float() + self.dt_bias)
        mixed, recurrent = gated_delta_chunked(q, k, v, g, b.sigmoid(), initial_state=recurrent, mask=mask)
        gated = self.norm(mixed) * F.silu(z.unflatten(-1, (self.heads, self.v_dim)))
        return self.out_proj(gated.flatten(2)), recurrent, tail


class HebbianMixer(nn.Module):
    """Gated Hebbian block: the Mamba-2 mixer (arXiv 2405.21060) with one group.

    ``in_proj`` stacks the output gate z, the inputs of the convolution (values x, keys B, queries C) and the time step.
    The value is weighted by the time step, and D adds a skip from x.
    """

    def __init__(self, config: NapConfig) -> None:
        super().__init__()
        self.heads, self.k_dim, self.v_dim = (
            config.linear_num_heads,
            config.linear_key_head_dim,
            config.linear_value_head_dim,
        )
        values = self.heads * self.v_dim
        self.splits = [values, values + 2 * self.k_dim, self.heads]
        self.in_proj = nn.Linear(config.hidden_size, sum(self.splits), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(values + 2 * self.k_dim, config.linear_conv_kernel_dim))
        self.conv_bias = nn.Parameter(torch.zeros(values + 2 * self.k_dim))
        self.A_log = nn.Parameter(torch.empty(self.heads))
        self.dt_bias = nn.Parameter(torch.empty(self.heads))
        self.D = nn.Parameter(torch.ones(self.heads))
        self.norm = RMSNorm(values, config.rms_norm_eps)
        self.out_proj = ResidualOut(values, config.hidden_size)

    def forward(
        self, hidden: Tensor, recurrent: Tensor | None, tail: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output ``[B, T, D]``, final S ``[B, H, K, V]`` and convolution tail ``[B, HV + 2K, W - 1]``."""
        z, xkq, dt = self.in_proj(hidden).split(self.splits, -1)
        xkq, tail = causal_conv1d(xkq, self.conv_weight, self.conv_bias, tail=tail, mask=mask)
        x, k, q = F.silu(xkq).split((self.heads * self.v_dim, self.k_dim, self.k_dim), -1)
        x = x.unflatten(-1, (self.heads, self.v_dim))
        k, q = (t.unsqueeze(2).expand(-1, -1, self.heads, -1) for t in (k, q))
        step = F.softplus(dt.float() + self.dt_bias)
        g = -self.A_log.float().exp() * step
        mixed, recurrent = gated_hebbian_chunked(q, k, x, g, step, initial_state=recurrent, mask=mask)
        mixed = mixed + x * self.D[:, None]
        return self.out_proj(self.norm(mixed.flatten(2) * F.silu(z))), recurrent, tail


def unit(x: Tensor) -> Tensor:
    """x scaled to length 1 over the last dimension."""
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


def init_gates(mixer: DeltaMixer | HebbianMixer) -> None:
    """Forget gates that start near 1: a time step of 1/2000 to 1/200 with a decay rate of 1."""
    with torch.no_grad():
        low, high = math.log(1 / 2000), math.log(1 / 200)
        step = torch.empty_like(mixer.dt_bias).uniform_(low, high).exp()
        if isinstance(mixer, HebbianMixer):  # here the time step is the write strength too, so the rate is made small
            mixer.A_log.fill_(math.log(0.01))
            step = torch.empty_like(mixer.dt_bias).uniform_(math.log(0.05), math.log(0.5)).exp()
        else:
            mixer.A_log.zero_()
        mixer.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))
        bound = mixer.conv_weight.shape[1] ** -0.5
        mixer.conv_weight.uniform_(-bound, bound)
