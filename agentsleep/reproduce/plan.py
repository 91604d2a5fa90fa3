"""What a table is made of, as the TOML files in ``plans/`` say it.

``tables.toml`` names, for every table, its parts: which arms are measured, and how. An arm is a way to train a model;
each of the other files holds a family of them, which share a task and base settings. A run is an arm with a seed.
Families are apart from tables since one run may serve several tables.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from agentsleep.errors import SettingsError
from agentsleep.training.config import TrainConfig, config_from

SCALES = ("small", "paper")
_TABLES = "tables"


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way to train a model.

    name: ``family/arm``.  kind: ``sleep``, ``baseline``, ``floor`` or ``ceiling``.  seeds: at most so many are trained.
    passes, rounds: the sleep depths it is measured at.  settings: of its training, seed apart.
    """

    name: str
    label: str
    task: str
    kind: str
    settings: Mapping[str, Any]
    passes: tuple[int, ...] = (1,)
    rounds: tuple[int, ...] = (1,)
    seeds: int | None = None

    def config(self, seed: int) -> TrainConfig:
        """The training settings of a run."""
        return config_from({**self.settings, "seed": seed})

    def digest(self, seed: int) -> str:
        """Tells runs of other settings apart."""
        return _digest({"task": self.task, "settings": self.settings, "seed": seed})


@dataclass(frozen=True, kw_only=True)
class Part:
    """Arms, and the measure that is taken of each.

    name: under which its rows are kept.  settings: of the measure.  show: how its rows become a
    table and a picture; the measure does not depend on it.
    """

    name: str
    title: str
    measure: str
    arms: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    show: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the docs. asks: the question that it is to answer; what the answer is, its figures say."""

    name: str
    title: str
    asks: str
    parts: tuple[Part, ...]

    def arms(self) -> list[str]:
        """Names of all arms, each once, in the order of the parts."""
        return list(dict.fromkeys(name for part in self.parts for name in part.arms))

    def parts_of(self, arm: str) -> list[Part]:
        """The parts that measure an arm."""
        return [part for part in self.parts if arm in part.arms]

    def digest(self, arm: Arm) -> str:
        """Tells other measures of an arm apart."""
        parts = [[part.name, part.measure, part.settings] for part in self.parts_of(arm.name)]
        return _digest([arm.passes, arm.rounds, parts])


def is_current(table: Table, run: Mapping[str, Any]) -> bool:
    """Whether a run was trained, and measured for the table, as the plans say now."""
    try:
        arm = load_arm(run["arm"], run["scale"])
    except SettingsError:  # the plans have no such arm any more
        return False
    trained: bool = run["digest"] == arm.digest(run["seed"])
    return trained and run["measures"] == table.digest(arm)


def table_names() -> list[str]:
    """All tables, in the order of the docs."""
    return list(_read(_TABLES))


def load_table(name: str) -> Table:
    """A table.

    Raises:
        SettingsError: there is none of this name.
    """
    if name not in _read(_TABLES):
        raise SettingsError(f"no table {name!r}; there are {', '.join(table_names())}")
    raw = _read(_TABLES)[name]
    parts = tuple(
        Part(
            name=part["name"],
            title=part["title"],
            measure=part["measure"],
            arms=tuple(part["arms"]),
            settings={k: v for k, v in part.items() if k not in ("name", "title", "measure", "arms", "show")},
            show=part.get("show", {}),
        )
        for part in raw["parts"]
    )
    return Table(name=name, title=raw["title"], asks=raw["asks"], parts=parts)


def load_arm(name: str, scale: str) -> Arm:
    """An arm at a scale.

    Raises:
        SettingsError: no such arm or scale.
    """
    if scale not in SCALES:
        raise SettingsError(f"no scale {scale!r}; there are {', '.join(SCALES)}")
    family, _, short = name.partition("/")
    raw = _read(family)
    if short not in raw["arms"]:
        raise SettingsError(f"no arm {name!r}; the family {family} has {', '.join(raw['arms'])}")
    arm = raw["arms"][short]
    settings = _merged(raw["base"], raw.get(scale, {}), arm.get("set", {}), arm.get(scale, {}))
    return Arm(
        name=name,
        label=arm["label"],
        task=raw["task"],
        kind=arm.get("kind", "sleep"),
        settings=settings,
        passes=tuple(arm.get("passes", (1,))),
        rounds=tuple(arm.get("rounds", (1,))),
        seeds=arm.get("seeds"),
    )


def runs_of(table: Table, scale: str, seeds: Sequence[int]) -> list[tuple[Arm, int]]:
    """Every run that a table needs, the seeds of an arm one after the other."""
    runs = []
    for name in table.arms():
        arm = load_arm(name, scale)
        runs += [(arm, seed) for seed in seeds if arm.seeds is None or seed < arm.seeds]
    return runs


def _merged(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Later layers take precedence; tables are merged, all else is replaced."""
    result: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
            result[key] = _merged(result[key], value) if both else value
    return result


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _read(name: str) -> dict[str, Any]:
    path = files("agentsleep.reproduce") / "plans" / f"{name}.toml"
    if not path.is_file():
        raise SettingsError(f"no family of arms {name!r}")
    return tomllib.loads(path.read_text(encoding="utf-8"))
