"""PostgreSQL alone: its URL, its errors by name, its pool, and locks that live and die with a connection."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import MetaData, create_mock_engine, text
from sqlalchemy.exc import OperationalError

from agentsleep.archive import Archive, SessionLock, UserArchive, postgres, schema
from agentsleep.archive.postgres import PostgresDatabase
from agentsleep.errors import ArchiveDamaged, ArchiveError, ArchiveFull, SessionBusy, SettingsError
from tests.archive.helpers import change, opened, said, slept
from tests.postgres import PostgresServer


@pytest.fixture
def where(postgres_url: str) -> str:
    return postgres_url


@pytest.fixture
def own(postgres_server: PostgresServer, own_postgres: str) -> Iterator[Archive]:
    """An archive in a database that a test may break."""
    with Archive(postgres_server.url(own_postgres)) as archive:
        yield archive


# Opening


def test_the_drivers_name_may_be_left_out(where: str) -> None:
    for scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        with Archive(where.replace("postgresql", scheme, 1)) as archive:
            assert (archive.database.kind, archive.path) == ("postgresql", None)


@pytest.mark.parametrize("url", ["postgresql+asyncpg://me:secret@host/db", "postgresql+psycopg2://me:secret@host/db"])
def test_another_driver_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="psycopg 3") as caught:
        Archive(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql:", "postgresql://me:secret@host:port/db"])
def test_what_is_no_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="cannot be parsed") as caught:
        Archive(url)
    assert "secret" not in str(caught.value)


def test_the_password_is_never_shown(own: Archive, postgres_server: PostgresServer) -> None:
    shown = [repr(own), own.database.name, repr(own.user("acme", "ada"))]
    with pytest.raises(ArchiveError) as caught:
        own.user("acme", "ada").session("nobody")
    for one in (*shown, str(caught.value)):
        assert postgres_server.password not in one
        assert "***" in one


def test_a_server_that_is_not_there(tmp_path: Any) -> None:
    for url in (f"postgresql://me:secret@/db?host={tmp_path}", "postgresql://me:secret@127.0.0.1:1/db"):
        with pytest.raises(ArchiveError, match=r"cannot be reached.*check that the server runs") as caught:
            Archive(url)
        assert type(caught.value) is ArchiveError
        assert "secret" not in str(caught.value)


def test_a_database_or_a_user_that_is_not_there(postgres_server: PostgresServer) -> None:
    for url in (postgres_server.url("no_such_database"), postgres_server.url("postgres", "no_such_role", "secret")):
        with pytest.raises(ArchiveError, match=r"cannot be reached.*no_such_(database|role).*nothing was stored"):
            Archive(url)


def test_a_wrong_password_is_not_in_the_message() -> None:
    """As the server says it; the one of the tests asks for none."""
    database = PostgresDatabase("postgresql://me:hunter2@host/db")
    error = psycopg.OperationalError('connection failed: FATAL:  password authentication failed for user "me"')
    named = database.translate(OperationalError("SELECT 1", {}, error))
    assert type(named) is ArchiveError
    assert "password authentication failed" in str(named)
    assert "user and password" in str(named)
    assert "hunter2" not in str(named)
    database.close()


def test_psycopg_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(ArchiveError, match=r"pip install 'agentsleep\[postgres\]'"):
        Archive("postgresql://me@host/db")


def test_the_constraints_have_names_that_the_server_keeps_whole() -> None:
    made: list[str] = []
    mock = create_mock_engine(
        "postgresql+psycopg://",
        lambda statement, *_args, **_options: made.append(str(statement.compile(dialect=mock.dialect))),
    )
    # A copy: a constraint that was once added by ALTER is left out of every later CREATE TABLE.
    copy = MetaData(naming_convention=schema.Base.metadata.naming_convention)
    for table in schema.Base.metadata.tables.values():
        table.to_metadata(copy)
    copy.create_all(mock, checkfirst=False)
    whole = "\n".join(made)
    assert whole.index("CREATE TABLE snapshots") < whole.index("fk_sessions_head_id")  # the circle is closed last
    for table in copy.tables.values():
        names = [str(constraint.name) for constraint in table.constraints]
        assert all(name in whole and len(name) <= 63 for name in names)  # a migration can only alter what has a name


# Errors by name


class Said(psycopg.Error):
    """What a server says with an SQLSTATE."""

    def __init__(self, state: str, words: str) -> None:
        super().__init__(words)
        self.sqlstate = state


@pytest.mark.parametrize(
    ("state", "kind", "words"),
    [
        ("53100", ArchiveFull, "free some space"),
        ("53200", ArchiveFull, "free some space"),
        ("XX001", ArchiveDamaged, "restore a backup"),
        ("40001", SessionBusy, "try again"),
        ("40P01", SessionBusy, "try again"),
        ("55P03", SessionBusy, "try again"),
        ("57P01", ArchiveError, "cannot be reached"),
        ("08006", ArchiveError, "cannot be reached"),
        ("42501", ArchiveError, "agentsleep db upgrade"),
        ("23505", ArchiveError, "refused"),
    ],
)
def test_what_the_server_says_has_a_name(state: str, kind: type[Exception], words: str) -> None:
    database = PostgresDatabase("postgresql://me@host/db")
    named = database.translate(Said(state, "said so.\nmore"))
    assert type(named) is kind
    assert words in str(named)
    assert "said so" in str(named)
    assert "more" not in str(named).split("said so")[1][:6]
    database.close()


def test_a_row_that_another_writer_keeps_is_busy(
    where: str, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "LOCK_TIMEOUT_S", 1)
    with Archive(where) as archive:
        ada = archive.user("acme", "ada")
        session = opened(ada)
        with ada.writing() as (tx, scope_id, _key):
            ada.session_row(tx, session.id, scope_id, lock=True)
            with pytest.raises(SessionBusy, match=r"lock timeout.*try again"):
                archive.user("acme", "ada").append(session.id, [said(1)])
            assert archive.user("acme", "ada").events(session.id) == []  # readers are free
        assert len(ada.append(session.id, [said(1)])) == 1


def test_foreign_keys_hold(ada: UserArchive) -> None:
    slept(ada, opened(ada).id, b"x")
    for table in ("scopes", "sessions", "snapshots", "tensors", "chunks"):
        with pytest.raises(ArchiveError, match="foreign key"):
            change(ada, f"DELETE FROM {table}")


def test_a_pool_that_is_empty_is_busy(own: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    pool: Any = own.database.engine.pool
    monkeypatch.setattr(pool, "_timeout", 0.05)
    monkeypatch.setattr(pool, "_max_overflow", 0)
    held = [own.database.engine.connect() for _ in range(postgres.POOL)]
    with pytest.raises(SessionBusy, match="busy for too long"):
        own.users()
    for one in held:
        one.close()
    assert own.users() == []


# Connections that end


def test_an_archive_outlives_its_connections(own: Archive, postgres_server: PostgresServer, own_postgres: str) -> None:
    ada = own.user("acme", "ada")
    session = opened(ada)
    postgres_server.disconnect(own_postgres)
    assert len(ada.append(session.id, [said(1)])) == 1


def test_a_connection_that_ends_within_a_write_stores_nothing(
    own: Archive, postgres_server: PostgresServer, own_postgres: str
) -> None:
    ada = own.user("acme", "ada")
    session = opened(ada)

    def interrupted() -> None:
        with ada.writing() as (tx, _scope, _key):
            tx.execute(text("UPDATE sessions SET next_seq = 7"))
            postgres_server.disconnect(own_postgres)
            tx.execute(text("UPDATE sessions SET next_position = 7"))

    with pytest.raises(ArchiveError, match=r"cannot be reached.*nothing was stored"):
        interrupted()
    assert ada.session(session.id) == session


def test_a_lock_whose_connection_ended_is_held_no_more(
    own: Archive, postgres_server: PostgresServer, own_postgres: str
) -> None:
    """Its holder learns of it, leaves without an error, and the session is free."""
    ada = own.user("acme", "ada")
    session, other = opened(ada), opened(ada, "other")
    lost = SessionLock(ada, session.id)
    lost.acquire()
    postgres_server.disconnect(own_postgres)
    with pytest.raises(ArchiveError), SessionLock(ada, other.id):
        pass  # the first to notice
    assert not lost.held
    with SessionLock(ada, other.id):
        assert not lost.held  # nor by the connection that came after
        lost.release()
        with SessionLock(ada, session.id):
            assert not lost.held


def test_leaving_a_lock_whose_connection_ended_is_no_error(
    own: Archive, postgres_server: PostgresServer, own_postgres: str
) -> None:
    ada = own.user("acme", "ada")
    session = opened(ada)
    with SessionLock(ada, session.id) as lock:
        postgres_server.disconnect(own_postgres)
    assert not lock.held
    with SessionLock(ada, session.id):
        pass


def test_closing_gives_the_locks_back(own: Archive, where: str) -> None:
    ada = own.user("acme", "ada")
    session = opened(ada)
    lock = SessionLock(ada, session.id)
    lock.acquire()
    own.close()
    assert not lock.held
    lock.release()
    with pytest.raises(ArchiveError, match="closed"):
        ada.session(session.id)


def test_a_fork_must_open_its_own_and_leaves_its_parents_connections_alone(archive: Archive, ada: UserArchive) -> None:
    session = opened(ada)
    with SessionLock(ada, session.id) as lock:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of the test runner
            pid = os.fork()
        if pid == 0:
            try:
                archive.users()
            except ArchiveError as error:
                archive.close()
                os._exit(0 if "after the fork" in str(error) else 1)
            os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        assert lock.held
        assert ada.session(session.id) == session
