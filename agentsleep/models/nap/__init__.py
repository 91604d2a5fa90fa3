"""nap, the reference hybrid. Importing it registers the model with transformers' Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM

from agentsleep.models.nap.configuration import NapConfig
from agentsleep.models.nap.modeling import NapForCausalLM

__all__ = ["NapConfig", "NapForCausalLM"]

AutoConfig.register("nap", NapConfig, exist_ok=True)
AutoModelForCausalLM.register(NapConfig, NapForCausalLM, exist_ok=True)
