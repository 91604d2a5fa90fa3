"""The frame of the command line: the app, what becomes of errors, and how results are written.

Data goes to stdout, everything else to stderr. Exit codes: 0; 1 when something failed that the user did not cause;
2 for a mistake that the user can mend, with one line on stderr saying how; 130 after Ctrl-C. Commands import what is
heavy (torch) inside their functions, so that ``--help`` is instant.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import agentsleep
from agentsleep.errors import AgentsleepError, ArchiveError, InputError, ModelError, SettingsError

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM = "agentsleep"
FAILED, MISTAKE, INTERRUPTED = 1, 2, 130  # exit codes
WIDTH = 140  # columns where no terminal says how many there are
_THE_USERS = (InputError, ModelError, ArchiveError, OSError)


@dataclass
class Invocation:
    """What a command was called with; the context's ``obj``."""

    arguments: Sequence[str]
    debug: bool

    @property
    def command(self) -> str:
        """The exact command line."""
        return shlex.join([PROGRAM, *self.arguments])


class Commands(TyperGroup):
    """The root of the commands, which turns every error into an exit code and a line."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> NoReturn:
        """Runs a command and exits."""
        invocation = Invocation(list(sys.argv[1:] if args is None else args), bool(os.environ.get("AGENTSLEEP_DEBUG")))
        try:
            code = super().main(args, PROGRAM, complete_var, False, windows_expand_args, obj=invocation, **extra)
        except typer.Abort:
            code = INTERRUPTED
        except KeyboardInterrupt:
            code = INTERRUPTED
        except Exception as error:
            code = _explain(error, invocation.debug)
        sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception, debug: bool) -> int:
    """Writes what went wrong to stderr; returns the exit code."""
    usage: Callable[[], str] | None = getattr(error, "format_message", None)
    if usage is not None:  # typer's own errors
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else PROGRAM
        complain(f"{usage().rstrip('.')}; see '{path} --help'")
        return MISTAKE
    if debug:
        traceback.print_exception(error)
    if isinstance(error, OSError):
        what = f"{error.strerror or error}"
        complain(f"{error.filename}: {what}" if error.filename else what)
    elif isinstance(error, AgentsleepError):
        complain(str(error))
    else:
        hint = "" if debug else f"; '{PROGRAM} --debug ...' shows where"
        complain(f"unexpected {type(error).__name__}: {error}{hint}")
    return MISTAKE if isinstance(error, _THE_USERS) else FAILED


def complain(message: str) -> None:
    """One line on stderr, whatever the message holds."""
    typer.echo(f"{PROGRAM}: {' '.join(message.split())}", err=True)


def console(*, stderr: bool = True) -> Console:
    """A console for progress and remarks; for results with ``stderr=False``."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = WIDTH
    return made


def emit(document: Mapping[str, Any], as_json: bool, render: Callable[[Console], None]) -> None:
    """Writes a result to stdout: as one JSON document, or as ``render`` shows it to a reader."""
    if as_json:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False))
    else:
        render(console(stderr=False))


def numbers(text: str, option: str) -> list[int]:
    """``"1,2,4"`` as whole numbers from 1 on, each once.

    Raises:
        SettingsError: it is something else.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) >= 1 for part in parts):
        raise SettingsError(f"{option} is {text!r}; give whole numbers from 1 on, with commas between them: 1,2,4")
    return list(dict.fromkeys(int(part) for part in parts))


def use_threads(threads: int) -> None:
    """Lets torch use so many threads.

    Raises:
        SettingsError: fewer than 1.
    """
    import torch

    if threads < 1:
        raise SettingsError(f"--threads is {threads}; give at least 1")
    torch.set_num_threads(threads)


def quiet_transformers() -> None:
    """Loading a model is nothing to report: no bars, no remarks. For commands that load one; imports transformers."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()


app = typer.Typer(
    cls=Commands,
    help="Agents that sleep: before their window is evicted they consolidate it into fast weights, archived in SQL.",
    add_completion=False,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Write one JSON document to stdout.")]
Threads = Annotated[int, typer.Option(help="Threads that torch uses.")]


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"{PROGRAM} {agentsleep.__version__}")
        raise typer.Exit


@app.callback()
def root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """What stands before every command."""
    context.obj.debug = context.obj.debug or debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> NoReturn:
    """The console script."""
    app()
    raise AssertionError("the app exits by itself")
