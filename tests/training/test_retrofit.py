"""Models of transformers are made ready to learn to sleep, and learn it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from agentsleep.errors import CheckpointDamaged, CheckpointMissing, SettingsError, UnsupportedModel
from agentsleep.models.graft import GraftForCausalLM
from agentsleep.models.nap import NapForCausalLM
from agentsleep.tasks import Depo, Difficulty
from agentsleep.training.config import Stage, TrainConfig, Visits, config_from
from agentsleep.training.episode import read_batch
from agentsleep.training.fresh import fresh_model, settings_of_family
from agentsleep.training.loop import Trainer
from agentsleep.training.retrofit import architecture_at, copy_tokenizer, family_of, make_subject
from agentsleep.training.runs import check, load_subject
from agentsleep.training.subjects import StockSubject

TASK = {"nodes": 5, "max_depth": 3, "symbols": 6}
SIZES = {
    "hidden_size": 16,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 64,
    "head_dim": 8,
}
LINEAR = {
    "layer_types": ["full_attention", "linear_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
HYBRID = {"model_type": "qwen3_5_text", **SIZES, **LINEAR}
EXPERTS = {
    "model_type": "qwen3_5_moe_text",
    **{name: size for name, size in SIZES.items() if name != "intermediate_size"},
    **LINEAR,
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 8,
    "shared_expert_intermediate_size": 8,
}
LLAMA = {"model_type": "llama", **SIZES}
GRAFT = {"heads": 1, "key_dim": 4, "value_dim": 4}
NAP = {"hidden_size": 16, "intermediate_size": 16, "pattern": "as", "num_attention_heads": 2, "linear_num_heads": 2,
       "linear_key_head_dim": 4, "linear_value_head_dim": 4}  # fmt: skip


def config(model: dict[str, Any], **changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "model": model,
        "graft": GRAFT if model is LLAMA else None,
        "task": TASK,
        "visits": (Visits(passes=2),),
        "judge": (2, 1),
        "curriculum": (Stage(windows=(2,), end_depth=2),),
        "batch": 4,
        "warmup": 0,
        "decay": 0.0,
        "max_steps": 2,
        "max_minutes": 1e9,
    }
    return TrainConfig(**(settings | changes))


def trainer(out: Path, model: dict[str, Any], *, init: Path | None = None, **changes: Any) -> Trainer:
    return Trainer(Depo(**TASK), config(model, **changes), out, init=init)


def weights(run: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in run.model.state_dict().items()}


def moved(run: Trainer, before: dict[str, torch.Tensor]) -> set[str]:
    return {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}


@pytest.mark.parametrize("model", [HYBRID, EXPERTS, LLAMA], ids=["hybrid", "experts", "graft"])
def test_a_run_leaves_a_checkpoint_directory_that_says_how_to_sleep(tmp_path: Path, model: dict[str, Any]) -> None:
    run = trainer(tmp_path, model)
    before = weights(run)
    run.run()
    assert moved(run, before) == set(before)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    text = loaded.config.get_text_config(decoder=True)
    assert (text.sleep_window, text.sleep_passes, text.sleep_feedback) == (10, 2, "norm+embed")
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    subject = load_subject(tmp_path / "model")
    assert isinstance(subject, StockSubject)
    assert (subject.settings.trained, subject.training) == (True, False)


@pytest.mark.parametrize("model", [HYBRID, LLAMA], ids=["hybrid", "graft"])
def test_one_batch_again_and_again_is_learned(tmp_path: Path, model: dict[str, Any]) -> None:
    run = trainer(tmp_path, model)
    batch = run.task.batch(np.random.default_rng(0), 4, Difficulty(windows=1, depth=1))
    losses = []
    for _ in range(15):
        outcome = read_batch(run.subject.reader, batch, passes=2)
        losses.append(float(outcome.loss.detach()))
        run.model.zero_grad()
        outcome.loss.backward()
        for optimiser in run.optimisers:
            optimiser.step()
    assert losses[-1] < 0.8 * losses[0]


def test_a_gradient_flows_through_the_state_of_a_stock_hybrid(tmp_path: Path) -> None:
    run = trainer(tmp_path, HYBRID)
    key = run.model.base_model.layers[1].linear_attn.in_proj_qkv.weight
    batch = run.task.batch(np.random.default_rng(0), 4, Difficulty(windows=2, depth=1))
    outcome = read_batch(run.subject.reader, batch, passes=2)
    kept = torch.autograd.grad(outcome.loss, key)[0]
    forgotten = torch.autograd.grad(read_batch(run.subject.reader, batch, passes=2, eviction="state").loss, key)[0]
    assert float((kept - forgotten).abs().max()) > 1e-5


def test_matrices_of_the_blocks_have_muon_and_stacked_experts_have_adamw(tmp_path: Path) -> None:
    run = trainer(tmp_path, EXPERTS)
    names = {id(parameter): name for name, parameter in run.model.named_parameters()}
    muon, adamw = (
        {names[id(p)] for group in optimiser.param_groups for p in group["params"]} for optimiser in run.optimisers
    )
    assert muon | adamw == set(names.values())
    assert not muon & adamw
    linear = "model.layers.1.linear_attn"
    assert {"model.layers.0.self_attn.q_proj.weight", f"{linear}.in_proj_qkv.weight"} <= muon
    stacked = {name for name, parameter in run.model.named_parameters() if parameter.ndim == 3}
    assert f"{linear}.conv1d.weight" in stacked
    assert any("experts" in name for name in stacked)
    assert stacked | {"model.embed_tokens.weight", "lm_head.weight", f"{linear}.A_log"} <= adamw


def test_an_attention_model_is_grafted_and_it_is_said() -> None:
    subject = make_subject(Depo(**TASK), config(LLAMA), None)
    assert isinstance(subject.model, GraftForCausalLM)
    (remark,) = subject.remarks
    assert "llama has no fast weights" in remark
    assert "inserted after block 1" in remark
    with pytest.raises(SettingsError, match="qwen3_5_text has fast weights of its own; leave 'graft' out"):
        make_subject(Depo(**TASK), config(HYBRID, graft=GRAFT), None)
    with pytest.raises(SettingsError, match="nap has fast weights of its own"):
        make_subject(Depo(**TASK), config(NAP, graft=GRAFT), None)
    with pytest.raises(SettingsError, match="largest_share"):
        make_subject(Depo(**TASK), config(LLAMA, graft=None), None)
    with pytest.raises(SettingsError, match="graft has no setting head; it has after, heads"):
        config(LLAMA, graft={"head": 2})


def test_convolutions_alone_are_no_fast_weights() -> None:
    lfm2 = {"model_type": "lfm2", **SIZES, "layer_types": ["conv", "full_attention"]}
    del lfm2["head_dim"]
    with pytest.raises(UnsupportedModel, match="blocks of type conv"):
        make_subject(Depo(**TASK), config(lfm2), None)


@pytest.mark.parametrize("model", [HYBRID, LLAMA], ids=["hybrid", "graft"])
def test_from_a_folder_with_a_larger_vocabulary_and_its_own_sleep(tmp_path: Path, model: dict[str, Any]) -> None:
    task = Depo(**TASK)
    source = fresh_model(settings_of_family({**model, "vocab_size": 40, "sleep_feedback": "hidden"}))
    source.save_pretrained(tmp_path / "source")
    assert family_of(tmp_path / "source") == model["model_type"]
    settings = architecture_at(tmp_path / "source", {"sleep_passes": 3})
    begun = config(settings, graft=GRAFT if model is LLAMA else None)
    check(task, begun)
    run = Trainer(task, begun, tmp_path / "run", init=tmp_path / "source")
    embeddings = run.model.get_input_embeddings().weight
    assert torch.equal(embeddings, source.get_input_embeddings().weight)
    assert embeddings.shape[0] == 40
    assert (run.subject.reader.settings.passes, run.subject.reader.settings.feedback) == (3, "hidden")
    run.run()
    again = config_from(dataclasses.asdict(begun) | {"max_steps": 3})
    resumed = Trainer(task, again, tmp_path / "run")
    resumed.resume()
    assert resumed.step == 2
    assert moved(resumed, weights(run)) == set()
    onward = config(architecture_at(tmp_path / "run/model", {}), graft=None)  # a graft is grafted once
    third = Trainer(task, onward, tmp_path / "third", init=tmp_path / "run/model")
    assert moved(third, weights(run)) == set()
    assert third.subject.remarks == ()


def test_a_graft_says_once_how_it_sleeps() -> None:
    model = make_subject(Depo(**TASK), config({**LLAMA, "sleep_passes": 3}, graft=GRAFT), None).model
    assert model.config.sleep_passes == 3
    assert not [name for name in model.config.base if name.startswith("sleep_")]


@pytest.mark.parametrize("model", [HYBRID, LLAMA], ids=["hybrid", "graft"])
def test_bfloat16(tmp_path: Path, model: dict[str, Any]) -> None:
    run = trainer(tmp_path, model, bf16=True)
    before = weights(run)
    run._train_step()
    assert np.isfinite(run._losses[-1])
    assert len(moved(run, before)) > 5


def test_a_vocabulary_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="the model has 8 tokens, depo as set needs 9"):
        trainer(tmp_path, {**HYBRID, "vocab_size": 8})


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"model_type": "gpt-9"}, "model_type 'gpt-9' is no family"),
        ({**LLAMA, "hidden": 3}, "the family llama has no setting hidden"),
        ({**LLAMA, "sleep_passes": 0}, "passes is 0"),
        ({**LLAMA, "sleep_feedback": "loud"}, "sleep_feedback 'loud'"),
        ({**HYBRID, "layer_types": ["full_attention", "magic"]}, "has the wrong form"),
    ],
)
def test_settings_that_do_not_work_are_found_in_the_check(model: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        check(Depo(**TASK), config(model, graft=None))


def test_sizes_that_do_not_fit_together(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no model of family llama can be made"):
        trainer(tmp_path, {**LLAMA, "hidden_size": -4})


def test_folders_that_hold_no_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing, match="no model at"):
        family_of(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        architecture_at(tmp_path, {})
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        load_subject(tmp_path)


def test_fresh_weights_are_heard_and_remember() -> None:
    model = fresh_model(settings_of_family({**HYBRID, "vocab_size": 4000}))
    assert float(model.get_input_embeddings().weight.detach().std()) == pytest.approx(1.0, abs=0.05)
    mixer = model.base_model.layers[1].linear_attn
    decay = (-mixer.A_log.exp() * nn.functional.softplus(mixer.dt_bias)).exp()
    assert bool((decay > 0.99).all())
    tied = fresh_model(settings_of_family({**HYBRID, "vocab_size": 4000, "tie_word_embeddings": True}))
    assert float(tied.get_input_embeddings().weight.detach().std()) == pytest.approx(0.2, abs=0.02)


def test_nap_is_trained_as_it_is(tmp_path: Path) -> None:
    run = trainer(tmp_path, NAP)
    assert isinstance(run.model, NapForCausalLM)
    assert run.subject.reader is run.model
    run.run()
    assert isinstance(load_subject(tmp_path / "model"), NapForCausalLM)


def test_a_tokenizer_travels_with_the_weights(tmp_path: Path) -> None:
    from agentsleep.backends.loading import shipped_model

    copy_tokenizer(shipped_model(), tmp_path / "model")
    assert (tmp_path / "model/tokenizer.json").is_file()
    copy_tokenizer(tmp_path, tmp_path / "none")
    assert not (tmp_path / "none").exists()
