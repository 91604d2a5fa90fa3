"""Repairs: done where something is wrong, on the model at hand alone."""

from __future__ import annotations

import copy

import pytest
import torch
from transformers import PreTrainedModel

from agentsleep.backends import SleepSettings
from agentsleep.backends.cache import open_cache, state_of
from agentsleep.backends.hybrid import HybridBackbone, reading
from agentsleep.backends.repairs import repair
from agentsleep.conformance import make_model
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights

IDS = torch.randint(0, 512, (2, 19), generator=torch.Generator().manual_seed(3))
CUT = 8


def continued(model: PreTrainedModel, ids: torch.Tensor = IDS, cut: int = CUT) -> float:
    """How far [a; b] in two forwards is from one forward."""
    cache = open_cache(model.config, FastWeights())
    with torch.no_grad():
        for start, part in ((0, ids[:, :cut]), (cut, ids[:, cut:])):
            logits = model(part, use_cache=True, **reading(cache, 2, part.shape[1], start, ids.device)).logits
        return float((logits - model(ids, use_cache=False).logits[:, cut:]).abs().max())


def stepped(model: PreTrainedModel) -> float:
    """How far reading token by token is from one forward."""
    cache = open_cache(model.config, FastWeights())
    with torch.no_grad():
        logits = [
            model(IDS[:, i : i + 1], use_cache=True, **reading(cache, 2, 1, i, IDS.device)).logits for i in range(19)
        ]
        return float((torch.cat(logits, 1) - model(IDS, use_cache=False).logits).abs().max())


@pytest.mark.parametrize("family", ["qwen3_5", "kimi_linear", "falcon_h1", "bamba"])
def test_what_is_right_is_left_alone(family: str) -> None:
    model = make_model(family)
    kinds = [type(module) for module in model.modules()]
    assert repair(model) == ()
    assert [type(module) for module in model.modules()] == kinds


@pytest.mark.parametrize("family", ["nemotron_h", "zamba2"])
def test_a_step_is_clamped_neither_in_a_chunk_nor_in_a_token(family: str) -> None:
    model = make_model(family, time_step_min=0.5)
    assert stepped(model) > 0.05
    (said,) = repair(model)
    assert "Mamba-2 mixers clamped dt in chunks but not token by token" in said
    assert stepped(model) < 1e-3
    assert repair(model) == ()


@pytest.mark.parametrize("family", ["jamba", "zamba", "falcon_mamba"])
def test_a_scan_starts_from_the_state(family: str) -> None:
    model, untouched = make_model(family), make_model(family)
    said = repair(model)
    assert "Mamba-1 mixers ignored their state" in said[-1]
    assert continued(model) < 1e-3
    assert repair(model) == ()
    if family != "falcon_mamba":  # which takes its cache by another name until it is mended
        assert continued(untouched) > 0.1


def test_a_copy_of_a_mended_model_is_mended_and_runs_its_own_weights() -> None:
    model = make_model("jamba")
    repair(model)
    HybridBackbone(model, SleepSettings(window=64))
    twin = copy.deepcopy(model)
    assert continued(twin) < 1e-3
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
        assert float(twin(IDS).logits.abs().max()) == 0.0
    assert continued(model) < 1e-3


def test_the_class_of_a_mended_model_keeps_its_name() -> None:
    model = make_model("mamba2")
    assert repair(model) == ("its forward takes the cache as past_key_values, too (it knew cache_params alone)",)
    assert type(model).__name__ == "Mamba2ForCausalLM"
    assert continued(model) < 1e-3
    cache = open_cache(model.config, FastWeights())
    model(IDS, use_cache=True, cache_params=cache)  # its own name for it still works
    assert len(state_of(cache))


@pytest.mark.parametrize("length", [1, 6])
def test_a_pass_of_a_mended_scan_may_lack_its_tails(length: int) -> None:
    model = make_model("jamba")
    repair(model)
    with torch.no_grad():
        cache = open_cache(model.config, FastWeights())
        model(IDS[:, :CUT], use_cache=True, **reading(cache, 2, CUT, 0, IDS.device))
        state = state_of(cache)
        before = state.clone()
        part = IDS[:, CUT : CUT + length]
        blank = {name: torch.zeros_like(t) for name, t in state.only("conv").items()}
        absent, zeros = (
            model(part, use_cache=True, **reading(open_cache(model.config, s), 2, length, 0, IDS.device)).logits
            for s in (state.only("recurrent"), state.merged(blank))
        )
    assert torch.allclose(absent, zeros, atol=1e-4)
    assert max(state.diff(before).values()) == 0.0


@pytest.mark.parametrize("length", [1, 5])
def test_gradients_flow_back_through_a_mended_scan(length: int) -> None:
    model = make_model("jamba", num_experts=1).double()
    repair(model)
    backbone = HybridBackbone(model, SleepSettings(window=64))
    earlier = sleep(backbone, IDS[:1, :6], FastWeights(), passes=1).state
    name = "layers.0.recurrent"

    def told(state: torch.Tensor) -> torch.Tensor:
        slept = sleep(backbone, IDS[:1, 6 : 6 + length], earlier.merged({name: state}), passes=2)
        return slept.hidden.square().mean() + slept.state[name].square().mean()

    given = earlier[name].clone().requires_grad_()
    told(given).backward()
    assert given.grad is not None
    toward = torch.randn_like(earlier[name])
    with torch.no_grad():
        step = 1e-4  # a part of the scan runs in fp32 whatever the model's type
        measured = (told(earlier[name] + step * toward) - told(earlier[name] - step * toward)) / (2 * step)
    torch.testing.assert_close((given.grad * toward).sum(), measured, rtol=2e-2, atol=1e-3, check_dtype=False)
    assert float(given.grad.abs().max()) > 0.0
