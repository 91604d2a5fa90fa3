"""Loads a checkpoint that was trained to sleep, and says which model it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging

from agentsleep.auto import sleep_until
from agentsleep.errors import CheckpointDamaged, CheckpointMissing, SettingsError
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
            whole.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        architecture = self.config.to_diff_dict()
        for name in (*_USAGE, "transformers_version", "dtype", "architectures"):
            architecture.pop(name, None)
        if architecture.get("sleep_eviction") == "hard":  # once the only one there was: fingerprints stay as they were
            del architecture["sleep_eviction"]
        whole.update(json.dumps(architecture, sort_keys=True, default=str).encode())
        spelling = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for name in ("padding", "truncation"):  # whoever used the tokenizer last has left them there
            spelling.pop(name, None)
        whole.update(json.dumps(spelling, sort_keys=True).encode())
        return whole.hexdigest()

    def consolidate(self, ids: list[int], state: FastWeights, passes: int) -> FastWeights:
        """The canonical sleep on one window: batch 1, all its tokens in one forward from the state it opened with."""
        with torch.inference_mode():
            return sleep(self.model, torch.tensor([ids]), state, passes=passes).state.clone()

    def consolidate_until(
        self, ids: list[int], state: FastWeights, probes: Sequence[list[int]], max_passes: int
    ) -> tuple[FastWeights, int, int]:
        """The same with as many passes as the probes ask for, see :func:`agentsleep.auto.sleep_until`.

        Returns:
            What :meth:`consolidate` gives for the passes found, these passes, and the tokens that the probes read.
        """
        with torch.inference_mode():
            asked = [(torch.tensor([probe]), None) for probe in probes]
            found = sleep_until(self.model, torch.tensor([ids]), state, probes=asked, max_passes=max_passes)
            return found.slept.state.clone(), found.passes, found.probe_tokens


def shipped_model() -> Path:
    """Where nap-mini lies in the installed package."""
    return Path(str(files("agentsleep") / "assets" / "nap-mini"))


def load_backend(model: str | Path | None = None) -> Backend:
    """Loads a checkpoint directory; nap-mini, which comes with the package, for None.

    Raises:
        CheckpointMissing: no checkpoint there.
        CheckpointDamaged: it cannot be read, or is no nap model.
        SettingsError: its eviction is sliding; the live memory evicts hard.
    """
    path = shipped_model() if model is None else Path(model).expanduser()
    if not (path / "config.json").is_file():
        raise CheckpointMissing(
            f"no checkpoint at {path} (no config.json); give a directory that save_pretrained or "
            "'agentsleep train' wrote, or nothing for the shipped model"
        )
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
        if kind != NapConfig.model_type:
            raise CheckpointDamaged(f"{path} holds a model of type {kind!r}; this version sleeps with 'nap' models")
        loaded = _load_model(path)
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    except CheckpointDamaged:
        raise
    except Exception as error:  # json, safetensors, tokenizers and torch each raise kinds of their own
        raise CheckpointDamaged(f"the checkpoint at {path} cannot be read ({error}); copy it there again") from error
    if (kept := loaded.config.sleep_eviction) != "hard":
        raise SettingsError(
            f"the model at {path} has sleep_eviction {kept!r}, but the live memory evicts hard: "
            "it keeps no keys of a window that was slept on; give a model that was trained with sleep_eviction 'hard'"
        )
    return Backend(loaded, _checked(path, tokenizer, loaded.config))


def _load_model(path: Path) -> NapForCausalLM:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # a bar of a tenth of a second tells nobody anything
    try:
        found: Any = NapForCausalLM.from_pretrained(
            path, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    finally:
        if shown:
            logging.enable_progress_bar()
    model: NapForCausalLM
    model, report = found
    # transformers makes up what is missing, at random.
    if absent := sorted(report["missing_keys"]):
        raise CheckpointDamaged(f"the checkpoint at {path} lacks the weights {absent}; copy it there again")
    if broken := [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointDamaged(f"the checkpoint at {path} has NaN or Inf in {broken}; copy it there again")
    model.requires_grad_(False)
    model.train(False)
    return model


def _checked(path: Path, tokenizer: object, config: NapConfig) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointDamaged(f"{path} has a tokenizer of type {type(tokenizer).__name__}; give it a tokenizer.json")
    if len(tokenizer) > config.vocab_size:
        raise CheckpointDamaged(
            f"the tokenizer at {path} has {len(tokenizer)} tokens, the model knows {config.vocab_size}; they do not "
            "belong together: copy both again"
        )
    return tokenizer
