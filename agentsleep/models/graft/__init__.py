"""Attention-only models with inserted fast-weight layers. Importing it registers them with the Auto classes."""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForCausalLM

from agentsleep.models.graft.configuration import GraftConfig
from agentsleep.models.graft.making import graft, share
from agentsleep.models.graft.modeling import GraftForCausalLM

__all__ = ["GraftConfig", "GraftForCausalLM", "graft", "share"]

AutoConfig.register("agentsleep_graft", GraftConfig, exist_ok=True)
AutoModelForCausalLM.register(GraftConfig, GraftForCausalLM, exist_ok=True)
