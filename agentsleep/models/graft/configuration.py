"""Configuration of a graft: a causal language model of transformers with inserted fast-weight layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from agentsleep.errors import SettingsError, UnsupportedModel

# What a cache layer has to hold where a layer with a state of its own comes behind the block's attention.
_GRAFTED = {"full_attention": "hybrid", "sliding_attention": "hybrid_sliding"}
# What others ask of any config; it is the base model's.
_INHERITED = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "sliding_window",
    "max_position_embeddings",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class GraftConfig(PreTrainedConfig):
    """Settings of a :class:`GraftForCausalLM`.

    Args:
        base: the config of the base model as a dict, ``model_type`` among its entries.
        graft_after: the blocks, counted from 0, behind which a fast-weight layer is inserted.
        linear_num_heads, linear_key_head_dim, linear_value_head_dim: H, K and V of S ``[B, H, K, V]``.
        linear_conv_kernel_dim: width W of the causal convolution.
        rms_norm_eps: of the inserted layers' norms.

    ``sleep_*`` fields are those of :class:`agentsleep.backends.SleepSettings`.

    Raises:
        SettingsError: blocks that the base model does not have, or a size below 1.
        UnsupportedModel: a base model with other than full or sliding attention.
    """

    model_type = "agentsleep_graft"
    keys_to_ignore_at_inference = ("past_key_values",)

    def __init__(
        self,
        base: Mapping[str, Any] | None = None,
        graft_after: Sequence[int] = (),
        linear_num_heads: int = 4,
        linear_key_head_dim: int = 32,
        linear_value_head_dim: int = 32,
        linear_conv_kernel_dim: int = 4,
        rms_norm_eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        self.base = dict(base or {})
        self.graft_after = sorted(set(graft_after))
        sizes = (linear_num_heads, linear_key_head_dim, linear_value_head_dim, linear_conv_kernel_dim)
        if min(sizes) < 1:
            raise SettingsError(
                f"heads, key size, value size and convolution width are {sizes}; each must be at least 1"
            )
        self.linear_num_heads = linear_num_heads
        self.linear_key_head_dim = linear_key_head_dim
        self.linear_value_head_dim = linear_value_head_dim
        self.linear_conv_kernel_dim = linear_conv_kernel_dim
        self.rms_norm_eps = rms_norm_eps
        for derived in ("layer_types", *_INHERITED):  # they follow from the base model, also when read from a file
            kwargs.pop(derived, None)
        found = self.base_config() if self.base else None  # transformers makes empty ones, to learn the defaults
        self.layer_types = None if found is None else self._layer_types(found)
        for name in _INHERITED:
            setattr(self, name, getattr(found, name, None))
        super().__init__(**kwargs)

    def base_config(self) -> PreTrainedConfig:
        """The base model's config."""
        settings = {name: value for name, value in self.base.items() if name != "model_type"}
        made: PreTrainedConfig = AutoConfig.for_model(self.base["model_type"], **settings)
        return made

    def _layer_types(self, base: PreTrainedConfig) -> list[str]:
        types = attention_types(base)
        if outside := [index for index in self.graft_after if not 0 <= index < len(types)]:
            raise SettingsError(f"graft_after names the blocks {outside}; the base model has 0 to {len(types) - 1}")
        return [_GRAFTED[kind] if index in self.graft_after else kind for index, kind in enumerate(types)]


def attention_types(config: PreTrainedConfig) -> list[str]:
    """The kind of attention of every block.

    Raises:
        UnsupportedModel: a model with parts beside its text, with fast weights of its own, or with other attention.
    """
    if config.get_text_config(decoder=True) is not config:
        raise UnsupportedModel(f"{config.model_type} has parts beside its text; give its text model alone")
    types = getattr(config, "layer_types", None)
    if types is None:
        sliding = getattr(config, "sliding_window", None) is not None
        types = ["sliding_attention" if sliding else "full_attention"] * config.num_hidden_layers
    others = sorted(set(types) - set(_GRAFTED))
    if {"linear_attention", "hybrid", "mamba"} & set(others) or not hasattr(config, "num_attention_heads"):
        raise UnsupportedModel(f"{config.model_type} has fast weights already; fine-tune it directly, without a graft")
    if others or getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(
            f"{config.model_type} has blocks of type {', '.join(others) or 'encoder'}; inserted layers go behind "
            f"{' or '.join(_GRAFTED)} alone"
        )
    return list(types)
