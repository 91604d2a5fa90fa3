"""Commands that other packages bring along, found by entry points and loaded when they are called.

``--help`` lists them by what the package's metadata says, so that it stays instant; a package that cannot be loaded
fails where its command is called, and nowhere else.
"""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from agentsleep.errors import AgentsleepError


class Extended(TyperGroup):
    """A group of commands that packages add to, each by an entry point: a function as typer takes it.

    A command of the group's own goes before one of the same name that a package brings.
    """

    entry_points: ClassVar[str]
    """Under which group of entry points they are found."""

    @cached_property
    def _brought(self) -> dict[str, EntryPoint]:
        return {one.name: one for one in sorted(entry_points(group=self.entry_points)) if one.name not in self.commands}

    def list_commands(self, ctx: Any) -> list[str]:
        """The group's own commands, then those of packages."""
        return [*super().list_commands(ctx), *self._brought]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command; one of a package not loaded yet, as ``--help`` shows it."""
        known = super().get_command(ctx, cmd_name)
        if known is None and cmd_name in self._brought:
            return TyperCommand(cmd_name, help=f"From {_package(self._brought[cmd_name])}.")
        return known

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that is called, loaded.

        Raises:
            AgentsleepError: the package that brings it cannot be loaded, or brings something else.
        """
        if args and args[0] in self._brought:
            self.add_command(_load(self._brought[args[0]]), args[0])
        return super().resolve_command(ctx, args)


def _load(entry: EntryPoint) -> Any:
    try:
        function = entry.load()
        if not callable(function):
            raise TypeError(f"it is a {type(function).__name__}, not a function")
        made = typer.Typer(add_completion=False)
        made.command(entry.name)(function)
        return typer.main.get_command(made)
    except Exception as error:
        raise AgentsleepError(
            f"the command {entry.name!r} of {_package(entry)} ({entry.value}) cannot be loaded: "
            f"{type(error).__name__}: {error}; install the package again, or remove it"
        ) from error


def _package(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist is not None else entry.value
