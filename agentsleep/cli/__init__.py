"""The command line: ``agentsleep …``. One file for each group of commands; importing it here puts it on the app."""

from __future__ import annotations

from agentsleep.cli import (
    bench,
    bench_archive,
    bench_turn,
    bench_wake,
    bisect,
    conformance,
    db,
    demo,
    diff,
    doctor,
    eval,
    eval_gsm,
    eval_rota,
    forget,
    jobs,
    lineage,
    probe_model,
    replay,
    reproduce,
    search,
    snapshots,
    train,
    transfer,
    worker,
)
from agentsleep.cli.app import app, main
from agentsleep.cli.prune import prune
from agentsleep.cli.verify import verify

snapshots.snapshots_app.command("prune")(prune)
snapshots.snapshots_app.command("verify")(verify)

__all__ = [
    "app",
    "bench",
    "bench_archive",
    "bench_turn",
    "bench_wake",
    "bisect",
    "conformance",
    "db",
    "demo",
    "diff",
    "doctor",
    "eval",
    "eval_gsm",
    "eval_rota",
    "forget",
    "jobs",
    "lineage",
    "main",
    "probe_model",
    "replay",
    "reproduce",
    "search",
    "snapshots",
    "train",
    "transfer",
    "worker",
]
