"""Tiny models, each made once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from transformers.utils import logging

from agentsleep.conformance import save_model
from agentsleep.conformance.subject import Subject


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def made(family: str) -> Path:
        shown = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        try:
            return save_model(family, tmp_path_factory.mktemp(family))
        finally:
            if shown:
                logging.enable_progress_bar()

    return made


@pytest.fixture(scope="session")
def subject_of(folder_of: Callable[[str], Path]) -> Callable[[str], Subject]:
    return cache(lambda family: Subject.load(folder_of(family)))
