from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from agentsleep.errors import SettingsError
from agentsleep.training.config import Stage, TrainConfig, Visits, config_from, load_config

WHOLE = """
seed = 3
judge = [2, 2]
visits = [{ passes = 1, weight = 0.5 }, { passes = 2, rounds = 2 }]
curriculum = [{ windows = [1, 2], form = "pairs", end_depth = 3 }, { windows = [3], start_depth = 3, max_steps = 9 }]
muon_lr = 1e-3

[model]
pattern = "sas"

[task]
people = 10
"""


EARLY = {"visits": [{"passes": 3}], "judge": [3, 1]}  # a stage that sleeps in its own way


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    assert config.seed == 3
    assert config.judge == (2, 2)
    assert config.visits == (Visits(passes=1, weight=0.5), Visits(passes=2, rounds=2))
    assert config.curriculum == (
        Stage(windows=(1, 2), form="pairs", end_depth=3),
        Stage(windows=(3,), start_depth=3, max_steps=9),
    )
    assert config.model == {"pattern": "sas"}
    assert config.task == {"people": 10}
    assert config.muon_lr == 1e-3
    assert config.batch == TrainConfig().batch


def test_a_stage_may_sleep_in_its_own_way(tmp_path: Path) -> None:
    text = """
visits = [{ passes = 1 }, { passes = 4 }]
judge = [4, 1]
curriculum = [{ visits = [{ passes = 2, rounds = 2 }], judge = [2, 2], mix = ["pairs"] }, { judge = [1, 1] }, {}]
"""
    config = load_config(write(tmp_path, text))
    own, judged, plain = config.curriculum
    assert own.mix == ("pairs",)
    assert config.visits_of(own) == (Visits(passes=2, rounds=2),)
    assert config.visits_of(judged) == config.visits_of(plain) == (Visits(passes=1), Visits(passes=4))
    assert [config.judge_of(stage) for stage in config.curriculum] == [(2, 2), (1, 1), (4, 1)]
    assert config_from(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_what_is_evicted_and_where_it_runs(tmp_path: Path) -> None:
    text = """
eviction = "never"
device = "cuda"
recompute = true
visits = [{ passes = 1 }]
judge = [1, 1]
curriculum = [{ focus = 0.5 }]
"""
    config = load_config(write(tmp_path, text))
    assert (config.eviction, config.device, config.recompute) == ("never", "cuda", True)
    assert config.curriculum[0].focus == 0.5
    assert config_from(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    plain = TrainConfig()
    assert (plain.eviction, plain.device, plain.recompute, plain.curriculum[0].focus) == ("window", "cpu", False, 0.0)
    assert config_from({"eviction": "state"}).eviction == "state"  # with any passes


def test_denser_supervision_and_wider_strides(tmp_path: Path) -> None:
    text = """
trace = 0.5
curriculum = [{ start_depth = 4, end_depth = 16, stride = 4 }, {}]
"""
    config = load_config(write(tmp_path, text))
    assert config.trace == 0.5
    assert [stage.stride for stage in config.curriculum] == [4, 1]
    assert config_from(json.loads(json.dumps(dataclasses.asdict(config)))) == config
    assert (TrainConfig().trace, Stage().stride) == (0.0, 1)
    assert config_from({"trace": 0}).trace == 0


def test_overrides_take_precedence_unless_they_are_none(tmp_path: Path) -> None:
    path = write(tmp_path, WHOLE)
    assert load_config(path, seed=7, max_minutes=None).seed == 7
    assert load_config(path, seed=None).seed == 3
    assert load_config(path, seed=0).seed == 0


def test_an_empty_file_is_the_default(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == TrainConfig()


def test_a_config_comes_back_from_json(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, WHOLE))
    assert config_from(json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no training config at .*none\.toml; give --config"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(SettingsError, match="cannot be read"):
        load_config(tmp_path)


@pytest.mark.parametrize("data", [b"seed 3", b"seed = ", b"[model", b"\xff\xfe\x00"])
def test_no_toml(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(data)
    with pytest.raises(SettingsError, match=r"run\.toml is not TOML"):
        load_config(path)


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"sed": 3}, r"unknown settings \['sed'\]; there are .*'seed'"),
        ({"batch": 0}, "batch is 0; it must be at least 1"),
        ({"max_steps": -1}, "max_steps is -1"),
        ({"threads": 0}, "threads is 0"),
        ({"memory": 0}, "memory is 0"),
        ({"max_minutes": 0}, "max_minutes is 0; it must be above 0"),
        ({"batch": "many"}, "wrong form"),
        ({"visits": []}, "visits is empty"),
        ({"visits": 3}, "wrong form"),
        ({"visits": [{"pases": 1}]}, "wrong form.*pases"),
        ({"visits": [{"passes": 0}]}, "passes is 0"),
        ({"visits": [{"passes": 1.5}]}, "passes is 1.5"),
        ({"visits": [{"passes": 4, "rounds": 0}]}, "rounds is 0"),
        ({"visits": [{"passes": 4, "weight": -1.0}]}, "weight of a visit is -1.0"),
        ({"visits": [{"passes": 4, "weight": 0.0}]}, "none has a weight above 0"),
        ({"judge": [8, 1]}, r"judge \(8, 1\) is not among the visits"),
        ({"judge": [4]}, "wrong form"),
        ({"judge": 4}, "wrong form"),
        ({"visits": [{"passes": 4, "weight": 0.0}, {"passes": 1}], "judge": [4, 1]}, "not among the visits"),
        ({"curriculum": [{"visits": [{"passes": 2}]}]}, r"judge \(4, 1\) is not among the visits"),
        ({"curriculum": [{}, {"judge": [3, 1]}]}, r"judge \(3, 1\) is not among the visits"),
        ({"curriculum": [{"visits": []}]}, "visits is empty"),
        ({"curriculum": [{"visits": [{"passes": 0}]}]}, "passes is 0"),
        ({"curriculum": [{"judge": [4]}]}, "wrong form"),
        ({"curriculum": []}, "curriculum is empty"),
        ({"curriculum": ["pairs"]}, "wrong form"),
        ({"curriculum": [{"window": [1]}]}, "wrong form"),
        ({"curriculum": [{"windows": 2}]}, "wrong form"),
        ({"curriculum": [{"windows": []}]}, "the windows of a stage are"),
        ({"curriculum": [{"windows": [2, 0]}]}, "the windows of a stage are"),
        ({"curriculum": [{"start_depth": 0}]}, "start_depth of a stage is 0"),
        ({"curriculum": [{"stride": 0}]}, "stride of a stage is 0; it must be at least 1"),
        ({"curriculum": [{}, {"stride": -4}]}, "stride of a stage is -4"),
        ({"curriculum": [{"stride": "four"}]}, "wrong form"),
        ({"curriculum": [{"batch": 0}]}, "batch of a stage is 0"),
        ({"curriculum": [{"focus": 1.5}]}, "focus of a stage is 1.5; it is a part of the questions, 0 to 1"),
        ({"curriculum": [{"focus": -0.5}]}, "focus of a stage is -0.5"),
        ({"curriculum": [{"focus": float("nan")}]}, "focus of a stage is nan"),
        ({"eviction": "hard"}, r"eviction 'hard' is not one of .*'window', 'never', 'state'"),
        ({"eviction": "never"}, "passes 2, rounds 1: what is never evicted is read once; set both to 1"),
        ({"eviction": "never", "visits": [{"passes": 1, "rounds": 2}], "judge": [1, 2]}, "passes 1, rounds 2"),
        (
            {"eviction": "never", "visits": [{"passes": 1}], "judge": [1, 1], "curriculum": [{}, EARLY]},
            "passes 3, rounds 1: what is never evicted",
        ),
        ({"muon_lr": 0}, "muon_lr is 0; it must be above 0"),
        ({"clip": float("nan")}, "clip is nan"),
        ({"trace": -0.5}, "trace is -0.5; it is a weight, at least 0"),
        ({"trace": float("nan")}, "trace is nan"),
        ({"trace": float("inf")}, "trace is inf"),
        ({"trace": "much"}, "wrong form"),
        ({"decay": 1.5}, "decay is 1.5; it is the part of the run"),
    ],
)
def test_settings_that_make_no_run(raw: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        config_from(raw)
