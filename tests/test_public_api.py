"""The top level: what it exports, how lightly it loads, and that it agrees with the files around it."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import agentsleep
from agentsleep import errors

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted(info.name for info in pkgutil.walk_packages(agentsleep.__path__, "agentsleep."))
HEAVY = ("jinja2", "matplotlib", "numpy", "sqlalchemy", "torch", "transformers")


def loaded_after(statement: str) -> set[str]:
    """Top-level packages that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_exports_are_the_agreed_ones_and_sorted() -> None:
    assert agentsleep.__all__ == [
        "Answer",
        "AsyncSession",
        "AsyncSleepMemory",
        "Session",
        "SleepMemory",
        "SleepPolicy",
        "Stats",
        "__version__",
    ]
    assert agentsleep.__all__ == sorted(agentsleep.__all__)


@pytest.mark.parametrize("name", agentsleep.__all__)
def test_every_export_resolves_and_is_listed(name: str) -> None:
    assert getattr(agentsleep, name) is not None
    assert name in dir(agentsleep)


def test_an_export_is_the_object_of_its_home() -> None:
    from agentsleep.memory import SleepMemory
    from agentsleep.policy import SleepPolicy

    assert agentsleep.SleepMemory is SleepMemory
    assert agentsleep.SleepPolicy is SleepPolicy


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(
        AttributeError, match=r"no attribute 'SleepMemmory'; it exports Answer, AsyncSession, AsyncSleepMemory"
    ):
        agentsleep.SleepMemmory  # noqa: B018
    with pytest.raises(ImportError):
        from agentsleep import nowhere  # noqa: F401


@pytest.mark.parametrize("statement", ["import agentsleep", "import agentsleep.errors"])
def test_import_stays_light(statement: str) -> None:
    loaded = loaded_after(statement)
    assert "agentsleep" in loaded
    assert not loaded.intersection(HEAVY)


def test_the_archive_and_the_policy_load_without_torch() -> None:
    assert not loaded_after("import agentsleep.archive, agentsleep.policy").intersection({"torch", "transformers"})


@pytest.mark.parametrize("name", MODULES)
def test_every_module_loads_and_keeps_what_it_announces(name: str) -> None:
    if name.endswith((".__main__", ".migrations.env")):
        pytest.skip("runs when loaded")
    module = importlib.import_module(name)
    announced = getattr(module, "__all__", [])
    assert len(set(announced)) == len(announced)
    assert [export for export in announced if not hasattr(module, export)] == []


def test_every_error_is_under_one_root_and_in_the_drawn_tree() -> None:
    raised = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, BaseException)]
    assert errors.AgentsleepError in raised
    assert [error.__name__ for error in raised if not issubclass(error, (errors.AgentsleepError, UserWarning))] == []
    drawn = (errors.__doc__ or "").split()
    assert [error.__name__ for error in raised if error.__name__ not in drawn] == []


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == agentsleep.__version__
    assert f"## [{agentsleep.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_package_says_that_it_is_typed() -> None:
    assert (Path(agentsleep.__file__).parent / "py.typed").is_file()
