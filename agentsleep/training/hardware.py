"""Where a run computes, and in which precision."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module

import torch

from agentsleep.errors import SettingsError
from agentsleep.training.config import TrainConfig

ACCELERATE = "accelerate"  # as a device: the one, and the precision, that 'accelerate config' says


@dataclass(frozen=True)
class Hardware:
    """device: as torch names it.  bf16: whether matrix products are in bfloat16; weights are float32 anyway."""

    device: str
    bf16: bool

    def autocast(self) -> AbstractContextManager[object]:
        """What a forward runs in."""
        return torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=self.bf16)


def hardware(config: TrainConfig) -> Hardware:
    """What a run's settings ask for.

    Raises:
        SettingsError: a device that cannot be used, or accelerate is not installed or asks for what a run cannot do.
    """
    if config.device == ACCELERATE:
        return _accelerate(config)
    try:
        torch.empty(0, device=config.device)
    except (RuntimeError, AssertionError) as error:  # an unknown name, or a device that is not there
        raise SettingsError(f"device {config.device!r} cannot be used ({error}); set another, such as cpu") from error
    return Hardware(config.device, config.bf16)


def _accelerate(config: TrainConfig) -> Hardware:
    try:
        accelerate = import_module("accelerate")
    except ImportError:
        raise SettingsError(
            "device 'accelerate' needs accelerate, which is not installed: pip install 'agentsleep[train]', or name a "
            "device such as cpu"
        ) from None
    chosen = accelerate.Accelerator()
    if chosen.num_processes > 1:
        raise SettingsError(
            f"accelerate started {chosen.num_processes} processes, but a run is one process; launch it with "
            "--num_processes 1"
        )
    if chosen.mixed_precision not in ("no", "bf16"):
        raise SettingsError(f"accelerate asks for {chosen.mixed_precision} precision; a run knows 'no' and 'bf16'")
    return Hardware(str(chosen.device), config.bf16 or chosen.mixed_precision == "bf16")
