"""The folder of a run, and the checks before one is started."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from agentsleep.errors import CheckpointDamaged, CheckpointMissing, SettingsError
from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.tasks import Depo, Difficulty
from agentsleep.training.config import Stage, TrainConfig
from agentsleep.training.runs import (
    add_to_record,
    check,
    final_difficulty,
    find_model,
    holds_run,
    load_model,
    make_task,
    note_command,
    saved_run,
    settings_of,
)

CONFIG = TrainConfig(task={"nodes": 5, "max_depth": 4, "symbols": 6})


@pytest.fixture
def model(tmp_path) -> Path:
    config = NapConfig(vocab_size=7, hidden_size=8, intermediate_size=8, pattern="as", num_attention_heads=2,
                       linear_num_heads=2, linear_key_head_dim=3, linear_value_head_dim=5)  # fmt: skip
    path = tmp_path / "run" / "model"
    NapForCausalLM(config).save_pretrained(path)
    return path


def test_a_task_from_its_settings() -> None:
    assert make_task("depo", {"nodes": 5, "max_depth": 2}) == Depo(nodes=5, max_depth=2)


@pytest.mark.parametrize(
    ("name", "settings", "named"),
    [
        ("deppo", {}, "no task 'deppo'; there are depo, gsm, lexicon, retention, rota, rule110"),
        ("depo", {"node": 3}, "task depo has no setting node; it has nodes"),
        ("depo", {"name": "other"}, "task depo has no setting name"),
        ("depo", {"nodes": "five"}, "wrong form"),
        ("depo", {"nodes": 3}, "max_depth 8 must be below the 3 nodes"),
    ],
)
def test_settings_that_are_none_of_a_task(name, settings, named) -> None:
    with pytest.raises(SettingsError, match=named):
        make_task(name, settings)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model": {"pattern": "xyz"}}, "pattern 'xyz'"),
        ({"model": {"hidden_size": "big"}}, "a setting of the model has the wrong form"),
        ({"curriculum": (Stage(), Stage(start_depth=3, end_depth=2))}, "stage 1 goes from depth 3 down to 2"),
        ({"curriculum": (Stage(), Stage(end_depth=9))}, "depth 9 is outside"),
        ({"curriculum": (Stage(windows=(1, 6)),)}, "6 windows cannot share 5 edges"),
    ],
)
def test_what_would_fail_later_fails_in_the_check(changes, named) -> None:
    task = make_task("depo", CONFIG.task)
    check(task, CONFIG)
    with pytest.raises(SettingsError, match=named):
        check(task, dataclasses.replace(CONFIG, **changes))


def test_a_form_of_a_later_stage_is_checked() -> None:
    task = make_task("rota", {})
    with pytest.raises(SettingsError, match="form 'lively'"):
        check(task, TrainConfig(curriculum=(Stage(form="pairs"), Stage(form="lively"))))


def test_the_final_difficulty_is_the_last_stage_in_full() -> None:
    config = TrainConfig(curriculum=(Stage(), Stage(form="live", windows=(2, 4, 3), start_depth=2, end_depth=6)))
    assert final_difficulty(config) == Difficulty(windows=4, depth=6, form="live")


@pytest.mark.parametrize("name", ["checkpoint.pt", "run.json", "record.json", "model"])
def test_a_folder_with_something_to_lose_holds_a_run(tmp_path, name) -> None:
    assert not holds_run(tmp_path)
    assert not holds_run(tmp_path / "none")
    (tmp_path / name).touch()
    assert holds_run(tmp_path)


def test_commands_are_noted_in_their_order(tmp_path) -> None:
    out = tmp_path / "runs" / "a"
    assert saved_run(out) is None
    note_command(out, "depo", CONFIG, "agentsleep train depo --out a")
    later = dataclasses.replace(CONFIG, max_steps=9)
    note_command(out, "depo", later, "agentsleep train depo --resume --out a")
    run = saved_run(out)
    assert run is not None
    assert run["commands"] == ["agentsleep train depo --out a", "agentsleep train depo --resume --out a"]
    assert run["config"]["max_steps"] == 9
    assert [path.name for path in out.iterdir()] == ["run.json"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"task": 1, "config": {}, "commands": []}'])
def test_a_damaged_run_file(tmp_path, text) -> None:
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(CheckpointDamaged, match=r"run\.json cannot be read"):
        saved_run(tmp_path)


def test_a_record_grows(tmp_path) -> None:
    (tmp_path / "record.json").write_text('{"task": "depo", "steps": 1}')
    assert add_to_record(tmp_path, steps=2, more=[3]) == {"task": "depo", "steps": 2, "more": [3]}
    assert json.loads((tmp_path / "record.json").read_text()) == {"task": "depo", "steps": 2, "more": [3]}


def test_a_model_is_found_from_its_folder_or_the_runs(model, monkeypatch) -> None:
    record = {"task": "depo", "config": {"task": {}, "curriculum": []}}
    (model.parent / "record.json").write_text(json.dumps(record))
    assert find_model(model) == (model, record)
    assert find_model(model.parent) == (model, record)
    monkeypatch.chdir(model)
    assert find_model(Path()) == (Path(), record)  # its parent has no name here


def test_a_model_without_record(model) -> None:
    with pytest.raises(CheckpointMissing, match=r"no record\.json in or beside"):
        find_model(model)


def test_loading_gives_the_weights_that_were_saved(model) -> None:
    loaded = load_model(model)
    assert not loaded.training
    saved = load_file(model / "model.safetensors")
    state = loaded.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in saved.items())


def test_settings_of_a_model_make_its_like(model) -> None:
    settings = settings_of(load_model(model))
    assert json.loads(json.dumps(settings)) == settings
    assert "vocab_size" not in settings
    again = NapForCausalLM(NapConfig(**settings, vocab_size=7))
    shapes = {name: tensor.shape for name, tensor in load_model(model).state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes


def test_a_missing_model(tmp_path) -> None:
    with pytest.raises(CheckpointMissing, match="no model at"):
        load_model(tmp_path)


def test_weights_that_are_not_all_there_are_not_drawn_at_random(model) -> None:
    tensors = load_file(model / "model.safetensors")
    del tensors["layers.1.up.weight"]
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointDamaged, match=r"lacks 1 weights, such as layers\.1\.up\.weight"):
        load_model(model)


def test_a_model_of_another_type(model) -> None:
    (model / "config.json").write_text('{"model_type": "gpt2"}')
    with pytest.raises(CheckpointDamaged, match="type 'gpt2'"):
        load_model(model)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_damaged_file(model, name) -> None:
    (model / name).write_bytes(b"\x00nothing")
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        load_model(model)


def test_weights_of_another_shape(model) -> None:
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"intermediate_size": 16}))
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        load_model(model)
