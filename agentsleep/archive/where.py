"""Where the archive lies when nobody says."""

from __future__ import annotations

import os
from pathlib import Path

from platformdirs import user_data_path


def default_archive() -> Path:
    """``$AGENTSLEEP_HOME/memory.db``, else ``memory.db`` in the user's data folder."""
    home = os.environ.get("AGENTSLEEP_HOME")
    return (Path(home) if home else user_data_path("agentsleep")) / "memory.db"
