"""Sleeps as durable jobs: asked for now, made later, by any process that has the model."""

from __future__ import annotations

from agentsleep.archive.job import Job, JobKind, JobStatus
from agentsleep.archive.jobs import JobQueue
from agentsleep.jobs.cron import Cron
from agentsleep.jobs.run import run_job
from agentsleep.jobs.triggers import Nightly, Silence, later
from agentsleep.jobs.worker import Worker, told_by_signals
from agentsleep.memory.later import Schedule

__all__ = [
    "Cron",
    "Job",
    "JobKind",
    "JobQueue",
    "JobStatus",
    "Nightly",
    "Schedule",
    "Silence",
    "Worker",
    "later",
    "run_job",
    "told_by_signals",
]
