"""Which optimiser trains which weight."""

from __future__ import annotations

import torch
from torch import nn

from agentsleep.training.config import TrainConfig


def optimisers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for embeddings, head, norms, gates, convolutions and stacked experts;
    what is frozen has none."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            inside = parameter.ndim == 2 and ".layers." in f".{name}" and name.endswith(".weight")
            (matrices if inside else rest).append(parameter)
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(torch.optim.Muon(matrices, lr=config.muon_lr, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    if rest:
        made.append(torch.optim.AdamW(rest, lr=config.adamw_lr, weight_decay=0.0, betas=(0.9, 0.95)))
    return made
