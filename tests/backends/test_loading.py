"""Checkpoints: found, damaged, and told apart."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

from agentsleep.backends import load_backend
from agentsleep.errors import CheckpointDamaged, CheckpointMissing, SettingsError
from agentsleep.memory import SleepMemory
from agentsleep.tokens import build_tokenizer
from tests.memory.helpers import ROOT

Damage = Callable[[Path], object]


def edit(name: str, change: Callable[[str], str]) -> Damage:
    """Rewrites a text file of a checkpoint."""
    return lambda folder: (folder / name).write_text(change((folder / name).read_text()))


def reshape(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Rewrites the weights of a checkpoint."""

    def damage(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def setting(name: str, value: Any) -> Damage:
    return edit("config.json", lambda text: json.dumps(json.loads(text) | {name: value}))


def cut(name: str, size: int) -> Damage:
    return lambda folder: os.truncate(folder / name, size)


def test_a_checkpoint_is_loaded_for_reading_alone(nap: Path) -> None:
    backend = load_backend(nap)
    assert not backend.model.training
    assert not any(p.requires_grad for p in backend.model.parameters())
    assert {p.dtype for p in backend.model.parameters()} == {torch.float32}
    assert backend.config is backend.model.config
    assert backend.settings.window == 48
    stored = load_file(nap / "model.safetensors")
    for name, tensor in backend.model.state_dict().items():
        assert torch.equal(tensor, stored[name])
    assert load_backend(str(nap)).fingerprint == backend.fingerprint


def test_the_progress_bar_is_left_as_it_was(nap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert logging.is_progress_bar_enabled()
    load_backend(nap)
    assert logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        load_backend(nap)
        assert not logging.is_progress_bar_enabled()
    finally:
        logging.enable_progress_bar()


@pytest.mark.parametrize("place", ["nowhere", "", "empty"])
def test_no_checkpoint(tmp_path: Path, place: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointMissing, match=r"no checkpoint at .* \(no config.json\); give a directory that"):
        load_backend(tmp_path / place)


def test_a_file_is_no_checkpoint(nap: Path) -> None:
    with pytest.raises(CheckpointMissing):
        load_backend(nap / "config.json")


def test_a_model_that_keeps_keys_is_refused(copy: Path) -> None:
    setting("sleep_eviction", "sliding")(copy)
    with pytest.raises(SettingsError, match="sleep_eviction 'sliding', but the live memory evicts hard") as caught:
        load_backend(copy)
    assert str(copy) in str(caught.value)
    setting("sleep_eviction", "hard")(copy)
    assert load_backend(copy).config.sleep_eviction == "hard"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (edit("config.json", lambda text: text[:-9]), "cannot be read"),
        (edit("config.json", lambda text: ""), "cannot be read"),
        (edit("config.json", lambda text: "[]"), "cannot be read"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (setting("model_type", "llama"), "lacks the weights"),
        (setting("model_type", None), "cannot be read"),
        (setting("pattern", "axa"), "pattern 'axa' must be letters"),
        (setting("sleep_eviction", "soft"), "sleep_eviction 'soft' is not one of"),
        (setting("hidden_size", 64), "cannot be read"),
        (setting("vocab_size", "many"), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").unlink(), "cannot be read"),
        (cut("model.safetensors", 0), "cannot be read"),
        (cut("model.safetensors", 7), "cannot be read"),
        (cut("model.safetensors", 5000), "cannot be read"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"\0" * 100_000), "cannot be read"),
        (reshape(lambda t: t.pop("layers.1.mixer.out_proj.weight")), r"lacks the weights \['layers.1.mixer.out_proj"),
        (reshape(lambda t: t.update({"norm.weight": torch.ones(5)})), "cannot be read"),
        (reshape(lambda t: t["lm_head.weight"].fill_(float("nan"))), r"NaN or Inf in \['lm_head.weight'\]"),
        (reshape(lambda t: t["norm.weight"].fill_(float("inf"))), r"NaN or Inf in \['norm.weight'\]"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "cannot be read"),
        (edit("tokenizer.json", lambda text: text[:900]), "cannot be read"),
        (edit("tokenizer.json", lambda text: "{}"), "cannot be read"),
        (edit("tokenizer_config.json", lambda text: "{"), "cannot be read"),
    ],
)
def test_a_damaged_checkpoint(copy: Path, damage: Damage, said: str) -> None:
    damage(copy)
    with pytest.raises(CheckpointDamaged, match=said) as caught:
        load_backend(copy)
    assert str(copy) in str(caught.value)
    assert logging.is_progress_bar_enabled()


def test_weights_are_never_unpickled(copy: Path) -> None:
    state = load_file(copy / "model.safetensors")
    (copy / "model.safetensors").unlink()
    torch.save(state, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointDamaged):
        load_backend(copy)


def test_a_tokenizer_of_another_model(copy: Path) -> None:
    build_tokenizer([f" word{i}" for i in range(500)], "").save_pretrained(copy)
    with pytest.raises(CheckpointDamaged, match=r"has 764 tokens, the model knows 386; they do not belong together"):
        load_backend(copy)


def test_a_tokenizer_without_the_markers_of_the_chat(copy: Path) -> None:
    path = copy / "tokenizer.json"
    path.write_text(path.read_text().replace("<|call|>", "<|fall|>"))
    config = copy / "tokenizer_config.json"
    config.write_text(config.read_text().replace("<|call|>", "<|fall|>"))
    with pytest.raises(CheckpointDamaged, match=rf"the model {copy} cannot speak: .* lacks the markers \['<.call.>'\]"):
        SleepMemory(copy, archive=":memory:")


# Which model it is


def changed(copy: Path, change: Damage) -> str:
    change(copy)
    return load_backend(copy).fingerprint


def nudge(tensors: dict[str, torch.Tensor]) -> None:
    weight = tensors["layers.2.mixer.out_proj.weight"]
    weight[0, 0] = torch.nextafter(weight[0, 0], weight.new_tensor(10.0))


def merge(folder: Path) -> None:
    """Another spelling: one piece of the vocabulary becomes another one."""
    path = folder / "tokenizer.json"
    text = path.read_text()
    assert "oscar" in text
    path.write_text(text.replace("oscar", "oskar"))


@pytest.mark.parametrize(
    "change",
    [
        reshape(nudge),
        merge,
        setting("rms_norm_eps", 2e-6),
        setting("rope_theta", 500.0),
        setting("sleep_feedback", "hidden"),
    ],
)
def test_another_model_has_another_fingerprint(nap: Path, copy: Path, change: Damage) -> None:
    assert changed(copy, change) != load_backend(nap).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        setting("sleep_passes", 7),
        setting("sleep_rounds", 7),
        setting("sleep_window", 60),
        setting("sleep_pin", []),
        setting("transformers_version", "9.9"),
        lambda folder: (folder / "generation_config.json").unlink(),
        lambda folder: (folder / "chat_template.jinja").unlink(),
        lambda folder: (folder / "README.md").write_text("a model"),
    ],
)
def test_how_a_model_is_used_does_not_make_another_one_of_it(nap: Path, copy: Path, change: Damage) -> None:
    assert changed(copy, change) == load_backend(nap).fingerprint


def test_a_model_keeps_its_fingerprint_when_it_is_saved_again(nap: Path, tmp_path: Path) -> None:
    backend = load_backend(nap)
    again = tmp_path / "saved again"
    backend.model.save_pretrained(again)
    backend.tokenizer.save_pretrained(again)
    assert load_backend(again).fingerprint == backend.fingerprint
    moved = Path(shutil.move(again, tmp_path / "moved"))
    assert load_backend(moved).fingerprint == backend.fingerprint


def test_a_model_keeps_its_fingerprint_whoever_used_its_tokenizer_before(nap: Path) -> None:
    expected = load_backend(nap).fingerprint
    backend = load_backend(nap)
    backend.tokenizer(["bob", "bob hands over"], padding=True, truncation=True, max_length=2)
    assert "padding" in backend.tokenizer.backend_tokenizer.to_str()
    assert replace(backend).fingerprint == expected


def test_a_new_process_finds_the_same_fingerprint(nap: Path) -> None:
    code = "import sys; from agentsleep.backends import load_backend; print(load_backend(sys.argv[1]).fingerprint)"
    environment = {**os.environ, "PYTHONHASHSEED": "5"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(nap)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == load_backend(nap).fingerprint, done.stderr
