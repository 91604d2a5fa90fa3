"""Training configs that come with the package, one TOML file each."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from agentsleep.errors import SettingsError


def preset_names() -> list[str]:
    """All presets, sorted. One that is named after a task is what that task is trained with by default."""
    return sorted(path.stem for path in _folder().glob("*.toml"))


def task_names() -> list[str]:
    """The tasks that have a preset, which is every task; told without loading torch, for the help of commands."""
    return [name for name in preset_names() if "-" not in name]


def preset(name: str) -> Path:
    """The TOML file of a preset.

    Raises:
        SettingsError: there is none of this name.
    """
    if name not in preset_names():
        raise SettingsError(f"no preset {name!r}; there are {', '.join(preset_names())}")
    return _folder() / f"{name}.toml"


def _folder() -> Path:
    return Path(str(files(__name__)))
