"""What the tests run in other processes: `python -m tests.jobs.child HOW worker …` is `agentsleep worker …`."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from tests.memory.helpers import ROOT


def child(*arguments: object) -> subprocess.Popen[str]:
    """This file in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.jobs.child", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def halting() -> None:
    """Each sleep tells that it begins, and waits for a line of input."""
    from agentsleep.backends import Backend

    consolidate = Backend.consolidate

    def waiting(self: Backend, *args: Any, **kwargs: Any) -> Any:
        print("computing", flush=True)
        sys.stdin.readline()
        return consolidate(self, *args, **kwargs)

    Backend.consolidate = waiting  # type: ignore[method-assign]


if __name__ == "__main__":
    from agentsleep.cli import main

    how, *sys.argv[1:] = sys.argv[1:]
    if how == "halting":
        halting()
    main()
