"""Models small enough for a test, with weights at which every part of a block matters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.state import FastWeights

VOCAB = 31
RULES = ("delta", "hebbian")


def tiny(pattern: str = "asas", rule: str = "delta", **overrides: Any) -> NapForCausalLM:
    """A nap of a few thousand weights, the same in every call."""
    settings: dict[str, Any] = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_attention_heads": 2,
        "linear_num_heads": 2,
        "linear_key_head_dim": 4,
        "linear_value_head_dim": 6,
    }
    random = torch.random.get_rng_state()
    torch.manual_seed(1)
    model = NapForCausalLM(NapConfig(pattern=pattern, rule=rule, **(settings | overrides)))
    enliven(model)
    torch.random.set_rng_state(random)
    return model.eval()


def precise(pattern: str = "asas", rule: str = "delta", **overrides: Any) -> NapForCausalLM:
    """The same in fp64, so that a comparison need not allow for rounding that these weights make larger."""
    return tiny(pattern, rule, **overrides).double()


def enliven(model: torch.nn.Module) -> None:
    """At first the embeddings are small, the gates near 1 and the scales all 1: a mistake would hide in the noise."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("embeddings"):
                parameter.normal_()
            elif parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif name.endswith(("conv_weight", "out_proj.weight", "down.weight")):
                parameter.mul_(3)
            if name.endswith("dt_bias"):
                parameter.uniform_(-2.0, 0.5)


def tokens(*shape: int) -> Tensor:
    """Random token ids."""
    return torch.randint(0, VOCAB, shape)


def some_state(model: NapForCausalLM, batch: int = 1, scale: float = 0.5) -> FastWeights:
    """Random fast weights and convolution tails, as if something had been read before."""
    _, state = model.blocks(model.embed(torch.zeros(batch, 1, dtype=torch.long)), FastWeights())
    return FastWeights({name: torch.randn_like(t) * scale if t.is_floating_point() else t for name, t in state.items()})


def in_cache(model: NapForCausalLM, state: FastWeights) -> DynamicCache:
    """A transformers cache that holds this state and no keys."""
    cache = DynamicCache(config=model.config)
    for i, letter in enumerate(model.config.pattern):
        recurrent, tail = state.of(i, "recurrent"), state.of(i, "conv")
        if letter == "s" and recurrent is not None:
            if tail is None:
                channels, width = model.layers[i].mixer.conv_weight.shape
                tail = recurrent.new_zeros(recurrent.shape[0], channels, width - 1)
            cache.update_conv_state(tail, i)
            cache.update_recurrent_state(recurrent, i)
    return cache


def assert_close(a: Tensor, b: Tensor, tolerance: float | None = None) -> None:
    if tolerance is None:
        tolerance = 1e-6 if a.dtype == torch.float64 else 1e-5  # the gates are counted in fp32 all the same
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def assert_same_state(a: FastWeights, b: FastWeights) -> None:
    assert list(a) == list(b)
    for name in a:
        assert_close(a[name], b[name])
