"""Loads a checkpoint, of our own kind or any that transformers knows, and checks that it can sleep."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from platformdirs import user_cache_path
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

import agentsleep.models.graft  # noqa: F401  # its models are made known to the Auto classes
from agentsleep.backends.backend import Backend
from agentsleep.backends.capability import examined, refuse_at_sight
from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.backends.repairs import repair
from agentsleep.backends.report import refuse_if_wrong
from agentsleep.backends.settings import SleepSettings
from agentsleep.errors import (
    AgentsleepError,
    CheckpointDamaged,
    CheckpointMissing,
    SettingsError,
    UnsupportedModel,
    UntrainedSleep,
)
from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.models.nap.configuration import FEEDBACKS


def shipped_model() -> Path:
    """Where nap-mini lies in the installed package."""
    return Path(str(files("agentsleep") / "assets" / "nap-mini"))


def load_backend(
    model: str | Path | None = None,
    *,
    settings: Mapping[str, Any] | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype = "auto",
    refuse: bool = True,
) -> Backend:
    """Loads a checkpoint directory, or a model's name on the Hugging Face hub; nap-mini, which comes with the package,
    for None.

    Args:
        settings: fields of :class:`SleepSettings` that take precedence over those of the checkpoint.
        device: as torch names it.
        dtype: of the weights; "auto" takes that of the checkpoint. Our own models always run in float32.
        refuse: False loads a model whose memory would be wrong all the same; the backend's ``report`` says what is.

    Raises:
        CheckpointMissing: no checkpoint there.
        CheckpointDamaged: it cannot be read, or does not belong to its tokenizer.
        UnsupportedModel: a model whose memory would be wrong, or that has none.
        SettingsError: a setting out of its range; sliding eviction of our own models, whose live memory evicts hard.
    """
    place = shipped_model() if model is None else model
    with _readable(place):
        try:
            config = AutoConfig.from_pretrained(place)
        except SettingsError as error:
            raise CheckpointDamaged(
                f"the checkpoint at {place} cannot be read ({error}); mend its config.json"
            ) from error
        text = config.get_text_config(decoder=True)
        for name, value in _known(settings or {}).items():
            setattr(text, f"sleep_{name}", list(value) if isinstance(value, tuple) else value)
        sleeping = SleepSettings.of(text)
        if config.model_type == NapConfig.model_type:
            _check_nap(settings or {})
            if sleeping.eviction != "hard":
                raise SettingsError(
                    f"the model at {place} has sleep_eviction {sleeping.eviction!r}, but the live memory evicts hard: "
                    "it keeps no keys of a window that was slept on; give a model that was trained with sleep_eviction "
                    "'hard'"
                )
            loaded = _load(place, NapForCausalLM, config, torch.float32)
        else:
            loaded = _load(place, AutoModelForCausalLM, config, dtype)
        tokenizer = _checked(place, AutoTokenizer.from_pretrained(place), text)
    torch.nn.Module.to(loaded, device)
    if isinstance(loaded, NapForCausalLM):
        return Backend(loaded, loaded, tokenizer, sleeping)
    if not sleeping.trained:
        warnings.warn(
            f"{place} was not trained to sleep, and further passes may do harm: it makes {sleeping.passes} a window; "
            "'agentsleep probe --model' measures whether more would help",
            UntrainedSleep,
            stacklevel=3,
        )
    refuse_at_sight(loaded)
    repairs = repair(loaded)
    backbone = HybridBackbone(loaded, sleeping)
    backend = Backend(loaded, backbone, tokenizer, sleeping, repairs)
    report = examined(loaded, backbone, backend.fingerprint, _cache_folder())
    if refuse:
        refuse_if_wrong(report)
    return replace(backend, report=report)


def _cache_folder() -> Path:
    """Where verdicts on models are kept, so that each is examined once."""
    home = os.environ.get("AGENTSLEEP_HOME")
    return Path(home).expanduser() / "cache" if home else user_cache_path("agentsleep", appauthor=False)


@contextmanager
def _readable(place: str | Path) -> Iterator[None]:
    """Whatever a library says of a checkpoint that is missing or damaged, in our own words."""
    path = Path(place).expanduser()
    local = path.exists() or isinstance(place, Path) or place.startswith((".", "/", "~"))
    if local and not (path / "config.json").is_file():
        raise CheckpointMissing(
            f"no checkpoint at {path} (no config.json); give a directory that save_pretrained or "
            "'agentsleep train' wrote, the name of a model on the hub, or nothing for the shipped model"
        )
    try:
        yield
    except AgentsleepError:
        raise
    except Exception as error:  # json, safetensors, tokenizers, torch and the hub each raise kinds of their own
        if not local:
            raise CheckpointMissing(
                f"no model {str(place)!r}: there is no such directory, and the hub did not give one ({error})"
            ) from error
        raise CheckpointDamaged(f"the checkpoint at {path} cannot be read ({error}); copy it there again") from error


def _check_nap(settings: Mapping[str, Any]) -> None:
    """What our own models would pass over in silence."""
    unheard = [name for name in ("loop", "tail") if settings.get(name)]
    if settings.get("feedback", FEEDBACKS[0]) not in FEEDBACKS:
        unheard.append("feedback")
    if unheard:
        raise SettingsError(
            f"a nap model does not follow {', '.join(f'{name}={settings[name]!r}' for name in unheard)}: it loops all "
            f"its blocks, and knows the feedbacks {FEEDBACKS}; leave it out"
        )


def _known(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    names = {field.name for field in fields(SleepSettings)} - {"trained"}
    if unknown := sorted(set(settings) - names):
        raise SettingsError(f"there is no sleep setting {', '.join(unknown)}; there are {', '.join(sorted(names))}")
    return settings


def _load(place: str | Path, kind: Any, config: PreTrainedConfig, dtype: str | torch.dtype) -> PreTrainedModel:
    if config.is_encoder_decoder:
        raise UnsupportedModel(
            f"{place} is an encoder-decoder ({config.model_type}); a memory needs a decoder that reads what it writes"
        )
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()  # a bar of a tenth of a second tells nobody anything
    logging.set_verbosity_error()  # and its report of what is missing is the error below
    try:
        model, report = kind.from_pretrained(
            place, config=config, dtype=dtype, use_safetensors=True, output_loading_info=True
        )
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
    # transformers makes up what is missing, at random.
    if absent := sorted(report["missing_keys"]):
        raise CheckpointDamaged(f"the checkpoint at {place} lacks the weights {absent}; copy it there again")
    if broken := [name for name, tensor in model.state_dict().items() if not bool(torch.isfinite(tensor).all())]:
        raise CheckpointDamaged(f"the checkpoint at {place} has NaN or Inf in {broken}; copy it there again")
    model.requires_grad_(False)
    model.train(False)
    loaded: PreTrainedModel = model
    return loaded


def _checked(place: str | Path, tokenizer: object, config: PreTrainedConfig) -> PreTrainedTokenizerFast:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise CheckpointDamaged(f"{place} has a tokenizer of type {type(tokenizer).__name__}; give it a tokenizer.json")
    if len(tokenizer) > config.vocab_size:
        raise CheckpointDamaged(
            f"the tokenizer at {place} has {len(tokenizer)} tokens, the model knows {config.vocab_size}; they do not "
            "belong together: copy both again"
        )
    return tokenizer
