"""Low-rank adapters (LoRA, arXiv 2106.09685) through peft: put into a model in place, merged before it is saved."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from agentsleep.errors import SettingsError


def add_adapters(model: PreTrainedModel, rank: int, whole: list[nn.Parameter]) -> int:
    """Gives every linear projection of the blocks an adapter and freezes all else, except for ``whole``: these
    parameters, which are new, are trained as they are and get no adapter.

    Returns:
        How many adapters there are.

    Raises:
        SettingsError: peft is not installed, or there is no such projection.
    """
    try:
        peft = import_module("peft")
    except ImportError:
        raise SettingsError(
            f"lora is {rank}, and adapters need peft, which is not installed: pip install 'agentsleep[train]', or set "
            "lora to 0"
        ) from None
    new = {id(parameter) for parameter in whole}
    base: Any = model.base_model
    blocks = {id(module) for module in base.layers.modules()}
    targets = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and id(module) in blocks and id(module.weight) not in new
    ]
    if not targets:
        raise SettingsError(
            f"lora is {rank}, but the blocks of {type(model).__name__} have no linear layers; set it to 0"
        )
    adapters = peft.LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules=targets)
    peft.inject_adapter_in_model(adapters, model)
    for parameter in whole:
        parameter.requires_grad_(True)
    return len(targets)


def merge_adapters(model: nn.Module) -> None:
    """Adds the adapters to the weights they stand beside and takes them out; nothing happens to a model without."""
    adapted = list(_adapted(model))
    for parent, name, child in adapted:
        child.merge(safe_merge=True)
        setattr(parent, name, child.get_base_layer())
    if adapted:
        model.requires_grad_(True)


def _adapted(model: nn.Module) -> Iterator[tuple[nn.Module, str, Any]]:
    for parent in model.modules():
        for name, child in parent.named_children():
            if hasattr(child, "lora_A"):
                yield parent, name, child
