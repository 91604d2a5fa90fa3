"""The command line: ``agentsleep …``. One file for each group of commands; importing it here puts it on the app."""

from __future__ import annotations

from agentsleep.cli import (
    bench,
    bench_turn,
    bench_wake,
    conformance,
    demo,
    doctor,
    eval,
    eval_gsm,
    eval_rota,
    probe_model,
    reproduce,
    snapshots,
    train,
)
from agentsleep.cli.app import app, main

__all__ = [
    "app",
    "bench",
    "bench_turn",
    "bench_wake",
    "conformance",
    "demo",
    "doctor",
    "eval",
    "eval_gsm",
    "eval_rota",
    "main",
    "probe_model",
    "reproduce",
    "snapshots",
    "train",
]
