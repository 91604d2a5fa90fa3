"""Progress on stderr: a live display in a terminal, plain lines everywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from agentsleep.training.config import TrainConfig
from agentsleep.training.loop import Progress as Report


@contextmanager
def bar(console: Console, what: str) -> Iterator[Callable[[float], None]]:
    """A bar that is told the part that is done, 0 to 1; nothing where there is no terminal."""
    progress = _bar(console)
    task = progress.add_task(what, total=1.0)
    if not console.is_terminal:
        yield lambda part: None
        return
    with progress:
        yield lambda part: progress.update(task, completed=part)


@contextmanager
def steps(console: Console, whole: str) -> Iterator[tuple[Callable[[str, float], None], Callable[[float], None]]]:
    """Two bars: the step in hand, told as (what it does, the part that is done), and the whole.

    Where there is no terminal, a line whenever another tenth of a step is done, or the whole has moved on.
    """
    progress = _bar(console)
    step, all_of_it = progress.add_task("", total=1.0), progress.add_task(whole, total=1.0)
    if not console.is_terminal:
        last = ("", -1)

        def line_of_step(what: str, part: float) -> None:
            nonlocal last
            now = (what.split(":")[0], int(10 * part))
            if now != last:
                console.print(f"{what} ({part:.0%})", markup=False, soft_wrap=True)
            last = now

        yield line_of_step, lambda part: console.print(f"{whole}: {part:.0%} done", markup=False)
        return
    with progress:
        yield (
            lambda what, part: progress.update(step, description=what, completed=part),
            lambda part: progress.update(all_of_it, completed=part),
        )


class TrainingDisplay:
    """Loss and accuracy per depth while a run goes on; a context manager."""

    def __init__(self, console: Console, task: str, config: TrainConfig) -> None:
        self.console, self.config = console, config
        self._bar = _bar(console)
        self._task = self._bar.add_task(f"{task}: first steps", total=1.0)
        self._live = Live(self._bar, console=console, refresh_per_second=2, transient=False)

    def __enter__(self) -> TrainingDisplay:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.stop()

    def report(self, now: Report) -> None:
        """Shows what the trainer reported."""
        if not self.console.is_terminal:
            self.console.print(line(now), markup=False, soft_wrap=True)
            return
        done = max(now.step / self.config.max_steps, now.minutes / self.config.max_minutes)
        what = f"step {now.step:,}  stage {now.stage}  depth {now.depth}  loss {now.loss:.3f}"
        self._bar.update(self._task, completed=min(1.0, done), description=what)
        self._live.update(Group(_accuracy(now), self._bar))


def line(now: Report) -> str:
    """A report as one line: accuracies of the depths in their order, for each passes x rounds."""
    parts = [f"step {now.step}", f"{now.minutes:.1f} min", f"stage {now.stage}", f"depth {now.depth}"]
    parts.append(f"loss {now.loss:.3f}")
    for visits, by_depth in now.accuracy.items():
        shown = " ".join(f"{depth}:{value:.2f}" for depth, value in by_depth.items() if depth)
        parts.append(f"{visits} {shown or '-'}")
    return " | ".join(parts)


def _accuracy(now: Report) -> Table:
    depths = sorted({depth for by_depth in now.accuracy.values() for depth in by_depth if depth})
    table = Table("passes x rounds", title="accuracy by depth")
    for depth in depths:
        table.add_column(f"{depth}", justify="right")
    for visits, by_depth in now.accuracy.items():
        table.add_row(visits, *(f"{by_depth[depth]:.2f}" if depth in by_depth else "" for depth in depths))
    return table


def _bar(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    return Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
