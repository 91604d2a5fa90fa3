"""Tiny models of transformers' own classes, with weights at which dropping the state is seen in the logits.

With transformers' first weights the state of a Mamba layer is of the order of 1e-3, and a continuation that is wrong
through and through differs by 1e-5. Here every part of a block has a say.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel

from agentsleep.backends.loading import shipped_model
from agentsleep.errors import InputError

POSITIONS = 512  # max_position_embeddings

_BASE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "tie_word_embeddings": False,
}
_ALTERNATING = ["linear_attention", "full_attention"] * 2
_DELTA: dict[str, Any] = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4,
    "layer_types": _ALTERNATING,
}
_EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "layer_types": _ALTERNATING,
}
_MAMBA2: dict[str, Any] = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16}
_MAMBA1: dict[str, Any] = {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8, "mamba_dt_rank": 4}
_LINEAR_EXPERTS = {**_EXPERTS, "shared_expert_intermediate_size": 16}

# Family: (class of the model, of its config, settings besides _BASE).
_HYBRIDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3_next": ("Qwen3NextForCausalLM", "Qwen3NextConfig", {**_DELTA, **_LINEAR_EXPERTS, "head_dim": 8}),
    "qwen3_5": ("Qwen3_5ForCausalLM", "Qwen3_5TextConfig", {**_DELTA, "head_dim": 16}),
    "qwen3_5_moe": ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeTextConfig", {**_DELTA, **_LINEAR_EXPERTS, "head_dim": 16}),
    "olmo_hybrid": ("OlmoHybridForCausalLM", "OlmoHybridConfig", _DELTA),
    "kimi_linear": (
        "KimiLinearForCausalLM",
        "KimiLinearConfig",
        {
            **_LATENT,
            "linear_head_dim": 8,
            "linear_num_heads": 4,
            "num_experts": 4,
            "num_experts_per_token": 2,
            "moe_intermediate_size": 16,
        },
    ),
    "bailing_hybrid": (
        "BailingHybridForCausalLM",
        "BailingHybridConfig",
        {**_LATENT, **_EXPERTS, "num_mtp_layers": 0, "n_group": 2, "topk_group": 1, "head_dim": 8},
    ),
    "falcon_h1": ("FalconH1ForCausalLM", "FalconH1Config", {**_MAMBA2, "mamba_d_ssm": 64, "mamba_n_groups": 1}),
    "granitemoehybrid": (
        "GraniteMoeHybridForCausalLM",
        "GraniteMoeHybridConfig",
        {
            **_MAMBA2,
            "layer_types": ["mamba", "attention"] * 2,
            "num_local_experts": 0,
            "shared_intermediate_size": 64,
            "embedding_multiplier": 2.0,
            "logits_scaling": 3.0,
        },
    ),
    "bamba": ("BambaForCausalLM", "BambaConfig", {**_MAMBA2, "attn_layer_indices": [1, 3]}),
    "nemotron_h": (
        "NemotronHForCausalLM",
        "NemotronHConfig",
        {
            "layers_block_type": ["mamba", "attention", "mamba", "moe"],
            "mamba_num_heads": 4,
            "mamba_head_dim": 16,
            "ssm_state_size": 8,
            "n_groups": 1,
            "chunk_size": 16,
            "head_dim": 8,
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 16,
            "moe_shared_expert_intermediate_size": 16,
        },
    ),
    "zamba2": (
        "Zamba2ForCausalLM",
        "Zamba2Config",
        {
            "layers_block_type": ["mamba", "hybrid"] * 2,
            "mamba_d_state": 8,
            "mamba_headdim": 16,
            "n_mamba_heads": 4,
            "mamba_ngroups": 1,
            "num_mem_blocks": 1,
            "chunk_size": 16,
        },
    ),
    "jamba": (
        "JambaForCausalLM",
        "JambaConfig",
        {**_MAMBA1, "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2},
    ),
    "zamba": ("ZambaForCausalLM", "ZambaConfig", {**_MAMBA1, "n_mamba_heads": 2}),
}
_ATTENTION_FREE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mamba2": (
        "Mamba2ForCausalLM",
        "Mamba2Config",
        {"num_heads": 4, "head_dim": 16, "state_size": 8, "n_groups": 1, "chunk_size": 16},
    ),
    "falcon_mamba": (
        "FalconMambaForCausalLM",
        "FalconMambaConfig",
        {"state_size": 8, "time_step_rank": 4, "expand": 2},
    ),
}
_NOT_HYBRIDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {}),
    "lfm2": ("Lfm2ForCausalLM", "Lfm2Config", {"layer_types": ["conv", "full_attention"] * 2}),
    "minimax": (
        "MiniMaxForCausalLM",
        "MiniMaxConfig",
        {"num_local_experts": 2, "layer_types": _ALTERNATING, "head_dim": 8},
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        "RecurrentGemmaConfig",
        {"lru_width": 32, "attention_window_size": POSITIONS, "head_dim": 8},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 2},
    ),
}
_ALL = {**_HYBRIDS, **_ATTENTION_FREE, **_NOT_HYBRIDS}

SUPPORTED = (*_HYBRIDS, *_ATTENTION_FREE)
REFUSED = tuple(_NOT_HYBRIDS)


def make_model(family: str, vocab_size: int = 512, seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """A model of this family with some ten thousand weights in fp32, ready to read; the same in every call.

    Args:
        family: one of :data:`SUPPORTED` or :data:`REFUSED`.
        overrides: settings of the config, in place of those here.

    Raises:
        InputError: a family that is not known.
    """
    if family not in _ALL:
        raise InputError(f"family {family!r} is not known; there are {sorted(_ALL)}")
    kind, config_kind, settings = _ALL[family]
    made: dict[str, Any] = {**_BASE, "vocab_size": vocab_size, **settings, **overrides}
    config = getattr(transformers, config_kind)(**made, pad_token_id=None, bos_token_id=None, eos_token_id=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: PreTrainedModel = getattr(transformers, kind)(config)
        _enliven(model)
    model.requires_grad_(False)
    model.train(False)
    return model


def save_model(family: str, folder: Path, **overrides: Any) -> Path:
    """Such a model with the tokenizer of the shipped one, as ``save_pretrained`` leaves them, in ``folder``.

    Raises:
        InputError: a family that is not known.
    """
    tokenizer = AutoTokenizer.from_pretrained(shipped_model(), local_files_only=True)
    model = make_model(family, **overrides)
    for config in (model.config, model.generation_config):
        if config is not None:
            config.pad_token_id, config.eos_token_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _enliven(model: nn.Module) -> None:
    """Draws all weights again: outputs of every layer of the order of 1, states that are written and that last."""
    for name, weight in model.named_parameters():
        with torch.no_grad():
            draw = _drawn(name.rsplit(".", 1)[-1], name)
            if draw is not None:
                draw(weight)
            elif weight.ndim >= 2:
                weight.normal_(0.0, 1.5 / math.sqrt(weight.shape[-1]))
            else:  # scales and biases
                weight.add_(torch.randn_like(weight) * 0.1)


def _drawn(last: str, name: str) -> Callable[[torch.Tensor], object] | None:
    if last == "A_log":  # with the steps below, a token keeps e^-1 to e^-0.005 of the state
        return lambda weight: weight.uniform_(-3.0, 0.0)
    if last in ("dt_bias", "dt_proj_bias") or name.endswith("dt_proj.bias"):
        return lambda weight: weight.uniform_(-2.25, 0.54)  # softplus of it: 0.1 to 1
    if "embed" in name and last == "weight":
        return lambda weight: weight.normal_()
    if "conv" in name and last == "weight":
        return lambda weight: weight.normal_(0.0, 0.6)
    return None
