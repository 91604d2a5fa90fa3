"""Pure tensor functions: two fast-weight rules, each as a naive reference and in chunks, and the causal convolution."""

from __future__ import annotations

from agentsleep.ops.conv import causal_conv1d
from agentsleep.ops.delta import gated_delta_chunked, gated_delta_naive
from agentsleep.ops.hebbian import gated_hebbian_chunked, gated_hebbian_naive

__all__ = [
    "causal_conv1d",
    "gated_delta_chunked",
    "gated_delta_naive",
    "gated_hebbian_chunked",
    "gated_hebbian_naive",
]
