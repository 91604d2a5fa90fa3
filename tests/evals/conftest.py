from __future__ import annotations

from pathlib import Path

import pytest

from tests.agent_model import save_agent_model


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model directory; what it says means nothing."""
    return save_agent_model(tmp_path_factory.mktemp("untrained"))
