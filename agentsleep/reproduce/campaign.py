"""All runs of a table, one after the other or several at once, written to its document as they finish."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agentsleep.errors import SettingsError
from agentsleep.evals.parallel import in_order
from agentsleep.reproduce import document
from agentsleep.reproduce.plan import Arm, Table, is_current, runs_of
from agentsleep.reproduce.runs import Report, folder_of, perform


def silent(what: str, part: float) -> None:
    """Reports to nobody."""


@dataclass(frozen=True, kw_only=True)
class Campaign:
    """What to reproduce, and where.

    runs: folder of the runs, with their checkpoints.  out: folder of the evidence.  only: arms to keep to; all when
    empty.
    """

    table: Table
    scale: str
    seeds: Sequence[int]
    runs: Path
    out: Path
    only: Sequence[str] = ()
    command: str = ""

    @property
    def target(self) -> Path:
        """The table's document."""
        return self.out / f"{self.table.name}.json"

    def jobs(self) -> list[tuple[Arm, int]]:
        """Every run, the measured ones too.

        Raises:
            SettingsError: ``only`` names an arm that the table does not have.
        """
        if unknown := sorted(set(self.only) - set(self.table.arms())):
            raise SettingsError(f"table {self.table.name} has no arm {unknown}; it has {', '.join(self.table.arms())}")
        runs = runs_of(self.table, self.scale, self.seeds)
        return [(arm, seed) for arm, seed in runs if not self.only or arm.name in self.only]

    def missing(self) -> list[tuple[Arm, int]]:
        """Runs that the document does not hold with these settings."""
        held = {document.run_key(run): run for run in (document.read(self.target) or {"runs": []})["runs"]}

        def measured(arm: Arm, seed: int) -> bool:
            run = held.get((self.scale, arm.name, seed))
            return run is not None and is_current(self.table, run)

        return [(arm, seed) for arm, seed in self.jobs() if not measured(arm, seed)]

    def begun(self) -> bool:
        """Whether a run of this campaign was measured, or lies in its folder."""
        return len(self.missing()) < len(self.jobs()) or any(
            folder_of(self.runs, arm, self.scale, seed).exists() for arm, seed in self.jobs()
        )

    def forget(self) -> None:
        """Removes its runs, their folders and what was measured of them, so that they are trained anew."""
        document.drop(self.target, [(self.scale, arm.name, seed) for arm, seed in self.jobs()])
        for arm, seed in self.jobs():
            shutil.rmtree(folder_of(self.runs, arm, self.scale, seed), ignore_errors=True)

    def head(self) -> dict[str, Any]:
        """What the document says of the table as a whole."""
        return {"table": self.table.name, "title": self.table.title, "command": self.command}


def carry_out(
    campaign: Campaign,
    *,
    resume: bool,
    workers: int = 1,
    report: Report = silent,
    progress: Callable[[float], None] | None = None,
) -> int:
    """Trains and measures what a campaign needs; every run is in the document as soon as it is measured.

    Args:
        resume: keeps what was measured with the same settings, and goes on with runs that were cut off. Otherwise all
            is done anew.
        workers: so many runs at once, each a process of its own.
        report: told what the current run does; with one worker only.
        progress: called after every run with the part that is done.

    Returns:
        How many runs were measured.
    """
    jobs = campaign.missing() if resume else campaign.jobs()
    if not resume:
        campaign.forget()
    work = partial(_one, campaign, report if workers == 1 else None)
    if jobs:
        in_order(work, jobs, workers, progress)
    return len(jobs)


def _one(campaign: Campaign, report: Report | None, job: tuple[Arm, int]) -> None:
    """A run, in whatever process."""
    arm, seed = job

    def told(what: str, part: float) -> None:
        (report or silent)(f"{arm.name}, seed {seed}: {what}", part)

    record = perform(campaign.table, arm, campaign.scale, seed, campaign.runs, told)
    document.add(campaign.target, campaign.head(), record)
