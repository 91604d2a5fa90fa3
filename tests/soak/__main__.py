"""`python -m tests.soak`: kills writers until enough of them died, and says what was found."""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.update(
    OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1"
)  # before torch is imported: a child of a fork has one thread

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from agentsleep.archive import chunks
from agentsleep.memory import SleepMemory
from tests.memory.helpers import NEVER, make_nap
from tests.postgres import PostgresServer, _superuser
from tests.soak.life import Kill, Life, old_archive
from tests.soak.places import Place, PostgresPlace, SqlitePlace

CHUNK_BYTES = 4096
"""Small states of several chunks; the archive's own chunks are larger than all of them."""


class Soak:
    """A model, an old file and, for PostgreSQL, a server: what lives are made with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.set_num_threads(1)
        self.memory = SleepMemory(make_nap(folder / "nap"), archive=":memory:", policy=NEVER)
        self.memory.archive.close()
        self.memory.prober  # noqa: B018  # computed once, for all that are forked
        self.old = folder / "old.db"
        old_archive(self.old)

    def life(self, lane: int, seed: int, server: PostgresServer | None) -> Life:
        """A life on a place of its own."""
        place: Place = (
            SqlitePlace(self.folder / f"lane-{lane}", self.old)
            if server is None
            else PostgresPlace(server, server.create())
        )
        return Life(place, self.memory, random.Random(f"{seed}-{lane}"))


def kills(life: Life, most: int, seconds: float) -> Iterator[Kill]:
    """Kills one process after the other, on small chunks."""
    ends, before = time.monotonic() + seconds, chunks.CHUNK_BYTES
    chunks.CHUNK_BYTES = CHUNK_BYTES
    try:
        for _ in range(most):
            if time.monotonic() > ends:
                return
            yield life.kill()
    finally:
        chunks.CHUNK_BYTES = before


def lane(life: Life, most: int, seconds: float) -> tuple[int, int]:
    """`kills` in a fork; returns its id and the pipe that it tells each one through, as a line of JSON."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid:
        os.close(sink)
        return pid, source
    try:
        with os.fdopen(sink, "w") as out:
            for one in kills(life, most, seconds):
                print(json.dumps(asdict(one)), file=out, flush=True)
        os._exit(0)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)
    raise AssertionError("not reached")


def gather(lanes: list[tuple[int, int]], console: Console, most: int) -> tuple[list[dict[str, Any]], bool]:
    """What all lanes tell, and whether all of them came to their end."""
    found: list[dict[str, Any]] = []
    rest = {source: b"" for _pid, source in lanes}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    # No thread of its own: the display is refreshed by hand.
    progress = Progress(*columns, TimeRemainingColumn(), console=console, auto_refresh=False)
    task = progress.add_task("kills", total=most)
    said = time.monotonic()
    with progress:
        while rest:
            for source in select.select([*rest], [], [])[0]:
                part = os.read(source, 65536)
                if not part:
                    del rest[source]
                    os.close(source)
                    continue
                *whole, rest[source] = (rest[source] + part).split(b"\n")
                for line in whole:
                    found.append(json.loads(line))
                    for finding in found[-1]["findings"]:
                        console.print(f"FOUND: {finding}", markup=False, soft_wrap=True)
            bad = sum(bool(one["findings"]) for one in found)
            progress.update(task, completed=len(found), description=f"kills, {bad} with findings")
            progress.refresh()
            if not console.is_terminal and time.monotonic() - said > 30:
                said = time.monotonic()
                console.print(f"{len(found)} of {most} kills, {bad} with findings", markup=False)
    ended = all(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid, _source in lanes)
    return found, ended


def document(found: list[dict[str, Any]], backend: str, seed: int, seconds: float, ended: bool) -> dict[str, Any]:
    """The figures."""
    by_point = Counter(f"{one['op']}: {one['point']}" for one in found)
    return {
        "backend": backend,
        "seed": seed,
        "kills": len(found),
        "seconds": round(seconds, 1),
        "at_failpoints": sum("random" not in one["point"] and "between" not in one["point"] for one in found),
        "at_random": sum("random" in one["point"] for one in found),
        "memory_level": sum(one["level"] == "memory" for one in found),
        "acknowledged": sum(one["acknowledged"] for one in found),
        "beginnings": dict(Counter(one["beginning"] for one in found)),
        "with_findings": sum(bool(one["findings"]) for one in found),
        "findings": [one for one in found if one["findings"]],
        "by_operation": dict(Counter(one["op"] for one in found).most_common()),
        "by_statement": dict(Counter(one["point"] for one in found).most_common()),
        "failpoints": dict(sorted(by_point.items())),
        "ended": ended,
    }


def show(console: Console, figures: dict[str, Any]) -> None:
    """The table of kills by failpoint."""
    table = Table("failpoint", title=f"{figures['kills']} kills on {figures['backend']}")
    table.add_column("kills", justify="right")
    for point, number in figures["by_statement"].items():
        table.add_row(point, f"{number}")
    table.add_section()
    for op, number in figures["by_operation"].items():
        table.add_row(f"during: {op}", f"{number}")
    console.print(table)
    console.print(
        f"{figures['at_failpoints']} at {len(figures['failpoints'])} failpoints, {figures['at_random']} at random "
        f"times, {figures['memory_level']} with a model; {figures['acknowledged']:,} operations acknowledged; "
        f"{figures['with_findings']} kills with findings; {figures['seconds']} s",
        soft_wrap=True,
    )


def main() -> int:
    """Exit status 1: something was found."""
    options = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    options.add_argument("--backend", choices=["sqlite", "postgresql"], default="sqlite")
    options.add_argument("--kills", type=int, default=1000, help="how many processes are killed, at most")
    options.add_argument("--seconds", type=float, default=float("inf"), help="when to stop, at the latest")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--lanes", type=int, default=2, help="archives that are worked on side by side")
    options.add_argument("--folder", type=Path, help="where the archives lie; a temporary one by default")
    options.add_argument("--json", action="store_true", help="the figures as one JSON document on stdout")
    given = options.parse_args()
    console, began = Console(stderr=True), time.monotonic()
    # A background job of a shell is born deaf to Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agentsleep-soak-", dir=given.folder)))
        soak = Soak(folder)
        lanes = []
        servers = []
        url = stack.enter_context(_superuser()) if given.backend == "postgresql" else None
        for number in range(given.lanes):
            share = given.kills // given.lanes + (number < given.kills % given.lanes)
            server = PostgresServer(url) if url else None
            servers += [server] if server else []
            lanes.append(lane(soak.life(number, given.seed, server), share, given.seconds))
        found, ended = gather(lanes, console, given.kills)
        for server in servers:
            server.close()
    figures = document(found, given.backend, given.seed, time.monotonic() - began, ended)
    if given.json:
        print(json.dumps(figures, indent=1))
    else:
        show(Console(), figures)
    return int(bool(figures["findings"]) or not ended or not found)


if __name__ == "__main__":
    sys.exit(main())
