"""Floating-point operations, counted by torch as the operators run: matrix products, two a multiply-add."""

from __future__ import annotations

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from agentsleep.models.nap import NapForCausalLM
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights


def sleep_flops(model: NapForCausalLM, tokens: int, passes: int) -> int:
    """FLOPs of reading a window of ``tokens`` tokens, batch 1, and sleeping on it with ``passes`` passes."""
    ids = torch.zeros(1, tokens, dtype=torch.long, device=model.device)
    # As plain products: the counter does not see into the fused attention of a CPU.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        sleep(model, ids, FastWeights(), passes=passes)
    return int(counter.get_total_flops())


def training_flops(model: NapForCausalLM, tokens: int, window: int) -> int:
    """FLOPs of training on so many tokens, every pass over one counted: three times those of the forward alone.

    Args:
        tokens: as :attr:`agentsleep.training.loop.Trainer.tokens` counts them.
        window: length of the window for which the forward is counted.
    """
    return 3 * tokens * sleep_flops(model, window, 1) // window
