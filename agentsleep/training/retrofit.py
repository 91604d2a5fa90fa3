"""A model of transformers, made ready to learn to sleep: loaded or made, given fast weights, given adapters."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel

from agentsleep.backends.cache import open_cache, state_of
from agentsleep.backends.capability import examine
from agentsleep.backends.hybrid import reading
from agentsleep.backends.repairs import repair
from agentsleep.backends.report import refuse_if_wrong
from agentsleep.backends.settings import SleepSettings
from agentsleep.errors import CheckpointDamaged, CheckpointMissing, SettingsError
from agentsleep.models.graft import GraftForCausalLM, graft, share
from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.state import FastWeights
from agentsleep.tasks.base import Task
from agentsleep.training.config import TrainConfig
from agentsleep.training.fresh import fresh_model, settings_of_family
from agentsleep.training.lora import add_adapters
from agentsleep.training.subjects import StockSubject, Subject

FEEDBACK = "norm+embed"  # learned fastest where it was compared
_NOT_SETTINGS = ("architectures", "transformers_version", "_name_or_path", "dtype")


def is_retrofit(config: TrainConfig) -> bool:
    """Whether a run trains a model of transformers, and not our own."""
    return bool(config.model.get("model_type", NapConfig.model_type) != NapConfig.model_type)


def family_of(directory: Path) -> str:
    """The ``model_type`` of a checkpoint directory.

    Raises:
        CheckpointMissing: no checkpoint there.
        CheckpointDamaged: its config cannot be read.
    """
    return _config_at(directory).model_type


def architecture_at(directory: Path, sleep: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the model in a checkpoint directory, as a training config has them; the fields in ``sleep`` take
    precedence over its own.

    Raises:
        CheckpointMissing: no checkpoint there.
        CheckpointDamaged: its config cannot be read.
    """
    config = _config_at(directory).get_text_config(decoder=True)
    settings = {name: value for name, value in config.to_diff_dict().items() if name not in _NOT_SETTINGS}
    return {**settings, "model_type": config.model_type, "vocab_size": config.vocab_size, **sleep}


def make_subject(task: Task, config: TrainConfig, init: Path | None) -> Subject:
    """The model of a run: from the checkpoint ``init``, else with random weights.

    Raises:
        SettingsError: settings that do not fit the model, or the model the task.
        CheckpointMissing, CheckpointDamaged: no checkpoint at ``init``, or one that cannot be read.
        UnsupportedModel: a model that cannot be given fast weights.
    """
    subject = _stock(task, config, init) if is_retrofit(config) else _nap(task, config, init)
    if config.lora:
        new = subject.fast_parameters() if isinstance(subject.model, GraftForCausalLM) and subject.grafted else []
        added = add_adapters(subject.model, config.lora, whole=new)
        subject.remarks += (
            f"adapters of rank {config.lora} in {added} projections, merged into the weights at the end",
        )
    return subject


def _nap(task: Task, config: TrainConfig, init: Path | None) -> Subject:
    if config.graft:
        raise SettingsError("nap has fast weights of its own; leave 'graft' out")
    if config.fast_first and config.model.get("sleep_eviction") == "sliding":
        raise SettingsError("fast_first evicts hard, which a nap of sliding eviction cannot; set it to 0")
    if unknown := [name for name in config.model if name != "model_type" and not hasattr(NapConfig(), name)]:
        raise SettingsError(f"the model has no settings {unknown}; there are {sorted(NapConfig().to_dict())}")
    if init is not None:
        model = NapForCausalLM.from_pretrained(init)
    else:
        settings = {"sleep_window": task.window} | dict(config.model) | {"vocab_size": task.vocab_size}
        settings.pop("model_type", None)
        model = NapForCausalLM(NapConfig(**settings))
    return Subject(model, model)


def _stock(task: Task, config: TrainConfig, init: Path | None) -> Subject:
    wanted = settings_of_family({"vocab_size": task.vocab_size, **config.model})
    if wanted.vocab_size < task.vocab_size:
        raise SettingsError(
            f"the model has {wanted.vocab_size} tokens, {task.name} as set needs {task.vocab_size}; give a larger "
            "model or an easier task"
        )
    model = fresh_model(wanted) if init is None else _load(init, wanted)
    sleep = {"window": task.window, "passes": config.judge[0], "feedback": FEEDBACK}
    sleep |= {name: getattr(wanted, f"sleep_{name}", None) or value for name, value in sleep.items()}
    remarks = [*repair(model)]
    grafted = not _has_fast_weights(model)
    if grafted:
        kept = {name[6:]: value for name, value in vars(wanted).items() if name.startswith("sleep_")}
        model = graft(model, sleep={**kept, **sleep}, **dict(config.graft or {}))
        after = ", ".join(str(index) for index in model.config.graft_after)
        remarks.append(
            f"{wanted.model_type} has no fast weights: gated delta layers were inserted after block {after} "
            f"(counted from 0), {share(model):.1%} more parameters"
        )
    elif config.graft:
        raise SettingsError(f"{wanted.model_type} has fast weights of its own; leave 'graft' out")
    for name, value in sleep.items():
        setattr(model.config.get_text_config(decoder=True), f"sleep_{name}", value)
    reader = StockSubject(model, SleepSettings.of(model.config.get_text_config(decoder=True)))
    if not grafted:  # the layers of a fresh graft add nothing yet, so nothing could be seen of them
        refuse_if_wrong(examine(model, reader.backbone))
    model.train()
    return Subject(model, reader, tuple(remarks), grafted)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Puts a checkpoint's tokenizer, where it has one, beside the weights that were trained from it."""
    if any((source / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        AutoTokenizer.from_pretrained(source, local_files_only=True).save_pretrained(target)


def load_retrofit(directory: Path) -> StockSubject:
    """A trained model from its directory, in evaluation mode, as evaluations read it.

    Raises:
        CheckpointMissing, CheckpointDamaged: no checkpoint there, or one that cannot be read.
    """
    model = _load(directory, _config_at(directory))
    model.train(False)
    return StockSubject(model, SleepSettings.of(model.config.get_text_config(decoder=True)))


def _has_fast_weights(model: PreTrainedModel) -> bool:
    """Seen by reading two tokens; no list of names is asked."""
    cache = open_cache(model.config.get_text_config(decoder=True), FastWeights())
    with torch.no_grad():
        ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
        model(input_ids=ids, use_cache=True, **reading(cache, 1, 2, 0, model.device))
    return bool(state_of(cache).only("recurrent"))


def _config_at(directory: Path) -> PreTrainedConfig:
    if not (directory / "config.json").is_file():
        raise CheckpointMissing(f"no model at {directory} (no config.json); give a folder that save_pretrained wrote")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(directory, local_files_only=True)
        return config
    except Exception as error:  # json and transformers raise many kinds
        raise CheckpointDamaged(f"the config at {directory} cannot be read ({error}); copy the model again") from error


def _load(directory: Path, config: PreTrainedConfig) -> PreTrainedModel:
    _config_at(directory)
    try:
        read: Any = AutoModelForCausalLM.from_pretrained(
            directory, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # safetensors, transformers and torch each raise kinds of their own
        raise CheckpointDamaged(f"the model at {directory} cannot be read ({error}); copy it again") from error
    loaded: PreTrainedModel = read[0]
    if missing := sorted(read[1]["missing_keys"]):
        raise CheckpointDamaged(f"the model at {directory} lacks {len(missing)} weights, such as {missing[0]}")
    return loaded
