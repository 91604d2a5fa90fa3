"""Sliding eviction: attention keeps the keys of the last L - 1 tokens across windows (the paper's second variant)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentsleep.errors import InputError
from agentsleep.models.nap.configuration import NapConfig
from agentsleep.models.nap.mixers import Attention, rope_table, rotate
from agentsleep.state import FastWeights


@dataclass(frozen=True)
class Tail:
    """What an attention layer keeps of a window.

    keys, values: ``[B, H, t, head_dim]``, t <= L - 1, the newest last; keys are not rotated, since their positions
    are counted from the window that sees them.
    seen: ``[B, t]`` bool; False where a row had fewer tokens.
    """

    keys: Tensor
    values: Tensor
    seen: Tensor

    @classmethod
    def of(cls, state: FastWeights, layer: int) -> Tail | None:
        """The tail of a layer in a state; None for an empty one."""
        keys, values, seen = state.of(layer, "keys"), state.of(layer, "values"), state.of(layer, "seen")
        if keys is None or values is None or seen is None:
            return None
        return cls(keys, values, seen)

    def named(self, layer: int) -> dict[str, Tensor]:
        """Its tensors under the names that FastWeights gives them."""
        return {
            FastWeights.name(layer, "keys"): self.keys,
            FastWeights.name(layer, "values"): self.values,
            FastWeights.name(layer, "seen"): self.seen,
        }


def slide(
    mixer: Attention, qkv: tuple[Tensor, Tensor, Tensor], before: Tail | None, mask: Tensor | None, config: NapConfig
) -> tuple[Tensor, Tail]:
    """Attention over a window of which every token sees the L - 1 tokens before it, those of ``before`` included.

    Args:
        qkv: as :meth:`Attention.project` gives them, each ``[B, H, T, head_dim]``.
        mask: ``[B, T]`` bool, False at padding, which must be on the right.

    Returns:
        The output ``[B, T, D]`` and what the next window will see.

    Raises:
        InputError: padding on another side.
    """
    q, k, v = qkv
    batch, _, length, head_dim = k.shape
    span = config.sleep_window
    real = torch.ones(batch, length, dtype=torch.bool, device=k.device) if mask is None else mask.bool()
    if not bool((real[:, :-1] >= real[:, 1:]).all()):
        raise InputError("sliding eviction wants padding on the right; pad the rows there, or use hard eviction")
    tail = before or Tail(k[:, :, :0], v[:, :, :0], real[:, :0])
    keys, values = torch.cat((tail.keys, k), 2), torch.cat((tail.values, v), 2)
    seen = torch.cat((tail.seen, real), 1)
    old = keys.shape[2] - length
    positions = torch.arange(-old, length, device=k.device)
    rope = rope_table(positions[None], head_dim, config.rope_theta, k.dtype)
    here = (rope[0][:, :, old:], rope[1][:, :, old:])
    distance = positions[old:, None] - positions
    visible = ((distance >= 0) & (distance < span) & seen[:, None, None, :]) | (distance == 0)
    mixed = mixer(rotate(q, here), rotate(keys, rope), values, visible)
    newest = torch.argsort(seen.to(torch.uint8), dim=1, stable=True)[:, max(0, old + length - span + 1) :]
    index = newest[:, None, :, None].expand(-1, keys.shape[1], -1, head_dim)
    return mixed, Tail(keys.gather(2, index), values.gather(2, index), seen.gather(1, newest))
