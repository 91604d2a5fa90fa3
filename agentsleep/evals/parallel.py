"""Jobs over several processes, with results that do not depend on how many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")


def in_order(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int = 1,
    progress: Callable[[float], None] | None = None,
) -> list[Result]:
    """``[work(job) for job in jobs]``, over ``workers`` processes of one thread each; in this process for one worker.

    Args:
        work: a function of a module, so that another process can import it.
        progress: called after every job with the part that is done, 0 to 1.

    Raises:
        What a job raises; the others are then given up.
    """
    report = progress or (lambda part: None)
    results = []
    if workers == 1:
        for job in jobs:
            results.append(work(job))
            report(len(results) / len(jobs))
        return results
    # spawn: a fork of a process in which torch has threads may hang
    with ProcessPoolExecutor(min(workers, len(jobs)), get_context("spawn"), _one_thread) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for done, future in enumerate(as_completed(futures), 1):
                future.result()
                report(done / len(jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [future.result() for future in futures]


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
