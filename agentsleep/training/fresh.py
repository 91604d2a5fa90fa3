"""Small models of transformers' own families with weights to learn from, made from their settings alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from agentsleep.errors import SettingsError

# Families initialise for long pre-training: embeddings that "norm+embed" would hardly hear beside a normed state, and
# forget gates that leave next to nothing of S after a few tokens. A short run learns from neither.
EMBEDDING_STD = 1.0
STEPS = (1 / 2000, 1 / 200)  # of the decay per token, drawn log-uniformly; the same as nap's


def settings_of_family(model: Mapping[str, Any]) -> PreTrainedConfig:
    """The config that ``model_type`` and the other settings name.

    Raises:
        SettingsError: no such family, a setting that it does not have, or a value that does not fit.
    """
    settings = dict(model)
    family = settings.pop("model_type")
    try:
        kind = type(AutoConfig.for_model(family))
    except ValueError:
        raise SettingsError(
            f"model_type {family!r} is no family of the installed transformers; name one such as 'llama', or 'nap'"
        ) from None
    default = kind()
    own = [name for name in settings if not name.startswith("sleep_")]
    if unknown := sorted(name for name in own if not hasattr(default, name)):
        raise SettingsError(f"the family {family} has no setting {', '.join(unknown)}")
    try:
        return kind(**settings)
    except Exception as error:  # configs have checks, and kinds of errors, of their own
        raise SettingsError(f"a setting of the family {family} has the wrong form: {error}") from error


def fresh_model(config: PreTrainedConfig) -> PreTrainedModel:
    """A model with random weights, in float32.

    Raises:
        SettingsError: a family without a causal language model, or sizes that do not fit together.
    """
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:  # whatever a family says of sizes that it cannot use
        raise SettingsError(f"no model of family {config.model_type} can be made of these settings: {error}") from error
    with torch.no_grad():
        if not config.tie_word_embeddings:
            nn.init.normal_(model.get_input_embeddings().weight, std=EMBEDDING_STD)  # type: ignore[arg-type]
        for module in model.modules():
            _open_gates(module)
    return model


def _open_gates(module: nn.Module) -> None:
    """Forget gates near 1, where a layer has those of Mamba-2: a decay rate and the bias of a time step, one a head."""
    rate, bias = module._parameters.get("A_log"), module._parameters.get("dt_bias")
    if rate is None or bias is None or rate.ndim != 1:
        return
    low, high = (math.log(step) for step in STEPS)
    step = torch.empty_like(bias).uniform_(low, high).exp()
    rate.zero_()
    bias.copy_(step + torch.log(-torch.expm1(-step)))
