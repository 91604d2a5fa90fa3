"""Grafting: an attention-only model is given fast-weight layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from agentsleep.errors import SettingsError
from agentsleep.models.graft.configuration import GraftConfig, attention_types
from agentsleep.models.graft.modeling import FastWeightLayer, GraftForCausalLM, blocks_of

LARGEST_SHARE = 0.1  # of the base model's parameters; arXiv 2605.26099 stays below a tenth


def graft(
    model: PreTrainedModel,
    *,
    after: Sequence[int] | None = None,
    heads: int = 4,
    key_dim: int = 32,
    value_dim: int = 32,
    sleep: Mapping[str, Any] | None = None,
    largest_share: float = LARGEST_SHARE,
) -> GraftForCausalLM:
    """Inserts fast-weight layers into an attention-only model, which from then on is part of the result. Fresh ones add
    nothing: the result computes what the model computed.

    Args:
        model: a causal language model of transformers with full or sliding attention.
        after: the blocks, counted from 0, behind which a layer is inserted; by default as many as fit below
            ``largest_share``, at most one for every two blocks, evenly spread.
        heads, key_dim, value_dim: H, K and V of each layer's S ``[B, H, K, V]``.
        sleep: fields of :class:`agentsleep.backends.SleepSettings`, kept in the config as ``sleep_*``.
        largest_share: what the new parameters may be of the model's, exclusive.

    Raises:
        UnsupportedModel: the model has fast weights already, other kinds of attention, or no list of blocks.
        SettingsError: the new layers would be too large, or blocks are named that the model does not have.
    """
    count = len(attention_types(model.config))
    blocks_of(model)
    one = _layer_size(model.config.hidden_size, heads, key_dim, value_dim)
    own = sum(p.numel() for p in model.parameters())
    if after is None:
        fitting = min((count + 1) // 2, int(largest_share * own / one))
        after = spread(count, max(1, fitting if fitting * one < largest_share * own else fitting - 1))
    new = len(set(after)) * one
    if new >= largest_share * own:
        raise SettingsError(
            f"{len(set(after))} layers of {heads} heads, {key_dim} by {value_dim}, are {new:,} parameters, "
            f"{new / own:.1%} of the model's {own:,}; name fewer blocks, fewer heads or smaller ones, or raise "
            f"largest_share, which is {largest_share}"
        )
    config = GraftConfig(
        base=_plain(model.config),
        graft_after=after,
        linear_num_heads=heads,
        linear_key_head_dim=key_dim,
        linear_value_head_dim=value_dim,
        dtype=model.dtype,
    )
    for name, value in (sleep or {}).items():
        setattr(config, f"sleep_{name}", list(value) if isinstance(value, tuple) else value)
    config._attn_implementation = model.config._attn_implementation
    grafted = GraftForCausalLM(config, model)
    device = next(model.parameters()).device
    for parameter in (p for _, p in grafted.new_parameters()):
        parameter.data = parameter.data.to(device, model.dtype)
    if model.generation_config is not None:
        grafted.generation_config = model.generation_config
    grafted.train(model.training)
    return grafted


def share(model: GraftForCausalLM) -> float:
    """What the inserted layers' parameters are of the base model's."""
    new = sum(p.numel() for _, p in model.new_parameters())
    return new / (sum(p.numel() for p in model.parameters()) - new)


def spread(blocks: int, layers: int) -> list[int]:
    """Blocks behind which so many layers stand evenly, the last block among them."""
    return [round((i + 1) * blocks / layers) - 1 for i in range(layers)]


def _layer_size(hidden: int, heads: int, key_dim: int, value_dim: int) -> int:
    with torch.device("meta"):
        config = GraftConfig(linear_num_heads=heads, linear_key_head_dim=key_dim, linear_value_head_dim=value_dim)
        config.hidden_size = hidden
        return sum(p.numel() for p in FastWeightLayer(config, 0).parameters())


def _plain(config: PreTrainedConfig) -> dict[str, Any]:
    """A config as a dict that JSON can hold, without what is said once for the whole."""
    plain: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    beside = ("architectures", "transformers_version", "_name_or_path")
    return {name: value for name, value in plain.items() if name not in beside and not name.startswith("sleep_")}
