from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from agentsleep.errors import CheckpointDamaged, SettingsError
from agentsleep.models.nap import NapForCausalLM
from agentsleep.tasks import Batch, Depo, Difficulty
from agentsleep.training import loop
from agentsleep.training.config import Stage, TrainConfig, Visits
from agentsleep.training.episode import Outcome, read_batch
from agentsleep.training.loop import CHECKPOINT, HISTORY, PARTS, RECORD, Progress, Trainer, optimisers

MODEL = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "pattern": "as",
    "num_attention_heads": 2,
    "linear_num_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
TASK = {"nodes": 5, "max_depth": 3, "symbols": 6}


def config(**changes: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "model": MODEL,
        "task": TASK,
        "visits": (Visits(passes=1), Visits(passes=2, rounds=2), Visits(passes=2)),
        "judge": (2, 1),
        "curriculum": (Stage(windows=(1, 2), end_depth=3),),
        "batch": 4,
        "warmup": 3,
        "max_steps": 8,
        "max_minutes": 1e9,
        "memory": 20,
        "mastered": 0.1,
    }
    return TrainConfig(**(settings | changes))


def trainer(out: Path, **changes: Any) -> Trainer:
    return Trainer(Depo(**TASK), config(**changes), out)


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in of.model.state_dict().items()}


def test_training_lowers_the_loss_of_what_it_sees(tmp_path: Path) -> None:
    """One batch, again and again: a step helps, and sixty learn much of it."""
    run = trainer(tmp_path)
    batch = run.task.batch(np.random.default_rng(0), 8, Difficulty(windows=2, depth=1))
    both = optimisers(run.model, run.config)
    losses = []
    for _ in range(60):
        outcome = read_batch(run.model, batch, passes=2)
        losses.append(float(outcome.loss.detach()))
        run.model.zero_grad()
        outcome.loss.backward()
        for optimiser in both:
            optimiser.step()
    assert losses[1] < losses[0]
    assert losses[-1] < 0.6 * losses[0]


def test_every_weight_has_one_optimiser(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    muon, adamw = run.optimisers
    named = {id(p): name for name, p in run.model.named_parameters()}
    by_muon = {named[id(p)] for group in muon.param_groups for p in group["params"]}
    by_adamw = {named[id(p)] for group in adamw.param_groups for p in group["params"]}
    assert by_muon | by_adamw == set(named.values())
    assert not by_muon & by_adamw
    assert by_muon == {
        f"layers.{i}.{part}.weight" for i in (0, 1) for part in ("mixer.in_proj", "mixer.out_proj", "up", "down")
    }
    assert {"embeddings.weight", "lm_head.weight", "layers.1.mixer.conv_weight", "layers.1.mixer.A_log"} <= by_adamw


def test_a_step_moves_every_weight(tmp_path: Path) -> None:
    run = trainer(tmp_path, visits=(Visits(passes=2),), warmup=0)
    before = weights(run)
    run._train_step()
    unmoved = [name for name, t in run.model.state_dict().items() if torch.equal(t, before[name])]
    assert unmoved == []
    assert run.step == 1


def test_a_step_that_blows_up_is_not_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path)
    before = weights(run)

    def explode(*args: Any, **kwargs: Any) -> Outcome:
        outcome = read_batch(*args, **kwargs)
        return dataclasses.replace(outcome, loss=outcome.loss * float("inf"))

    monkeypatch.setattr(loop, "read_batch", explode)
    run._train_step()
    assert all(torch.equal(t, before[name]) for name, t in run.model.state_dict().items())
    assert run.step == 1


def test_rates_warm_up_and_fall(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=20, warmup=4, decay=0.5)
    scales = []
    for step in range(1, 21):
        run.step = step
        scales.append(run._schedule())
    assert scales[:4] == [0.25, 0.5, 0.75, 1.0]
    assert scales[4:10] == [1.0] * 6
    assert scales[10:] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    run = trainer(tmp_path, decay=0.0, warmup=0)
    run.step = 1
    assert run._schedule() == 1.0


def test_minutes_end_a_run(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_minutes=2.0, max_steps=1000)
    assert run.progress() == 0
    run.seconds = 60.0
    assert run.progress() == 0.5
    run.seconds = 600.0
    assert run.progress() == 1
    run.run()
    assert run.step == 0


def test_visits_are_drawn_by_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    visits = (Visits(passes=1, weight=1), Visits(passes=2, rounds=2, weight=3), Visits(passes=4, weight=0))
    run = trainer(tmp_path, visits=visits, judge=(1, 1), max_steps=400, batch=1)
    drawn: Counter[tuple[int, int]] = Counter()

    def note(
        model: NapForCausalLM, batch: Batch, *, passes: int, rounds: int, eviction: str, recompute: bool, trace: float
    ) -> Outcome:
        drawn[passes, rounds] += 1
        assert (eviction, recompute, trace) == ("window", False, 0.0)
        loss = sum(p.sum() for p in model.parameters()) * 0  # type: ignore[assignment]
        none = torch.zeros(1)
        return Outcome(loss, none.bool(), none, none)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "read_batch", note)
    for optimiser in run.optimisers:
        monkeypatch.setattr(optimiser, "step", lambda: None)
    for _ in range(400):
        run._train_step()
    assert drawn[4, 1] == 0
    assert drawn[1, 1] + drawn[2, 2] == 400
    assert 70 < drawn[1, 1] < 130


def test_a_stage_draws_from_its_own_visits(tmp_path: Path) -> None:
    stages = (Stage(max_steps=2), Stage(visits=(Visits(passes=3),), judge=(3, 1)))
    run = trainer(tmp_path, curriculum=stages, visits=(Visits(passes=1),), judge=(1, 1))
    drawn = []
    for _ in range(4):
        run._sums.clear()
        run._train_step()
        drawn += run._sums
    assert drawn == ["1x1", "1x1", "3x1", "3x1"]


@pytest.mark.parametrize(
    "changes",
    [{"eviction": "never"}, {"eviction": "state"}, {"recompute": True}, {"trace": 0.5}, {"model": {"pattern": "aa"}}],
)
def test_it_reads_as_the_settings_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]) -> None:
    once = {"visits": (Visits(passes=1),), "judge": (1, 1)}
    run = trainer(tmp_path, **once, **changes | {"model": MODEL | changes.get("model", {})})
    given: list[dict[str, Any]] = []

    def note(*args: Any, **kwargs: Any) -> Outcome:
        given.append(kwargs)
        return read_batch(*args, **kwargs)

    monkeypatch.setattr(loop, "read_batch", note)
    before = weights(run)
    run._train_step()
    wanted = {"eviction": "window", "recompute": False, "trace": 0.0} | {
        k: v for k, v in changes.items() if k != "model"
    }
    assert given == [{"passes": 1, "rounds": 1} | wanted]
    assert any(not torch.equal(t, before[name]) for name, t in run.model.state_dict().items())


def test_tokens_are_counted_and_go_into_checkpoint_and_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tokens of context in all, padded where a window has an edge less, and ten of questions, in four rows."""
    counted: list[int] = []

    def note(model: NapForCausalLM, batch: Batch, **kwargs: Any) -> Outcome:
        context = sum(4 * window.ids.shape[1] for window in batch.context)
        counted.append(kwargs["passes"] * kwargs["rounds"] * context + 4 * 10)
        return read_batch(model, batch, **kwargs)

    monkeypatch.setattr(loop, "read_batch", note)
    trainer(tmp_path, max_steps=3).run()
    assert json.loads((tmp_path / RECORD).read_text())["tokens"] == sum(counted) > 0
    resumed = trainer(tmp_path, max_steps=5)
    assert resumed.tokens == 0
    resumed.resume()
    assert resumed.tokens == sum(counted)
    resumed.run()
    assert len(counted) == 5
    assert len(set(counted)) > 1  # not all batches are equally deep
    assert resumed.tokens == json.loads((tmp_path / RECORD).read_text())["tokens"] == sum(counted)


@pytest.mark.parametrize(
    "device",
    [
        "gpu9",
        "",
        pytest.param("cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")),
    ],
)
def test_a_device_that_cannot_be_used(tmp_path: Path, device: str) -> None:
    with pytest.raises(SettingsError, match=f"device '{device}' cannot be used .*; set another, such as cpu"):
        trainer(tmp_path / "run", device=device)
    assert not (tmp_path / "run").exists()


def test_equal_seeds_give_equal_weights(tmp_path: Path) -> None:
    runs = [trainer(tmp_path / str(i), seed=seed, max_steps=4) for i, seed in enumerate((1, 1, 2))]
    for run in runs:
        run.run()
    first, again, other = map(weights, runs)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOG_EVERY", 3)
    whole = trainer(tmp_path / "whole")
    whole.run()
    reports: list[Progress] = []

    def interrupt(now: Progress) -> None:
        reports.append(now)
        if len(reports) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "cut").run(interrupt)
    assert reports[0].step == 3
    assert not (tmp_path / "cut" / "model").exists()
    resumed = trainer(tmp_path / "cut")
    resumed.resume()
    assert resumed.step == 3
    assert resumed.seconds > 0
    resumed.run(interrupt)
    assert resumed.step == whole.step == 8
    a, b = weights(whole), weights(resumed)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert whole.rng.bit_generator.state == resumed.rng.bit_generator.state
    assert whole.curriculum.state_dict() == resumed.curriculum.state_dict()
    lines = [
        [
            {k: v for k, v in json.loads(line).items() if k != "minutes"}
            for line in (folder / HISTORY).read_text().splitlines()
        ]
        for folder in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == [3, 6]


def test_the_curriculum_grows_in_a_run(tmp_path: Path) -> None:
    """The bar of this test lies at what guessing reaches, so that eight steps are enough."""
    run = trainer(tmp_path, mastered=0.0, visits=(Visits(passes=2),))
    run.run()
    assert run.curriculum.depth == 3
    stubborn = trainer(tmp_path / "other", mastered=1.0, visits=(Visits(passes=2),))
    stubborn.run()
    assert stubborn.curriculum.depth == 1


def test_budgets_and_rates_may_change_on_the_way(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=2).run()
    longer = trainer(tmp_path, max_steps=5, muon_lr=1e-4)
    longer.resume()
    longer.run()
    assert longer.step == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"model": MODEL | {"intermediate_size": 24}},
        {"model": MODEL | {"rule": "hebbian"}},
        {"task": TASK | {"nodes": 6}},
    ],
)
def test_no_resuming_with_another_model_or_task(tmp_path: Path, changes: dict[str, Any]) -> None:
    trainer(tmp_path, max_steps=1).run()
    with pytest.raises(SettingsError, match="another model or task; give the same, or another --out"):
        trainer(tmp_path, **changes).resume()


def test_tuples_in_the_settings_are_no_other_model(tmp_path: Path) -> None:
    pinned = {"model": MODEL | {"sleep_pin": ("system",)}}
    trainer(tmp_path, max_steps=1, **pinned).run()
    trainer(tmp_path, max_steps=1, **pinned).resume()


def test_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to resume"):
        trainer(tmp_path).resume()


@pytest.mark.parametrize("keep", [0, 0.5, 0.999])
def test_a_damaged_checkpoint(tmp_path: Path, keep: float) -> None:
    trainer(tmp_path, max_steps=1).run()
    path = tmp_path / CHECKPOINT
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(CheckpointDamaged, match=r"cannot be read.*without --resume"):
        trainer(tmp_path).resume()


def test_a_file_that_is_no_checkpoint_of_a_run(tmp_path: Path) -> None:
    torch.save({"weights": torch.zeros(2)}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointDamaged, match=r"cannot be read \(it lacks config, model, optimisers,"):
        trainer(tmp_path).resume()
    torch.save(torch.zeros(2), tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointDamaged, match="cannot be read"):
        trainer(tmp_path).resume()


def test_a_checkpoint_has_the_parts_that_are_asked_for(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=1).run()
    assert list(torch.load(tmp_path / CHECKPOINT, weights_only=True)) == list(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_a_checkpoint_that_lacks_a_part(tmp_path: Path, part: str) -> None:
    """Such as one from before tokens were counted. Nothing of it is taken."""
    trainer(tmp_path, max_steps=1).run()
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    del saved[part]
    torch.save(saved, tmp_path / CHECKPOINT)
    run = trainer(tmp_path)
    before = weights(run)
    words = rf"checkpoint\.pt cannot be read \(it lacks {part}\); start again without --resume, in another --out"
    with pytest.raises(CheckpointDamaged, match=words):
        run.resume()
    assert all(torch.equal(t, before[name]) for name, t in weights(run).items())
    assert (run.step, run.tokens) == (0, 0)


@pytest.mark.parametrize(
    ("part", "inner", "words"),
    [
        ("model", "lm_head.weight", "lm_head.weight"),
        ("curriculum", "depth", "it lacks 'depth'"),
        ("curriculum", "recent", "it lacks 'recent'"),
        ("config", "task", "it lacks 'task'"),
        ("rng", "state", "it lacks 'state'"),
    ],
)
def test_a_part_that_is_not_whole(tmp_path: Path, part: str, inner: str, words: str) -> None:
    trainer(tmp_path, max_steps=1).run()
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    as_json = isinstance(saved[part], str)
    values = json.loads(saved[part]) if as_json else saved[part]
    del values[inner]
    saved[part] = json.dumps(values) if as_json else values
    torch.save(saved, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointDamaged, match=rf"(?s)cannot be read.*{words}.*; start again without --resume"):
        trainer(tmp_path).resume()


def test_fewer_optimisers_than_there_are(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=1).run()
    saved = torch.load(tmp_path / CHECKPOINT, weights_only=True)
    saved["optimisers"].pop()
    torch.save(saved, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointDamaged, match=r"cannot be read.*without --resume"):
        trainer(tmp_path).resume()


def test_a_shorter_curriculum_is_no_damage(tmp_path: Path) -> None:
    trainer(tmp_path, max_steps=2, curriculum=(Stage(max_steps=1), Stage())).run()
    with pytest.raises(SettingsError, match="give the stages it was started with"):
        trainer(tmp_path).resume()


def test_saving_leaves_a_whole_checkpoint_or_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trainer(tmp_path, max_steps=1)
    run.run()
    before = (tmp_path / CHECKPOINT).read_bytes()

    def full_disk(whole: object, path: Path) -> None:
        path.write_bytes(b"half a chec")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        run.save()
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_the_exported_model_is_the_trained_one(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=3, seed=5)
    run.run()
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    assert isinstance(model, NapForCausalLM)
    ids = torch.randint(0, run.task.vocab_size, (2, 7))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, run.model(ids).logits)
    assert model.config.sleep_window == run.task.window
    record = json.loads((tmp_path / RECORD).read_text())
    assert record["task"] == "depo"
    assert (record["seed"], record["steps"]) == (5, 3)
    assert record["parameters"] == sum(p.numel() for p in model.parameters())
    assert record["config"] == json.loads(json.dumps(dataclasses.asdict(run.config)))
    onward = Trainer(run.task, run.config, tmp_path / "onward", init=tmp_path / "model")
    assert all(torch.equal(a, b) for a, b in zip(onward.model.parameters(), run.model.parameters(), strict=True))


def test_bf16(tmp_path: Path) -> None:
    run = trainer(tmp_path, max_steps=2, bf16=True)
    before = weights(run)
    run.run()
    after = run.model.state_dict()
    assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in after)


def test_a_setting_that_the_model_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no settings \['hiden_size'\]; there are .*'hidden_size'"):
        trainer(tmp_path, model={"hiden_size": 16})
