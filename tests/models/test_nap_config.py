from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from agentsleep.errors import AgentsleepError, SettingsError
from agentsleep.models.nap import NapConfig, NapForCausalLM
from tests.tiny import RULES, tiny, tokens

SLEEP = {
    "sleep_window": 48,
    "sleep_passes": 3,
    "sleep_rounds": 5,
    "sleep_feedback": "hidden",
    "sleep_eviction": "sliding",
    "sleep_pin": ["system"],
}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"pattern": "asxs"}, "'asxs'"),
        ({"pattern": ""}, "pattern ''"),
        ({"rule": "oja"}, r"'oja' is not one of .*'delta', 'hebbian'"),
        ({"sleep_feedback": "logits"}, r"'logits' is not one of .*'norm\+embed', 'hidden'"),
        ({"sleep_eviction": "soft"}, r"sleep_eviction 'soft' is not one of .*'hard', 'sliding'"),
        ({"hidden_size": 20, "num_attention_heads": 4}, "hidden_size 20"),
    ],
)
def test_settings_that_make_no_model(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words) as caught:
        NapConfig(**settings)
    assert isinstance(caught.value, (ValueError, AgentsleepError))


def test_layers_follow_from_the_pattern() -> None:
    config = NapConfig(pattern="ssa")
    assert config.num_hidden_layers == 3
    assert config.layer_types == ["linear_attention", "linear_attention", "full_attention"]
    assert config.max_position_embeddings == config.sleep_window


def test_what_follows_from_the_pattern_is_not_taken_from_a_file() -> None:
    raw = NapConfig(pattern="as").to_dict() | {"pattern": "sas", "sleep_window": 40}
    config = NapConfig.from_dict(raw)
    assert config.num_hidden_layers == 3
    assert config.layer_types == ["linear_attention", "full_attention", "linear_attention"]
    assert config.max_position_embeddings == 40


def test_sleep_settings_travel_with_the_config(tmp_path: Path) -> None:
    config = NapConfig(pattern="sa", rule="hebbian", **SLEEP)  # type: ignore[arg-type]
    config.save_pretrained(tmp_path)
    on_disk = json.loads((tmp_path / "config.json").read_text())
    assert on_disk["model_type"] == "nap"
    back = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(back, NapConfig)
    for name, value in {**SLEEP, "pattern": "sa", "rule": "hebbian"}.items():
        assert on_disk[name] == value
        assert getattr(back, name) == value
    assert back.to_dict() | {"_name_or_path": ""} == config.to_dict()


def test_a_saved_config_with_an_unknown_pattern_is_refused(tmp_path: Path) -> None:
    NapConfig().save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pattern": "aqas"}))
    with pytest.raises(SettingsError, match="'aqas'"):
        AutoConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("rule", RULES)
def test_a_saved_model_comes_back_as_it_was(tmp_path: Path, rule: str) -> None:
    model = tiny(rule=rule, **SLEEP)
    model.save_pretrained(tmp_path)
    back = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(back, NapForCausalLM)
    assert not back.training
    before, after = model.state_dict(), back.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before)
    ids = tokens(2, 7)
    with torch.no_grad():
        assert torch.equal(model(ids).logits, back(ids).logits)
    assert back.config.sleep_feedback == "hidden"


def test_auto_model_from_config() -> None:
    model = AutoModelForCausalLM.from_config(NapConfig(hidden_size=16, num_attention_heads=2, pattern="as"))
    assert isinstance(model, NapForCausalLM)
    assert model.get_input_embeddings() is model.embeddings


@pytest.mark.parametrize("rule", RULES)
def test_fresh_weights(rule: str) -> None:
    """Residual branches start small, gates near 1, and nothing is left uninitialised."""
    torch.manual_seed(5)
    model = NapForCausalLM(NapConfig(rule=rule))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    mixer = model.layers[1].mixer
    assert float(mixer.out_proj.weight.detach().std()) < 0.6 * float(mixer.in_proj.weight.detach().std())
    assert torch.equal(model.norm.weight, torch.ones(64))
    step = torch.nn.functional.softplus(mixer.dt_bias)
    forget = (-mixer.A_log.exp() * step).exp()
    assert (forget > 0.99).all()
    assert (forget < 1).all()
    assert float(mixer.conv_weight.detach().abs().max()) <= 0.5
    torch.manual_seed(5)
    again = NapForCausalLM(NapConfig(rule=rule))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
