"""``agentsleep bench agent``: what an agent that sleeps remembers, and what it costs, against other ways to fit a
window."""

from __future__ import annotations

from langchain_agentsleep.bench.cli import command
from langchain_agentsleep.bench.measure import bench_agent

__all__ = ["bench_agent", "command"]
