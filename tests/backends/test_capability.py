"""The capability probe: it sees each rule that is broken, and its report is kept."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from agentsleep.backends import SleepSettings, capability, probe
from agentsleep.backends.cache import open_cache, state_of
from agentsleep.backends.capability import examine, examined
from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.backends.repairs import repair
from agentsleep.backends.report import Report, Verdict, refuse_if_wrong
from agentsleep.conformance import make_model
from agentsleep.errors import UnsupportedModel
from agentsleep.state import FastWeights


def wrapped(model: PreTrainedModel) -> HybridBackbone:
    return HybridBackbone(model, SleepSettings(window=64))


def statuses(report: Report) -> dict[str, str]:
    return {verdict.ability: verdict.status for verdict in report.verdicts}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return make_model("qwen3_5")


@pytest.fixture(scope="module")
def backbone(model: PreTrainedModel) -> HybridBackbone:
    return wrapped(model)


# Broken rules


def test_a_scan_that_ignores_its_state_is_seen() -> None:
    model = make_model("jamba")
    report = examine(model, wrapped(model))
    assert {ability for ability, status in statuses(report).items() if status == "fail"} >= {"continuation", "eviction"}
    with pytest.raises(
        UnsupportedModel, match=r"this model's memory would be wrong. continuation: .* is off by [\d.]+ "
    ):
        refuse_if_wrong(report)


def test_steps_that_are_not_those_of_a_chunk_are_seen() -> None:
    model = make_model("nemotron_h", time_step_min=0.5)
    assert statuses(examine(model, wrapped(model)))["decoding"] == "fail"


def test_a_state_that_is_dropped_is_seen(
    model: PreTrainedModel, backbone: HybridBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "open_cache", lambda config, state: open_cache(config, state.only("conv")))
    found = statuses(examine(model, backbone))
    assert found["fast weights"] == "note"
    assert found["eviction"] == "fail"


def test_keys_that_stay_are_seen(
    model: PreTrainedModel, backbone: HybridBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "state_of", lambda cache: state_of(cache, keep=100))
    assert statuses(examine(model, backbone))["eviction"] == "fail"


def test_a_tail_that_is_not_blank_between_passes_is_seen(
    model: PreTrainedModel, backbone: HybridBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    only = FastWeights.only
    keeping = lambda state, *kinds: only(state, *kinds, *(["conv"] if kinds == ("recurrent",) else []))  # noqa: E731
    sleep = probe.sleep

    def sleeping(*args: Any, **kwargs: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(FastWeights, "only", keeping)
            return sleep(*args, **kwargs)

    monkeypatch.setattr(probe, "sleep", sleeping)
    assert statuses(examine(model, backbone))["passes"] == "fail"


def test_a_state_that_is_written_to_is_seen(
    model: PreTrainedModel, backbone: HybridBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentsleep.backends.cache._own", lambda tensor: tensor)
    assert statuses(examine(model, backbone))["round trip"] == "fail"


def test_a_second_pass_without_bounds_is_seen(
    model: PreTrainedModel, backbone: HybridBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backbone, "feed_back", lambda hidden, embedded: hidden * float("inf"))
    (failed,) = examine(model, backbone).failed
    assert (failed.ability, failed.figure) == ("passes", None)
    assert "set sleep_feedback to 'norm'" in failed.text


def test_a_state_without_effect_is_noted() -> None:
    model = make_model("falcon_h1")
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("mamba.out_proj.weight"):
                weight.zero_()
    report = examine(model, wrapped(model))
    assert statuses(report)["fast weights"] == "note"
    assert report.verdicts[0].figure == 0.0
    refuse_if_wrong(report)


@pytest.mark.parametrize("family", ["qwen3_5", "falcon_h1", "zamba2"])
def test_half_precision_is_judged_more_loosely(family: str) -> None:
    model = make_model(family).to(torch.bfloat16)
    repair(model)
    report = examine(model, wrapped(model))
    refuse_if_wrong(report)
    assert model.dtype == torch.bfloat16


def test_a_wrong_scan_is_seen_in_half_precision() -> None:
    model = make_model("jamba").to(torch.bfloat16)
    assert "continuation" in [verdict.ability for verdict in examine(model, wrapped(model)).failed]


def test_the_model_is_left_as_it_was(model: PreTrainedModel, backbone: HybridBackbone) -> None:
    model.train()
    try:
        before = torch.random.get_rng_state()
        examine(model, backbone)
        assert model.training
        assert torch.equal(torch.random.get_rng_state(), before)
    finally:
        model.eval()


# Reports that are kept


class Counted:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = 0
        self.report = Report((Verdict("continuation", "ok", 1e-6, "fine"), Verdict("eviction", "note", None, "none")))
        monkeypatch.setattr(capability, "examine", self)

    def __call__(self, model: PreTrainedModel, backbone: HybridBackbone) -> Report:
        self.calls += 1
        return self.report


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    return Counted(monkeypatch)


def test_a_report_is_kept(model: PreTrainedModel, backbone: HybridBackbone, counted: Counted, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "reports"
    assert examined(model, backbone, "f", folder) == examined(model, backbone, "f", folder) == counted.report
    assert counted.calls == 1
    assert len(list(folder.iterdir())) == 1
    examined(model, backbone, "another", folder)
    looped = dataclasses.replace(backbone.settings, feedback="norm")
    examined(model, HybridBackbone(model, looped), "f", folder)
    assert counted.calls == 3
    examined(model, backbone, "f", None)
    assert counted.calls == 4


def test_other_versions_ask_again(
    model: PreTrainedModel,
    backbone: HybridBackbone,
    counted: Counted,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    examined(model, backbone, "f", tmp_path)
    monkeypatch.setattr(capability, "version", lambda name: "9.9")
    examined(model, backbone, "f", tmp_path)
    assert counted.calls == 2


def edited(change: Callable[[Any], Any]) -> Callable[[Path], object]:
    return lambda path: path.write_text(json.dumps(change(json.loads(path.read_text()))))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff\xfe\x00"),
        lambda path: path.write_text(path.read_text()[:-20]),
        edited(lambda document: []),
        edited(lambda document: {"verdicts": []}),
        edited(lambda document: {"verdicts": [None]}),
        edited(lambda document: {"verdicts": [{"ability": "eviction"}]}),
        edited(lambda document: {"verdicts": [{**document["verdicts"][0], "status": "fine"}]}),
        edited(lambda document: {"verdicts": [{**document["verdicts"][0], "figure": "small"}]}),
    ],
)
def test_a_damaged_report_is_made_again(
    model: PreTrainedModel,
    backbone: HybridBackbone,
    counted: Counted,
    tmp_path: Path,
    damage: Callable[[Path], object],
) -> None:
    examined(model, backbone, "f", tmp_path)
    (path,) = tmp_path.glob("*.json")
    damage(path)
    assert examined(model, backbone, "f", tmp_path) == counted.report
    assert examined(model, backbone, "f", tmp_path) == counted.report
    assert counted.calls == 2


def test_a_report_that_cannot_be_written_is_not_kept(
    model: PreTrainedModel, backbone: HybridBackbone, counted: Counted, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        assert examined(model, backbone, "f", folder) == counted.report
    assert counted.calls == 2
    assert (tmp_path / "file").read_text() == ""
