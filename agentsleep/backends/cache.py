"""The caches of transformers, opened up: the only file that knows how they are built inside.

Written for transformers 5.21 to 5.23. A cache has one layer a block: ``keys`` and ``values`` of attention,
``conv_states`` and ``recurrent_states`` of an SSM, or both.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer, LinearAttentionLayer

from agentsleep.errors import UnsupportedModel
from agentsleep.state import FastWeights

POSITION = "window.position"  # of the next token, where keys of earlier windows are still seen; 0 without it


class _Rebinding:
    """Mixed into transformers' own layers of SSM state, which copy in place: here a new state takes the old one's
    place, so that a gradient can flow back through it, and a tensor that was handed in stays as it was."""

    conv_states: dict[int, Tensor | None]
    recurrent_states: dict[int, Tensor]
    conv_kernel_size: dict[int, int]
    has_previous_state: dict[int, bool]
    is_conv_states_initialized: dict[int, bool]
    is_recurrent_states_initialized: dict[int, bool]
    device: torch.device | None
    dtype: torch.dtype | None

    def update_conv_state(
        self, conv_states: Tensor, state_idx: int = 0, conv_kernel_size: int | None = None, **kwargs: Any
    ) -> Tensor:
        """Takes inputs of the convolution, ``[B, D, T]``; returns them behind the tail of those before."""
        if self.device is None:
            self.device, self.dtype = conv_states.device, conv_states.dtype
        if not self.is_conv_states_initialized[state_idx]:
            self.conv_kernel_size[state_idx] = conv_kernel_size or conv_states.shape[-1]
            self.is_conv_states_initialized[state_idx] = True
        width = self.conv_kernel_size[state_idx]
        tail = self.conv_states[state_idx]
        if tail is not None:
            whole = torch.cat((tail, conv_states), -1)
        else:  # also where there is a recurrent state: a pass starts with fresh tails
            whole = F.pad(conv_states, (max(0, width - conv_states.shape[-1]), 0))
        self.has_previous_state[state_idx] = True
        self.conv_states[state_idx] = whole[..., whole.shape[-1] - width :]
        return whole

    def update_recurrent_state(self, recurrent_states: Tensor, state_idx: int = 0, **kwargs: Any) -> Tensor:
        """Takes the state behind the tokens just read."""
        self.is_recurrent_states_initialized[state_idx] = True
        self.recurrent_states[state_idx] = recurrent_states
        return recurrent_states


def open_cache(config: PreTrainedConfig, state: FastWeights) -> DynamicCache:
    """A cache from which a model reads on: the fast weights and convolution tails of ``state``, and its keys if it has
    any. The state's own tensors are never written to.

    Raises:
        UnsupportedModel: a state that does not fit the model's layers.
    """
    cache = DynamicCache(config=config)
    for i, layer in enumerate(cache.layers):
        if isinstance(layer, LinearAttentionLayer):
            cache.layers[i] = _rebinding(layer)
    for name, tensor in state.items():
        if name == POSITION:
            continue
        _, number, *which, kind = name.split(".")
        index = int(number)
        if index >= len(cache.layers):
            raise UnsupportedModel(f"a state with {name!r} does not fit a model of {len(cache.layers)} layers")
        _put(cache.layers[index], kind, int(which[0]) if which else 0, tensor)
    return cache


_classes: dict[type, type] = {}


def _rebinding(layer: LinearAttentionLayer) -> Any:
    kind = type(layer)
    if kind not in _classes:
        _classes[kind] = type(f"Rebinding{kind.__name__}", (_Rebinding, kind), {})
    made: Any = object.__new__(_classes[kind])
    made.__dict__.update(vars(layer))
    return made


def _put(layer: Any, kind: str, which: int, tensor: Tensor) -> None:
    if kind == "recurrent":
        layer.recurrent_states[which] = _own(tensor)
        layer.is_recurrent_states_initialized[which] = True
        layer.has_previous_state[which] = True
    elif kind == "conv":
        layer.conv_states[which] = _own(tensor)
        layer.is_conv_states_initialized[which] = layer.has_previous_state[which] = True
        layer.conv_kernel_size[which] = tensor.shape[-1]
        layer.device, layer.dtype = tensor.device, tensor.dtype
    elif kind in ("keys", "values"):
        setattr(layer, kind, tensor)
        layer.dtype, layer.device, layer.is_initialized = tensor.dtype, tensor.device, True


def _own(tensor: Tensor) -> Tensor:
    """A copy, since a step of one token writes in place."""
    return tensor.clone(memory_format=torch.contiguous_format)


def state_of(cache: DynamicCache, keep: int = 0) -> FastWeights:
    """What a cache holds besides keys: fast weights and convolution tails; with ``keep``, also the last so many keys
    and values of every attention layer. All are copies, which the cache does not write to when it reads on.

    Raises:
        UnsupportedModel: ``keep`` where attention already slides: such a layer has no tail of its own to keep.
    """
    tensors: dict[str, Tensor] = {}
    for i, layer in enumerate(cache.layers):
        if isinstance(layer, LinearAttentionLayer):
            for which in layer.recurrent_states:
                prefix = f"layers.{i}" if which == 0 else f"layers.{i}.{which}"
                if (state := layer.recurrent_states[which]) is not None:
                    tensors[f"{prefix}.recurrent"] = _own(state)
                if (tail := layer.conv_states[which]) is not None:
                    tensors[f"{prefix}.conv"] = _own(tail)
        if keep and isinstance(layer, DynamicLayer) and layer.keys is not None and layer.values is not None:
            if isinstance(layer, DynamicSlidingWindowLayer):
                raise UnsupportedModel(
                    f"block {i} has sliding-window attention of its own; use eviction 'hard' with this model"
                )
            tensors[f"layers.{i}.keys"] = _own(layer.keys[:, :, -keep:])
            tensors[f"layers.{i}.values"] = _own(layer.values[:, :, -keep:])
    return FastWeights(tensors)


@contextmanager
def kept_for_backward(cache: DynamicCache) -> Iterator[None]:
    """Around the step of one token, which in Mamba layers writes into the state: a backward pass still needs what the
    state was, so what autograd saves of it is saved as a copy."""
    if not torch.is_grad_enabled():
        yield
        return
    layers = [layer for layer in cache.layers if isinstance(layer, LinearAttentionLayer)]
    written = {
        tensor.untyped_storage().data_ptr()
        for layer in layers
        for tensor in layer.recurrent_states.values()
        if tensor is not None
    }

    def pack(tensor: Tensor) -> Tensor:
        return tensor.clone() if tensor.untyped_storage().data_ptr() in written else tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        yield


def has_attention(cache: DynamicCache) -> bool:
    """Whether there are keys to evict at all."""
    return any(isinstance(layer, DynamicLayer) for layer in cache.layers)


def keys_held(cache: DynamicCache) -> int | None:
    """For how many tokens there are keys; None where there is no attention."""
    lengths = [layer.get_seq_length() for layer in cache.layers if isinstance(layer, DynamicLayer)]
    return max(lengths, default=None)
