"""Two stages, truncated backpropagation, adapters, and what is computed where."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentsleep.errors import SettingsError
from agentsleep.tasks import Difficulty
from agentsleep.training.config import Stage
from agentsleep.training.episode import read_batch
from agentsleep.training.hardware import Hardware, hardware
from agentsleep.training.lora import merge_adapters
from agentsleep.training.runs import load_subject
from tests.training.test_retrofit import HYBRID, LLAMA, NAP, config, moved, trainer, weights


@pytest.mark.parametrize("model", [HYBRID, LLAMA, NAP], ids=["hybrid", "graft", "nap"])
def test_the_fast_layers_alone_come_first(tmp_path: Path, model: dict[str, Any]) -> None:
    run = trainer(tmp_path, model, fast_first=2, max_steps=4)
    fast = {id(parameter) for parameter in run.subject.fast_parameters()}
    names = {name for name, parameter in run.model.named_parameters() if id(parameter) in fast}
    before = weights(run)
    run._train_step()
    run._train_step()
    assert moved(run, before) == names
    assert 0 < len(names) < len(before)
    run._train_step()
    assert moved(run, before) == set(before)


def test_a_run_that_goes_on_holds_back_what_it_held_back(tmp_path: Path) -> None:
    run = trainer(tmp_path, LLAMA, fast_first=3, max_steps=2)
    run.run()
    onward = trainer(tmp_path, LLAMA, fast_first=3, max_steps=5)
    onward.resume()
    before = weights(onward)
    onward._train_step()
    assert all(".graft." in name for name in moved(onward, before))
    onward._train_step()
    assert moved(onward, before) == set(before)


def test_a_sliding_model_evicts_hard_while_its_fast_layers_are_trained(tmp_path: Path) -> None:
    sliding = {**HYBRID, "sleep_eviction": "sliding", "sleep_tail": 4}
    run = trainer(tmp_path, sliding, fast_first=1, max_steps=2)
    run._train_step()
    assert (run.subject.reader.settings.eviction, run.subject.reader.settings.tail) == ("hard", 0)
    run._train_step()
    assert (run.subject.reader.settings.eviction, run.subject.reader.settings.tail) == ("sliding", 4)
    with pytest.raises(SettingsError, match="fast_first evicts hard"):
        trainer(tmp_path, {**NAP, "sleep_eviction": "sliding"}, fast_first=1)


def test_attention_alone_has_nothing_to_train_first(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="which layers of a nap hold fast weights is not known"):
        trainer(tmp_path, {**NAP, "pattern": "aa"}, fast_first=1)


def test_truncation_cuts_the_gradient_and_nothing_else(tmp_path: Path) -> None:
    """Three windows and the questions: with a cut before every window, what the first one wrote has no gradient."""
    changes = {"curriculum": (Stage(windows=(3,), end_depth=1),), "seed": 3}
    grads, losses = {}, {}
    for every in (0, 4, 2, 1):
        run = trainer(tmp_path, LLAMA, truncate=every, **changes)
        with torch.no_grad():
            for name, parameter in run.model.named_parameters():
                if ".graft.mixer.out_proj" in name:  # a fresh one would say nothing
                    parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(1))
        run._train_step()
        losses[every] = run._losses[-1]
        name = "base.model.layers.1.graft.mixer.in_proj.weight"
        grads[every] = run.model.get_parameter(name).grad.clone()
    assert len({round(loss, 5) for loss in losses.values()}) == 1
    assert torch.allclose(grads[0], grads[4])
    assert not torch.allclose(grads[0], grads[2], rtol=1e-3)
    assert not torch.allclose(grads[2], grads[1], rtol=1e-3)
    again = trainer(tmp_path, LLAMA, truncate=2, recompute=True, **changes)
    with torch.no_grad():
        again.model.get_parameter("base.model.layers.1.graft.mixer.out_proj.weight").normal_(
            std=0.3, generator=torch.Generator().manual_seed(1)
        )
    again._train_step()
    assert torch.allclose(again.model.get_parameter(name).grad, grads[2], atol=1e-6)


@pytest.mark.parametrize("model", [HYBRID, LLAMA, NAP], ids=["hybrid", "graft", "nap"])
def test_adapters_are_trained_in_place_of_the_rest_and_merged(tmp_path: Path, model: dict[str, Any]) -> None:
    pytest.importorskip("peft")
    run = trainer(tmp_path, model, lora=2, max_steps=3)
    assert "adapters of rank 2" in run.subject.remarks[-1]
    before = weights(run)
    for _ in range(2):
        run._train_step()
    assert all("lora_" in name or ".graft." in name for name in moved(run, before))
    assert any("lora_B" in name for name in moved(run, before))
    batch = run.task.batch(np.random.default_rng(0), 4, Difficulty(windows=2, depth=1))
    with torch.no_grad():
        adapted = read_batch(run.subject.reader, batch, passes=2).loss
    run.run()
    with torch.no_grad():
        after = read_batch(run.subject.reader, batch, passes=2).loss
        loaded = read_batch(load_subject(tmp_path / "model"), batch, passes=2).loss
    assert torch.allclose(after, loaded, atol=1e-5)
    assert not torch.allclose(adapted, loaded, atol=1e-6)  # one more step was made
    assert not any("lora" in name for name, _ in run.model.named_parameters())
    resumed = trainer(tmp_path, model, lora=2, max_steps=4)
    resumed.resume()
    with pytest.raises(SettingsError, match="another model"):
        trainer(tmp_path, model, max_steps=4).resume()


def test_merging_changes_no_answer(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    run = trainer(tmp_path, HYBRID, lora=2)
    run._train_step()
    batch = run.task.batch(np.random.default_rng(0), 4, Difficulty(windows=1, depth=1))
    with torch.no_grad():
        apart = read_batch(run.subject.reader, batch, passes=2).loss
        merge_adapters(run.model)
        assert torch.allclose(read_batch(run.subject.reader, batch, passes=2).loss, apart, atol=1e-5)


@pytest.mark.parametrize(("absent", "changes"), [("peft", {"lora": 2}), ("accelerate", {"device": "accelerate"})])
def test_what_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str, changes: dict[str, Any]
) -> None:
    monkeypatch.setitem(sys.modules, absent, None)  # as if it were not there
    with pytest.raises(
        SettingsError, match=rf"needs? {absent}, which is not installed: pip install 'agentsleep\[train\]'"
    ):
        trainer(tmp_path, HYBRID, **changes)


def test_accelerate_names_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    accelerate = pytest.importorskip("accelerate")

    class Chosen:
        num_processes, mixed_precision, device = 1, "bf16", torch.device("cpu")

    monkeypatch.setattr(accelerate, "Accelerator", Chosen)
    assert hardware(config(HYBRID, device="accelerate")) == Hardware("cpu", True)
    Chosen.mixed_precision = "fp16"
    with pytest.raises(SettingsError, match="fp16 precision"):
        hardware(config(HYBRID, device="accelerate"))
    Chosen.num_processes = 2
    with pytest.raises(SettingsError, match="2 processes"):
        hardware(config(HYBRID, device="accelerate"))


@pytest.mark.parametrize("name", ["lora", "fast_first", "truncate"])
def test_numbers_below_zero(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name} is -1"):
        config(HYBRID, **{name: -1})
