"""nap: the reference hybrid, attention blocks between SSM blocks, as a transformers model that can sleep."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from agentsleep.models.nap.configuration import NapConfig
from agentsleep.models.nap.mixers import (
    Attention,
    DeltaMixer,
    HebbianMixer,
    ResidualOut,
    RMSNorm,
    init_gates,
    rope_table,
    rotate,
)
from agentsleep.models.nap.sliding import Tail, slide
from agentsleep.state import FastWeights


class NapBlock(nn.Module):
    """Pre-norm residual block: a mixer, then an MLP."""

    def __init__(self, config: NapConfig, letter: str) -> None:
        super().__init__()
        self.norm_mixer = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if letter == "a":
            self.mixer: Attention | DeltaMixer | HebbianMixer = Attention(config)
        else:
            self.mixer = DeltaMixer(config) if config.rule == "delta" else HebbianMixer(config)
        self.norm_mlp = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down = ResidualOut(config.intermediate_size, config.hidden_size)

    def mlp(self, hidden: Tensor) -> Tensor:
        """The residual MLP, ``[B, T, D]`` to ``[B, T, D]``."""
        added: Tensor = self.down(F.gelu(self.up(self.norm_mlp(hidden))))
        return hidden + added


class NapPreTrainedModel(PreTrainedModel):
    """Weights and loading, shared by all nap models."""

    config_class = NapConfig
    config: NapConfig
    base_model_prefix = "model"
    _no_split_modules = ["NapBlock"]
    _is_stateful = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, ResidualOut):
            nn.init.normal_(module.weight, std=(module.in_features * 2 * self.config.num_hidden_layers) ** -0.5)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
        elif isinstance(module, RMSNorm):
            nn.init.ones_(module.weight)
        if isinstance(module, (DeltaMixer, HebbianMixer)):
            init_gates(module)
        if isinstance(module, HebbianMixer):
            nn.init.zeros_(module.conv_bias)
            nn.init.ones_(module.D)


class NapForCausalLM(NapPreTrainedModel, GenerationMixin):
    """The hybrid with its language-model head; it is its own :class:`agentsleep.sleep.Backbone`."""

    def __init__(self, config: NapConfig) -> None:
        super().__init__(config)
        self.embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(NapBlock(config, letter) for letter in config.pattern)
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]
        if "a" not in config.pattern and self.generation_config is not None:
            self.generation_config.use_cache = False  # generate asks the attention layers how much a cache holds

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        assert isinstance(value, nn.Embedding)
        self.embeddings = value

    # The Backbone of a sleep

    def embed(self, ids: Tensor) -> Tensor:
        """Token ids ``[B, T]`` to embeddings ``[B, T, D]``."""
        embedded: Tensor = self.embeddings(ids)
        return embedded

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        """One pass over a whole window, see :meth:`agentsleep.sleep.Backbone.blocks`."""
        batch, length, _ = hidden.shape
        positions = torch.arange(length, device=hidden.device).expand(batch, -1)
        if mask is not None and bool(mask.all()):
            mask = None
        keys_mask = None
        if mask is not None and not bool((mask[:, :-1] >= mask[:, 1:]).all()):
            # Padding on the right is hidden by causality alone; any other padding is not, and shifts the positions.
            positions = (mask.long().cumsum(1) - 1).clamp(min=0)
            keys_mask = visible(mask, length)
        return self._run(hidden, positions, state, mask, keys_mask, None, self.config.sleep_eviction == "sliding")

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        """The next pass's input, as ``sleep_feedback`` says; all ``[B, T, D]``."""
        return hidden if self.config.sleep_feedback == "hidden" else self.norm(hidden) + embedded

    def readout(self, hidden: Tensor) -> Tensor:
        """Logits ``[..., vocab]`` from hidden states ``[..., D]`` before the final norm."""
        logits: Tensor = self.lm_head(self.norm(hidden))
        return logits

    def _run(
        self,
        hidden: Tensor,
        positions: Tensor,
        state: FastWeights,
        mask: Tensor | None,
        keys_mask: Tensor | None,
        cache: Cache | None,
        sliding: bool = False,
    ) -> tuple[Tensor, FastWeights]:
        head_dim = self.config.hidden_size // self.config.num_attention_heads
        rope = rope_table(positions, head_dim, self.config.rope_theta, hidden.dtype)
        after: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            assert isinstance(layer, NapBlock)
            normed = layer.norm_mixer(hidden)
            if isinstance(layer.mixer, Attention):
                q, k, v = layer.mixer.project(normed)
                if sliding:
                    mixed, tail_of = slide(layer.mixer, (q, k, v), Tail.of(state, i), mask, self.config)
                    after |= tail_of.named(i)
                else:
                    q, k = rotate(q, rope), rotate(k, rope)
                    if cache is not None:
                        k, v = cache.update(k, v, i)
                    mixed = layer.mixer(q, k, v, keys_mask)
            else:
                recurrent, tail = state.of(i, "recurrent"), state.of(i, "conv")
                mixed, recurrent, tail = layer.mixer(normed, recurrent, tail, mask)
                after[FastWeights.name(i, "recurrent")] = recurrent
                after[FastWeights.name(i, "conv")] = tail
            hidden = layer.mlp(hidden + mixed)
        return hidden, FastWeights(after)

    # The transformers interface

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """The ordinary pass, continued from ``past_key_values`` (keys, fast weights, convolution tails) where given.

        Args:
            input_ids: ``[B, T]``; or ``inputs_embeds`` ``[B, T, D]``.
            attention_mask: ``[B, T_past + T]``, 0 at padding; or a ready mask ``[B, 1, T, T_past + T]``, bool (True
                is visible) or additive, for the attention blocks alone.
            labels: ``[B, T]``, shifted inside; -100 carries no loss.
            logits_to_keep: how many of the last positions get logits (all when 0), or their indices.
        """
        hidden = self.embed(input_ids) if inputs_embeds is None else inputs_embeds  # type: ignore[arg-type]
        batch, length, _ = hidden.shape
        if past_key_values is None and use_cache:
            past_key_values = DynamicCache(config=self.config)
        past = 0
        if past_key_values is not None and "a" in self.config.pattern:
            past = int(past_key_values.get_seq_length())
        span = self.config.sleep_window if self.config.sleep_eviction == "sliding" else past + length
        mask, keys_mask = None, None
        if attention_mask is not None and attention_mask.dim() == 4:
            keys_mask = attention_mask
        elif attention_mask is not None and not bool(attention_mask.all()):
            whole = attention_mask.bool()
            keys_mask, mask = visible(whole, length, span), whole[:, -length:]
            if position_ids is None:
                position_ids = (whole.long().cumsum(1) - 1).clamp(min=0)[:, -length:]
        if keys_mask is None and ((past and length > 1) or span < past + length):
            keys_mask = visible(torch.ones(batch, past + length, dtype=torch.bool, device=hidden.device), length, span)
        if position_ids is None:
            position_ids = torch.arange(past, past + length, device=hidden.device).expand(batch, -1)
        hidden, after = self._run(
            hidden, position_ids, state_of(past_key_values, self.config), mask, keys_mask, past_key_values
        )
        if past_key_values is not None:
            for i, letter in enumerate(self.config.pattern):
                if letter == "s":
                    recurrent, tail = after[FastWeights.name(i, "recurrent")], after[FastWeights.name(i, "conv")]
                    past_key_values.update_conv_state(tail, i, conv_kernel_size=tail.shape[-1])
                    past_key_values.update_recurrent_state(recurrent, i)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) and logits_to_keep else slice(None)
        logits = self.readout(hidden[:, kept if isinstance(logits_to_keep, int) else logits_to_keep])
        loss = None
        if labels is not None:
            # not the mean alone: a Trainer that accumulates gradients hands in how many labels there are in all
            loss = self.loss_function(logits, labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)


def visible(whole: Tensor, length: int, span: int | None = None) -> Tensor:
    """Causal mask ``[B, 1, T, T_kv]`` (True is visible) for the last ``length`` of the positions ``whole`` [B, T_kv];
    of these a token sees the last ``span``, itself included (all for None).

    A padded query sees itself, so that its softmax is not empty.
    """
    total = whole.shape[1]
    steps = torch.arange(total, device=whole.device)
    queries = steps[total - length :, None]
    near = (steps <= queries) & (queries - steps < (span or total))
    return (near & whole[:, None, None, :]) | (steps == queries)


def state_of(cache: Cache | None, config: NapConfig) -> FastWeights:
    """The fast weights that a transformers cache holds; empty for an empty cache."""
    tensors: dict[str, Tensor] = {}
    if cache is not None:
        for i, letter in enumerate(config.pattern):
            if letter == "s" and cache.has_previous_state(i):
                recurrent, tail = cache.get_recurrent_state(i), cache.get_conv_state(i)
                assert recurrent is not None and tail is not None
                tensors[FastWeights.name(i, "recurrent")] = recurrent
                tensors[FastWeights.name(i, "conv")] = tail
    return FastWeights(tensors)
