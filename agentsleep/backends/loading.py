"""Loads a checkpoint that was trained to sleep, and says which model it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from agentsleep.errors import CheckpointDamaged, CheckpointMissing
from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights

# Settings that say how to use the model, not what it computes; changing one does not make another model of it.
_USAGE = ("sleep_passes", "sleep_rounds", "sleep_pin", "sleep_window", "max_position_embeddings")


@dataclass(frozen=True)
class Backend:
    """A model with its tokenizer, ready to read and to sleep. It keeps no state of any session."""

    model: NapForCausalLM
    tokenizer: PreTrainedTokenizerFast

    @property
    def config(self) -> NapConfig:
        """The model's settings, those of its sleep among them."""
        return self.model.config

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over weights, architecture and tokenizer: what a stored state depends on."""
        whole = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            whole.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            whole.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        architecture = self.config.to_diff_dict()
        for name in (*_USAGE, "transformers_version", "dtype", "architectures"):
            architecture.pop(name, None)
        whole.update(json.dumps(architecture, sort_keys=True, default=str).encode())
        whole.update(self.tokenizer.backend_tokenizer.to_str().encode())
        return whole.hexdigest()

    def consolidate(self, ids: list[int], state: FastWeights, passes: int) -> FastWeights:
        """The canonical sleep on one window: batch 1, all its tokens in one forward from the state it opened with."""
        with torch.inference_mode():
            return sleep(self.model, torch.tensor([ids]), state, passes=passes).state.clone()


def shipped_model() -> Path:
    """Where nap-mini lies in the installed package."""
    return Path(str(files("agentsleep") / "assets" / "nap-mini"))


def load_backend(model: str | Path | None = None) -> Backend:
    """Loads a checkpoint directory; nap-mini, which comes with the package, for None.

    Raises:
        CheckpointMissing: no checkpoint there.
        CheckpointDamaged: it cannot be read, or is no nap model.
    """
    path = shipped_model() if model is None else Path(model).expanduser()
    if not (path / "config.json").is_file():
        raise CheckpointMissing(
            f"no checkpoint at {path} (no config.json); give a directory that save_pretrained or "
            "'agentsleep train' wrote, or nothing for the shipped model"
        )
    try:
        kind = json.loads((path / "config.json").read_text()).get("model_type")
        if kind != NapConfig.model_type:
            raise CheckpointDamaged(f"{path} holds a model of type {kind!r}; this version sleeps with 'nap' models")
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()  # a bar of a tenth of a second tells nobody anything
        try:
            loaded = NapForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True)
        finally:
            if shown:
                logging.enable_progress_bar()
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except CheckpointDamaged:
        raise
    except Exception as error:  # json, safetensors, tokenizers and torch each raise kinds of their own
        raise CheckpointDamaged(f"the checkpoint at {path} cannot be read ({error}); copy it there again") from error
    loaded.requires_grad_(False)
    return Backend(loaded.eval(), tokenizer)
