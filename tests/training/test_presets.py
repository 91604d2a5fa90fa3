"""The configs that come with the package: all of them work, and the N = 1 ones differ in the passes alone."""

from __future__ import annotations

import dataclasses
import tomllib

import pytest

from agentsleep.errors import SettingsError
from agentsleep.tasks import TASKS
from agentsleep.training.config import load_config
from agentsleep.training.presets import preset, preset_names, task_names
from agentsleep.training.runs import check, make_task


def task_of(name: str) -> str:
    return name.partition("-")[0]


def test_every_task_has_one() -> None:
    assert task_names() == sorted([*TASKS, "transcripts"])  # which has no episodes of its own
    assert set(TASKS) <= set(preset_names())
    assert preset_names() == sorted(preset_names())


@pytest.mark.parametrize("name", [name for name in preset_names() if name != "transcripts"])
def test_it_would_run_to_its_end(name) -> None:
    config = load_config(preset(name))
    check(make_task(task_of(name), config.task), config)
    assert config.model["hidden_size"] == 64


@pytest.mark.parametrize("name", ["depo", "rule110"])
def test_the_one_at_n_1_differs_in_its_passes_alone(name) -> None:
    ours, plain = (tomllib.loads(preset(n).read_text()) for n in (name, f"{name}-n1"))
    assert (ours["visits"], ours["judge"]) == ([{"passes": 4}], [4, 1])
    assert (plain["visits"], plain["judge"]) == ([{"passes": 1}], [1, 1])
    assert plain["model"].pop("sleep_passes") == 1
    assert ours["model"].pop("sleep_passes") == 4
    for different in ("visits", "judge"):
        ours.pop(different), plain.pop(different)
    assert ours == plain
    config = load_config(preset(name))
    assert config.max_minutes < 45  # the claim's budget
    assert config.threads == 1


def test_the_command_line_comes_before_the_file() -> None:
    config = load_config(preset("depo"), seed=7, max_steps=None)
    assert config == dataclasses.replace(load_config(preset("depo")), seed=7)


@pytest.mark.parametrize("name", ["none", "../depo", ""])
def test_an_unknown_one(name) -> None:
    with pytest.raises(SettingsError, match=r"no preset .*; there are depo, depo-n1"):
        preset(name)
