"""A model as a memory uses it: fingerprinted, slept on canonically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from agentsleep.auto import Speaking, sleep_until
from agentsleep.backends.report import Report
from agentsleep.backends.settings import SleepSettings
from agentsleep.sleep import deep_sleep, sleep
from agentsleep.state import FastWeights

# Settings that say how to use the model, not what it computes; changing one does not make another model of it.
_USAGE = ("sleep_passes", "sleep_rounds", "sleep_pin", "sleep_window", "max_position_embeddings")


@dataclass(frozen=True)
class Backend:
    """A model with its tokenizer, ready to read and to sleep. It keeps no state of any session.

    model: of transformers; it reads awake.  backbone: the same model as it sleeps.  settings: how it is to sleep.
    repairs: what had to be mended in the model for it to continue rightly.  report: what its capability probe found;
    None for our own models, which have tests of their own.
    """

    model: PreTrainedModel
    backbone: Speaking
    tokenizer: PreTrainedTokenizerFast
    settings: SleepSettings
    repairs: tuple[str, ...] = ()
    report: Report | None = None

    @property
    def config(self) -> PreTrainedConfig:
        """The model's settings, of its text part where it has several."""
        found: PreTrainedConfig = self.model.config.get_text_config(decoder=True)
        return found

    @property
    def device(self) -> torch.device:
        """Where the model's weights lie."""
        found: torch.device = self.model.device
        return found

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, architecture and tokenizer: what a stored state depends on."""
        whole = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        architecture = _architecture(self.model.config)
        if architecture.get("sleep_eviction") == "hard":  # once the only one there was: fingerprints stay as they were
            del architecture["sleep_eviction"]
        whole.update(json.dumps(architecture, sort_keys=True, default=str).encode())
        spelling = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for name in ("padding", "truncation"):  # whoever used the tokenizer last has left them there
            spelling.pop(name, None)
        whole.update(json.dumps(spelling, sort_keys=True).encode())
        return whole.hexdigest()

    def row(self, ids: Sequence[int]) -> Tensor:
        """Token ids as a batch of one, ``[1, T]``, where the model is."""
        return torch.tensor([list(ids)], device=self.device)

    def consolidate(self, ids: Sequence[int], state: FastWeights, passes: int) -> FastWeights:
        """The canonical sleep on one window: batch 1, all its tokens in one forward from the state it opened with."""
        with torch.inference_mode():
            return sleep(self.backbone, self.row(ids), state.to(self.device), passes=passes).state.clone()

    def consolidate_until(
        self, ids: Sequence[int], state: FastWeights, probes: Sequence[list[int]], max_passes: int
    ) -> tuple[FastWeights, int, int]:
        """The same with as many passes as the probes ask for, see :func:`agentsleep.auto.sleep_until`.

        Returns:
            What :meth:`consolidate` gives for the passes found, these passes, and the tokens that the probes read.
        """
        with torch.inference_mode():
            asked = [(self.row(probe), None) for probe in probes]
            found = sleep_until(
                self.backbone, self.row(ids), state.to(self.device), probes=asked, max_passes=max_passes
            )
            return found.slept.state.clone(), found.passes, found.probe_tokens

    def consolidate_deep(
        self, windows: Sequence[Sequence[int]], state: FastWeights, passes: int, rounds: int
    ) -> FastWeights:
        """The canonical deep sleep: batch 1, every window in one forward a pass."""
        with torch.inference_mode():
            visits = [(self.row(ids), None) for ids in windows]
            return deep_sleep(self.backbone, visits, state.to(self.device), passes=passes, rounds=rounds).clone()


def _architecture(config: PreTrainedConfig) -> dict[str, Any]:
    """What a config says of the model itself; parts of a model each have one of their own."""
    found: Mapping[str, Any] = config.to_diff_dict()
    left = (*_USAGE, "transformers_version", "dtype", "architectures")
    return {name: value for name, value in found.items() if name not in left}
