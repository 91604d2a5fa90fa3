"""``agentsleep db …``: the tables of an archive, brought up to date or compared with what this library knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from agentsleep.cli.app import FAILED, AsJson, app, emit
from agentsleep.cli.archives import ArchiveFile, archive_path, archive_place
from agentsleep.errors import ArchiveError

if TYPE_CHECKING:
    from rich.console import Console

    from agentsleep.archive.database import Database

db_app = typer.Typer(help="Upgrade or check the tables of an archive.", no_args_is_help=True)
app.add_typer(db_app, name="db")


@db_app.command("upgrade")
def upgrade(
    archive: ArchiveFile = None,
    role: Annotated[str, typer.Option(help="PostgreSQL: the role that the printed GRANTs are for.")] = "app",
    as_json: AsJson = False,
) -> None:
    """Bring the tables up to date; on a PostgreSQL server, make them where there are none.

    Opening an archive does the same. This is for a server whose programs connect as a role that owns no tables: run it
    as their owner, then let the role use them by the statements that it prints. They are not executed.
    """
    from agentsleep.archive import ddl, migrate
    from agentsleep.archive.postgres import SCHEMA

    database = _database(archive)
    try:
        before = migrate.revision(database)
        migrate.prepare(database)
        after = migrate.revision(database)
        grants = ddl.grants(role, SCHEMA) if database.kind == "postgresql" else []
    finally:
        database.close()
    document = {"archive": database.name, "before": before, "revision": after, "grants": grants}
    emit(document, as_json, lambda out: _show_upgrade(out, document))


@db_app.command("check")
def check(archive: ArchiveFile = None, as_json: AsJson = False) -> None:
    """Compare the tables with those that this library knows, changing nothing. Exit code 1: they differ."""
    from agentsleep.archive import migrate
    from agentsleep.archive.schema import REVISION

    database = _database(archive)
    try:
        found = migrate.revision(database)
        differences = migrate.check(database) if found == REVISION else []
    finally:
        database.close()
    document = {
        "archive": database.name,
        "revision": found,
        "known": REVISION,
        "ok": found == REVISION and not differences,
        "differences": differences,
    }
    emit(document, as_json, lambda out: _show_check(out, document))
    if not document["ok"]:
        raise typer.Exit(FAILED)


def _database(where: str | None) -> Database:
    """The database as it is: not upgraded, and not made.

    Raises:
        ArchiveError: there is no such file, or the server cannot be reached.
    """
    from agentsleep.archive.postgres import PostgresDatabase
    from agentsleep.archive.sqlite import SqliteDatabase

    path = archive_path(where)
    if path is None:
        return PostgresDatabase(archive_place(where))
    if not path.is_file():
        raise ArchiveError(
            f"there is no archive at {path}; name another with --archive, or let a session write it first"
        )
    return SqliteDatabase(path)


def _show_upgrade(out: Console, document: dict[str, Any]) -> None:
    before, after = document["before"], document["revision"]
    done = "nothing to do" if before == after else "made" if before is None else f"upgraded from {before}"
    out.print(f"{document['archive']}: revision {after}, {done}", markup=False, soft_wrap=True)
    if document["grants"]:
        out.print("A role that owns no tables needs, from their owner:")
        for statement in document["grants"]:
            out.print(f"{statement};", markup=False, soft_wrap=True)


def _show_check(out: Console, document: dict[str, Any]) -> None:
    found, known = document["revision"], document["known"]
    if document["ok"]:
        verdict = f"revision {found}, as it should be"
    elif found == known:
        verdict = f"revision {found}, but its tables differ from what this agentsleep knows:"
    else:
        stands = "no tables yet" if found is None else f"revision {found}"
        verdict = f"{stands}, this agentsleep knows {known}; run 'agentsleep db upgrade' with the same --archive"
    out.print(f"{document['archive']}: {verdict}", markup=False, soft_wrap=True)
    for difference in document["differences"]:
        out.print(f"  {difference}", markup=False, soft_wrap=True)
