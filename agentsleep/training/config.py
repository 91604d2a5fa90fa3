"""Settings of a training run, read from TOML."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsleep.errors import SettingsError
from agentsleep.sleep import check_depth
from agentsleep.training.episode import check_eviction

GRAFT = ("after", "heads", "key_dim", "value_dim", "largest_share")  # what a run may say of inserted layers


@dataclass(frozen=True, kw_only=True)
class Visits:
    """How deep a batch sleeps: N passes a visit, R visits in all; ``weight`` is how often it is drawn."""

    passes: int
    rounds: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        check_depth(self.passes, self.rounds)
        if self.weight < 0:
            raise SettingsError(f"the weight of a visit is {self.weight}; it must not be negative")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A part of the curriculum: questions of up to ``start_depth`` hops, ``stride`` more when the deepest is mastered.

    windows: numbers of windows, one drawn a batch.
    form: of the text.  mix: further forms; each entry is drawn as often as ``form``, to which alone the curriculum
    listens.
    focus: the part of the questions that is of the full depth, for tasks that draw depths freely; the others are of
        any depth up to it.
    visits, judge, batch: those of this stage; None takes the run's. The batch of ``mix`` is always the run's.
    The stage ends when ``end_depth`` is mastered, or after ``max_steps`` steps of its own (0: no such end).
    """

    windows: tuple[int, ...] = (1,)
    form: str = "plain"
    mix: tuple[str, ...] = ()
    start_depth: int = 1
    end_depth: int = 4
    stride: int = 1
    focus: float = 0.0
    max_steps: int = 0
    visits: tuple[Visits, ...] | None = None
    judge: tuple[int, int] | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if not self.windows or min(self.windows) < 1:
            raise SettingsError(f"the windows of a stage are {self.windows}; name at least one number, each above 0")
        for name in ("start_depth", "stride"):
            if getattr(self, name) < 1:
                raise SettingsError(f"the {name} of a stage is {getattr(self, name)}; it must be at least 1")
        if not 0 <= self.focus <= 1:
            raise SettingsError(f"the focus of a stage is {self.focus}; it is a part of the questions, 0 to 1")
        if self.batch is not None and self.batch < 1:
            raise SettingsError(f"the batch of a stage is {self.batch}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All that a run depends on.

    model: fields of NapConfig; with ``model_type`` those of another family of transformers, and ``sleep_*``.
    task: fields of the task.  visits: sleep depths, one drawn a batch.
    judge: (passes, rounds) whose answers the curriculum listens to.  mastered: accuracy that counts as mastered, over
    the last ``memory`` questions of that depth.  The run ends at ``max_steps`` or ``max_minutes`` of CPU time,
    whichever comes first; the learning rates fall linearly to zero over the last ``decay`` of it.
    eviction, recompute, trace: as for :func:`agentsleep.training.episode.read_batch`.
    device: as torch names it, or ``accelerate``, which asks that library.  bf16: autocast.
    graft: how fast-weight layers are inserted into a model that has none, as for :func:`agentsleep.models.graft.graft`.
    lora: rank of adapters, which are then trained in place of the blocks' projections; 0 for none.
    fast_first: steps at the start in which only the layers with fast weights are trained, with hard eviction.
    truncate: windows that a gradient flows back through; 0 for all.
    """

    model: Mapping[str, Any] = field(default_factory=dict)
    task: Mapping[str, Any] = field(default_factory=dict)
    visits: tuple[Visits, ...] = (Visits(passes=1), Visits(passes=2), Visits(passes=4))
    judge: tuple[int, int] = (4, 1)
    curriculum: tuple[Stage, ...] = (Stage(),)
    mastered: float = 0.95
    memory: int = 400
    seed: int = 0
    batch: int = 64
    muon_lr: float = 5e-3
    adamw_lr: float = 2e-3
    eviction: str = "window"
    device: str = "cpu"
    recompute: bool = False
    trace: float = 0.0
    clip: float = 1.0
    warmup: int = 100
    decay: float = 0.25
    max_steps: int = 4000
    max_minutes: float = 45.0
    threads: int = 1
    checkpoint_minutes: float = 3.0
    bf16: bool = False
    graft: Mapping[str, Any] | None = None
    lora: int = 0
    fast_first: int = 0
    truncate: int = 0

    def __post_init__(self) -> None:
        for name in ("batch", "max_steps", "threads", "memory"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("muon_lr", "adamw_lr", "clip", "max_minutes", "checkpoint_minutes"):
            if not 0 < getattr(self, name) < float("inf"):
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("lora", "fast_first", "truncate"):
            if getattr(self, name) < 0:
                raise SettingsError(f"{name} is {getattr(self, name)}; it must be at least 0")
        if unknown := sorted(set(self.graft or {}) - set(GRAFT)):
            raise SettingsError(f"graft has no setting {', '.join(unknown)}; it has {', '.join(GRAFT)}")
        if not 0 <= self.trace < float("inf"):
            raise SettingsError(f"trace is {self.trace}; it is a weight, at least 0")
        if not 0 <= self.decay <= 1:
            raise SettingsError(f"decay is {self.decay}; it is the part of the run, 0 to 1, in which the rates fall")
        if not self.curriculum:
            raise SettingsError("curriculum is empty; give at least one stage")
        for stage in self.curriculum:
            visits, judge = self.visits_of(stage), self.judge_of(stage)
            if not visits or sum(v.weight for v in visits) <= 0:
                raise SettingsError("visits is empty, or none has a weight above 0; name at least one (passes, rounds)")
            for visit in visits:
                check_eviction(self.eviction, visit.passes, visit.rounds)
            if judge not in {(v.passes, v.rounds) for v in visits if v.weight > 0}:
                raise SettingsError(f"judge {judge} is not among the visits; the curriculum could never advance")

    def visits_of(self, stage: Stage) -> tuple[Visits, ...]:
        """The sleep depths that a stage draws from."""
        return self.visits if stage.visits is None else stage.visits

    def judge_of(self, stage: Stage) -> tuple[int, int]:
        """The (passes, rounds) that a stage listens to."""
        return self.judge if stage.judge is None else stage.judge


def load_config(path: Path | str, **overrides: Any) -> TrainConfig:
    """Reads a TOML file; ``overrides`` take precedence over it.

    Raises:
        SettingsError: no such file, no TOML, or a field that does not exist.
    """
    try:
        raw = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"no training config at {path}; give --config an existing TOML file") from None
    except OSError as error:
        raise SettingsError(f"{path} cannot be read ({error}); give --config a TOML file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from error
    return config_from(raw | {name: value for name, value in overrides.items() if value is not None})


def config_from(raw: Mapping[str, Any]) -> TrainConfig:
    """A config from plain values, as TOML and JSON give them.

    Raises:
        SettingsError: a field that does not exist, or a value that does not fit.
    """
    known = {f.name for f in dataclasses.fields(TrainConfig)}
    if unknown := set(raw) - known:
        raise SettingsError(f"unknown settings {sorted(unknown)}; there are {sorted(known)}")
    values = dict(raw)
    try:
        stages = values.pop("curriculum", None)
        if stages is not None:
            values["curriculum"] = tuple(Stage(**_plain(stage)) for stage in stages)
        return TrainConfig(**_plain(values))
    except SettingsError:
        raise
    except (TypeError, ValueError) as error:
        raise SettingsError(f"a setting has the wrong form: {error}") from error


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a run or a stage, lists turned into what they stand for."""
    made = dict(values)
    if made.get("visits") is not None:
        made["visits"] = tuple(Visits(**v) for v in made["visits"])
    if made.get("judge") is not None:
        passes, rounds = made["judge"]
        made["judge"] = (passes, rounds)
    for several in ("windows", "mix"):
        if several in made:
            made[several] = tuple(made[several])
    return made
