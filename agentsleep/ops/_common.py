"""What all forms of both rules share: checks, masking, the state they start from, the dtype they count in."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from agentsleep.errors import InputError, SettingsError

_P = ParamSpec("_P")
_R = TypeVar("_R")


def accumulate_dtype(x: Tensor) -> torch.dtype:
    """The state is kept in fp32, or in fp64 when the input is."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def apply_mask(g: Tensor, beta: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Gates ``[B, T, H]`` with a padded token's decay and write switched off."""
    if mask is None:
        return g, beta
    hidden = ~mask.bool()[..., None]
    return g.masked_fill(hidden, 0.0), beta.masked_fill(hidden, 0.0)


def hide(x: Tensor, mask: Tensor | None) -> Tensor:
    """x ``[B, T, H, D]`` with padded tokens zeroed: closed gates alone would let a padded inf or NaN through."""
    return x if mask is None else x.masked_fill(~mask.bool()[..., None, None], 0.0)


def new_state(initial_state: Tensor | None, k: Tensor, v: Tensor) -> Tensor:
    """The state ``[B, H, K, V]`` a scan starts from, in the dtype of k ``[B, T, H, K]``; v is ``[B, T, H, V]``."""
    if initial_state is not None:
        return initial_state.to(k.dtype)
    return k.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3])


def uncast(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Have autocast leave the products of a rule alone: the state must not be rounded to bf16."""

    @wraps(function)
    def inner(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        kind = next(x.device.type for x in (*args, *kwargs.values()) if isinstance(x, Tensor))
        if not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
            return function(*args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return function(*args, **kwargs)

    return inner


def check_inputs(
    q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, initial_state: Tensor | None, mask: Tensor | None
) -> None:
    """Raise InputError when the shapes do not fit together."""
    if q.dim() != 4 or v.dim() != 4 or 0 in q.shape or 0 in v.shape:
        raise InputError(
            f"a fast-weight rule wants q [B, T, H, K] and v [B, T, H, V], no size 0, got {list(q.shape)} and "
            f"{list(v.shape)}; skip the call for an empty sequence"
        )
    batch, length, heads, key_dim = q.shape
    wanted: tuple[tuple[str, Tensor | None, tuple[int, ...]], ...] = (
        ("k", k, (batch, length, heads, key_dim)),
        ("v", v, (batch, length, heads, v.shape[3])),
        ("g", g, (batch, length, heads)),
        ("beta", beta, (batch, length, heads)),
        ("initial_state", initial_state, (batch, heads, key_dim, v.shape[3])),
        ("mask", mask, (batch, length)),
    )
    for name, value, shape in wanted:
        if value is not None and tuple(value.shape) != shape:
            raise InputError(
                f"{name} has shape {list(value.shape)}; with q {list(q.shape)} and v {list(v.shape)} it must be "
                f"{list(shape)}"
            )


def check_chunk_size(chunk_size: int | None) -> None:
    """Raise SettingsError unless the chunk size is None or positive."""
    if chunk_size is not None and chunk_size < 1:
        raise SettingsError(f"chunk_size is {chunk_size}; give at least 1, or None to let the shape decide")
