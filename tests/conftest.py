"""What every test stands on: one thread, known seeds, no network, and a data folder that is thrown away."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported. Child processes inherit it: a replay is bit-equal only with an equal number of threads.
os.environ.update(
    OMP_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    MPLBACKEND="Agg",
)

os.environ.pop("COLUMNS", None)  # tables are as wide as where nobody says how wide

import numpy as np
import pytest
import torch
from hypothesis import settings

pytest_plugins = ["tests.postgres"]

torch.set_num_threads(1)

# A job in the background of a shell is born deaf to Ctrl-C, and so would be every process that a test interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples in every run, and no deadline: the machine may be busy.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=40)
settings.register_profile("explore", deadline=None, max_examples=400)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fixtures that outlive a test must not find the user's folder either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTSLEEP_HOME", str(tmp_path_factory.mktemp("agentsleep-home")))
        yield


@pytest.fixture(autouse=True)
def agentsleep_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This test's own data folder; nothing is in it, and it does not exist before someone writes."""
    home = tmp_path / "agentsleep-home"
    monkeypatch.setenv("AGENTSLEEP_HOME", str(home))
    return home


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """A test may draw at random, but draws the same in every run and in any order."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
