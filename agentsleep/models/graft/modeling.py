"""A causal language model of transformers with fast-weight layers inserted between its blocks.

Source of the idea: arXiv 2605.26099 gives a looped attention model six SSM layers without MLP, less than a tenth more
parameters, and trains it to sleep.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    Cache,
    DynamicCache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from agentsleep.errors import UnsupportedModel
from agentsleep.models.graft.configuration import GraftConfig
from agentsleep.models.nap.mixers import DeltaMixer, RMSNorm, init_gates

# Padding of the forward that is going on, [B, T] bool: the base model hands its blocks a causal mask, not this.
_padding: ContextVar[Tensor | None] = ContextVar("padding", default=None)


class FastWeightLayer(nn.Module):
    """A pre-norm residual gated delta layer without MLP. Its output starts at zero: a fresh one adds nothing."""

    def __init__(self, config: GraftConfig, index: int) -> None:
        super().__init__()
        self.index = index
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mixer = DeltaMixer(config)  # type: ignore[arg-type]  # has the fields that it reads
        nn.init.normal_(self.mixer.in_proj.weight, std=config.hidden_size**-0.5)
        nn.init.zeros_(self.mixer.out_proj.weight)
        init_gates(self.mixer)
        for module in self.modules():  # the base model would initialise what it finds between its blocks its own way
            module._is_hf_initialized = True  # type: ignore[assignment]

    def forward(self, hidden: Tensor, cache: Cache | None) -> Tensor:
        """``[B, T, D]`` to ``[B, T, D]``; S and the convolution's tail are read from the cache and written there."""
        recurrent = tail = None
        if cache is not None and cache.has_previous_state(self.index):
            recurrent, tail = cache.get_recurrent_state(self.index), cache.get_conv_state(self.index)
        normed = self.norm(hidden.to(self.norm.weight.dtype))
        mixed, recurrent, tail = self.mixer(normed, recurrent, tail, _padding.get())
        if cache is not None:
            cache.update_conv_state(tail, self.index, conv_kernel_size=tail.shape[-1])
            cache.update_recurrent_state(recurrent, self.index)
        added: Tensor = hidden + mixed.to(hidden.dtype)
        return added


class GraftedBlock(nn.Module):
    """A block of the base model with a fast-weight layer behind it; all else that is asked of it, the block answers."""

    def __init__(self, block: nn.Module, graft: FastWeightLayer) -> None:
        super().__init__()
        self.block, self.graft = block, graft

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_"):  # marks that others left on the block are not marks on this
                raise
            return getattr(super().__getattr__("block"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the block's."""
        left = self.block(*args, **kwargs)
        # some call it past_key_values, some layer_past
        cache = next((given for given in (*args, *kwargs.values()) if isinstance(given, Cache)), None)
        if isinstance(left, tuple):
            return (self.graft(left[0], cache), *left[1:])
        return self.graft(left, cache)


class GraftForCausalLM(PreTrainedModel, GenerationMixin):
    """A base model with inserted fast-weight layers; :func:`agentsleep.models.graft.graft` makes one.

    ``base_model`` is that of the base model: its list ``layers`` has the grafted blocks.

    Raises:
        UnsupportedModel: the base model has no list of blocks.
    """

    config_class = GraftConfig
    config: GraftConfig
    base_model_prefix = "base"
    _is_stateful = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: GraftConfig, base: PreTrainedModel | None = None) -> None:
        """``base``: the base model where it is at hand; by default one is made from ``config.base``."""
        super().__init__(config)
        if base is None:
            implementation = config._attn_implementation
            base = AutoModelForCausalLM.from_config(config.base_config(), attn_implementation=implementation)
        self.base = base
        layers = blocks_of(base)
        for index in config.graft_after:
            layers[index] = GraftedBlock(layers[index], FastWeightLayer(config, index))
        self._no_split_modules = ["GraftedBlock", *(base._no_split_modules or [])]
        self.post_init()  # type: ignore[no-untyped-call]

    @property
    def base_model(self) -> nn.Module:
        """The base model without its head."""
        found: nn.Module = self.base.base_model
        return found

    def get_input_embeddings(self) -> nn.Module:
        found: nn.Module = self.base.get_input_embeddings()
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.base.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        found: nn.Module = self.base.get_output_embeddings()
        return found

    def set_output_embeddings(self, value: nn.Module) -> None:
        self.base.set_output_embeddings(value)

    def new_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of the inserted layers, with their names."""
        for name, parameter in self.named_parameters():
            if ".graft." in name:
                yield name, parameter

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As the base model's, with the state of the inserted layers in ``past_key_values`` too.

        Args:
            input_ids: ``[B, T]``; or ``inputs_embeds`` ``[B, T, D]``.
            attention_mask: ``[B, T_past + T]``, 0 at padding, which the inserted layers pass over.
        """
        if use_cache is None:
            use_cache = bool(getattr(self.base.config, "use_cache", True))
        if use_cache and past_key_values is None:  # the base model would make one without room for the new states
            past_key_values = DynamicCache(config=self.config)
        length = (input_ids if input_ids is not None else kwargs["inputs_embeds"]).shape[1]
        with _padded(attention_mask, length):
            out: CausalLMOutputWithPast = self.base(
                input_ids=input_ids,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                use_cache=use_cache,
                **kwargs,
            )
        return out


@contextmanager
def _padded(attention_mask: Tensor | None, length: int) -> Iterator[None]:
    real = None
    if isinstance(attention_mask, Tensor) and attention_mask.dim() == 2 and not bool(attention_mask.all()):
        real = attention_mask[:, -length:].bool()
    token = _padding.set(real)
    try:
        yield
    finally:
        _padding.reset(token)


def blocks_of(model: PreTrainedModel) -> nn.ModuleList:
    """The list of a model's blocks.

    Raises:
        UnsupportedModel: there is none called ``layers``.
    """
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        raise UnsupportedModel(
            f"{type(model.base_model).__name__} has no list of blocks called 'layers' to insert layers into; use a "
            "model that is built as transformers' decoders are"
        )
    return layers
