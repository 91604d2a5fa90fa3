"""The standard suite marks a test for pytest-benchmark, which is not used here: its fixture calls what it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """The markers must be known."""
    config.addinivalue_line("markers", "benchmark: of the standard suite")


@pytest.fixture
def benchmark() -> Callable[[Callable[[], Any]], Any]:
    """Calls a function once."""
    return lambda function: function()
