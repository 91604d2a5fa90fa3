"""A run so small that it takes no time: one SSM block of 16 dimensions, cycles of four nodes."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agentsleep.cli import app

MICRO = """
visits = [{ passes = 2 }]
judge = [2, 1]
curriculum = [{ windows = [1], start_depth = 1, end_depth = 2 }]
batch = 4
max_steps = 50
max_minutes = 5
warmup = 5

[task]
nodes = 4
max_depth = 2
symbols = 4

[model]
hidden_size = 16
intermediate_size = 16
pattern = "s"
num_attention_heads = 2
linear_num_heads = 2
linear_key_head_dim = 4
linear_value_head_dim = 4
"""


class Cli:
    """The command line in this process."""

    def __call__(self, *arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
        return result

    def complaint(self, *arguments: object, code: int = 2) -> str:
        """The one line on stderr that a failing command leaves; nothing is on stdout."""
        result = self(*arguments, code=code)
        assert result.stdout == ""
        assert result.stderr.startswith("agentsleep: ")
        assert result.stderr.endswith("\n")
        assert result.stderr.count("\n") == 1
        return result.stderr.removeprefix("agentsleep: ").rstrip("\n")


@pytest.fixture(scope="session")
def cli() -> Cli:
    return Cli()


@pytest.fixture(scope="session")
def micro(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training config."""
    path = tmp_path_factory.mktemp("config") / "micro.toml"
    path.write_text(MICRO)
    return path


@pytest.fixture(scope="session")
def finished(cli: Cli, micro: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run; a test that changes it works on a copy."""
    out = tmp_path_factory.mktemp("runs") / "micro"
    cli("train", "depo", "--config", micro, "--out", out)
    return out
