"""``python -m agentsleep.cli``: the command line where its script is not on the path."""

from __future__ import annotations

from agentsleep.cli import main

main()
