"""Whether a model's memory can be trusted: asked of the model itself, when it is loaded.

A hybrid that drops or distorts its state still writes fluent text, and no list of names tells which one does. So a few
short forwards compare what must be equal, and set the difference against what the past does to the logits.
"""

from __future__ import annotations

import hashlib
import inspect
from importlib.metadata import version
from pathlib import Path

import torch
from transformers import PreTrainedModel

from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.backends.probe import Probe
from agentsleep.backends.report import Report, load_report, store_report
from agentsleep.errors import UnsupportedModel


def refuse_at_sight(model: PreTrainedModel) -> None:
    """To be asked before the model is wrapped, since no forward is needed to know.

    Raises:
        UnsupportedModel: an encoder and a decoder, a forward that takes no cache, or state that lies on the modules.
    """
    name = type(model).__name__
    if model.config.is_encoder_decoder:
        raise UnsupportedModel(f"{name} is an encoder with a decoder; give a decoder-only hybrid")
    for part in model.base_model.modules():
        if "recurrent_states" in vars(part):
            raise UnsupportedModel(
                f"{name} keeps its recurrent state on its modules ({type(part).__name__}), where it can be neither "
                "archived nor kept apart from another session's; give a hybrid whose state is in its cache"
            )
    if not {"past_key_values", "cache_params"} & set(inspect.signature(model.base_model.forward).parameters):
        raise UnsupportedModel(f"{name} takes no cache (past_key_values); give a hybrid of transformers that does")


@torch.no_grad()
def examine(model: PreTrainedModel, backbone: HybridBackbone) -> Report:
    """Tries what a sleep relies on: fast weights, continuation, decoding, round trip, eviction, passes.

    The model should have been mended first, see :func:`agentsleep.backends.repairs.repair`.

    Raises:
        UnsupportedModel: there are no fast weights at all, or the model refuses the cache.
    """
    refuse_at_sight(model)
    was_training = model.training
    model.eval()
    try:
        return Report(tuple(Probe(model, backbone).verdicts()))
    finally:
        model.train(was_training)


def examined(model: PreTrainedModel, backbone: HybridBackbone, fingerprint: str, folder: Path | None) -> Report:
    """:func:`examine`, whose report is kept in ``folder`` (None: nowhere) for this model, machine and these versions.

    A kept report that cannot be read is made again, one that cannot be written is not kept.

    Raises:
        UnsupportedModel: as :func:`examine`; that is found anew each time.
    """
    if folder is None:
        return examine(model, backbone)
    kept = folder / f"{_key(model, backbone, fingerprint)}.json"
    report = load_report(kept)
    if report is None:
        report = examine(model, backbone)
        store_report(report, kept)
    return report


def _key(model: PreTrainedModel, backbone: HybridBackbone, fingerprint: str) -> str:
    weight = next(model.parameters())
    parts = [
        *(version(name) for name in ("agentsleep", "torch", "transformers")),
        fingerprint,
        f"{weight.device.type} {weight.dtype} {model.config._attn_implementation}",
        f"{backbone.settings.feedback} {backbone.loop}",
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
