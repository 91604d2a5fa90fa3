"""What every test stands on: one thread, known seeds, no network, a folder that is thrown away, and a tiny model."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

# Before torch is imported. Child processes inherit it: a replay is bit-equal only with an equal number of threads.
os.environ.update(OMP_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

import pytest
import torch
from hypothesis import settings
from tests.talk import NEVER, Open, make_nap

from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy

torch.set_num_threads(1)

# The same examples in every run, and no deadline: the machine may be busy.
settings.register_profile("repeatable", deadline=None, derandomize=True, max_examples=25)
settings.register_profile("explore", deadline=None, max_examples=400)
settings.load_profile("repeatable")


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
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def nap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that has learnt nothing."""
    return make_nap(tmp_path_factory.mktemp("nap"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Where this test's memories keep what they know."""
    return tmp_path / "memory.db"


@pytest.fixture
def opened(nap: Path, archive: Path) -> Iterator[Open]:
    """Opens memories on this test's archive; they are closed at its end."""
    memories = []

    def open_one(policy: SleepPolicy = NEVER, *, where: str | Path = archive, window: int = 96) -> SleepMemory:
        memories.append(SleepMemory(nap, archive=where, policy=policy, settings={"window": window}))
        return memories[-1]

    yield open_one
    for memory in memories:
        memory.close()


@pytest.fixture
def memory(opened: Open) -> SleepMemory:
    """Sleeps only when it must."""
    return opened()
