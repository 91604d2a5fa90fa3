"""Nothing of one user is read, changed or hinted at through another: by the queries, and by the server itself."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from agentsleep.archive import Archive, Scope, UserArchive, ddl
from agentsleep.archive.database import EVERYONE, Reach
from agentsleep.archive.jobs import JobQueue
from agentsleep.archive.postgres import SCHEMA
from agentsleep.archive.schema import Base
from agentsleep.errors import ArchiveError, InputError, SessionNotFound, SnapshotNotFound
from tests.archive.helpers import MODEL, SLEEP, loaded, opened, said, slept, tensor
from tests.postgres import PostgresServer

TABLES = sorted(Base.metadata.tables)

# The server's own wall: row-level security


class Wall(NamedTuple):
    """An archive of two users, seen by a role that owns nothing."""

    archive: Archive
    connection: psycopg.Connection[Any]
    scopes: dict[str, str]


@pytest.fixture
def wall(postgres_server: PostgresServer, own_postgres: str) -> Iterator[Wall]:
    role = f'app_"{secrets.token_hex(4)}'
    quoted = '"' + role.replace('"', '""') + '"'
    with postgres_server.connect(own_postgres, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {quoted} LOGIN PASSWORD 'app' NOSUPERUSER")
    with psycopg.connect(postgres_server.url(own_postgres), autocommit=True) as owner:
        for statement in ddl.grants(role, SCHEMA):
            owner.execute(statement)
    url = postgres_server.url(own_postgres, role, "app")
    try:
        with Archive(url) as archive, psycopg.connect(url, autocommit=True) as connection:
            for user in ("ada", "bob"):
                one = archive.user("acme", user)
                session = opened(one)
                one.append(session.id, [said(1, text=f"secret of {user}")])
                slept(one, session.id, b"state")
                JobQueue(archive.database).enqueue(one, session.id)
            with archive.database.reading() as tx:
                scopes = dict(tx.execute(text("SELECT user_id, id FROM scopes")).all())
            for user, scope_id in scopes.items():
                with archive.database.writing(Reach("acme", user, scope_id)) as tx:
                    insert = "INSERT INTO audit (scope_id, action, detail, created) VALUES (:id, 'x', '{}', now())"
                    tx.execute(text(insert), {"id": scope_id})
            connection.execute(f"SET search_path = {SCHEMA}")
            yield Wall(archive, connection, scopes)
    finally:
        postgres_server.disconnect(own_postgres)
        with postgres_server.connect(own_postgres, autocommit=True) as admin:
            admin.execute(f"DROP OWNED BY {quoted}")
            admin.execute(f"DROP ROLE {quoted}")


def become(connection: psycopg.Connection[Any], tenant: str, user: str, scope_id: str) -> None:
    for name, value in (("tenant", tenant), ("user", user), ("scope", scope_id)):
        connection.execute("SELECT set_config(%s, %s, false)", [f"agentsleep.{name}", value])


def seen(connection: psycopg.Connection[Any]) -> dict[str, int]:
    """Rows of each table that a query without any WHERE finds."""
    return {table: connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES}  # type: ignore[index]


def test_every_table_has_row_level_security_for_its_owner_too(wall: Wall) -> None:
    found = wall.connection.execute(
        "SELECT relname, relrowsecurity, relforcerowsecurity FROM pg_class "
        f"WHERE relnamespace = '{SCHEMA}'::regnamespace AND relkind = 'r' AND relname <> 'alembic_version'"
    ).fetchall()
    assert sorted(found) == [(table, True, True) for table in TABLES]


def test_without_a_scope_there_is_nothing(wall: Wall) -> None:
    assert seen(wall.connection) == dict.fromkeys(TABLES, 0)
    for scope in (("", "", ""), ("acme", "ada", ""), ("acme", "eve", "0" * 32), ("acme", "%", "%")):
        become(wall.connection, *scope)
        assert sum(seen(wall.connection).values()) == (1 if scope[1] == "ada" else 0)  # who ada is, to find her scope


def test_with_a_scope_there_is_ones_own(wall: Wall) -> None:
    become(wall.connection, "acme", "ada", wall.scopes["ada"])
    assert seen(wall.connection) == {table: 2 if table == "events" else 1 for table in TABLES}
    assert wall.connection.execute("SELECT DISTINCT text FROM events WHERE text IS NOT NULL").fetchall() == [
        ("secret of ada",)
    ]


@pytest.mark.parametrize("table", [table for table in TABLES if table not in ("scopes", *ddl.SHARED)])
def test_a_query_that_lost_its_scope_touches_nothing_foreign(wall: Wall, table: str) -> None:
    column = "scope_id"
    become(wall.connection, "acme", "ada", wall.scopes["ada"])
    foreign = f"{column} = '{wall.scopes['bob']}'"
    assert wall.connection.execute(f"SELECT 1 FROM {table} WHERE {foreign}").fetchall() == []
    assert wall.connection.execute(f"UPDATE {table} SET {column} = {column} WHERE {foreign}").rowcount == 0
    assert wall.connection.execute(f"DELETE FROM {table} WHERE {foreign}").rowcount == 0
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security"):
        wall.connection.execute(f"UPDATE {table} SET {column} = '{wall.scopes['bob']}'")  # nor is one's own given away


def test_a_worker_sees_who_there_is_and_the_queue_and_nothing_else(wall: Wall) -> None:
    become(wall.connection, *EVERYONE)
    allowed = {*ddl.SHARED, *ddl.LISTED}
    assert seen(wall.connection) == {table: 2 if table in allowed else 0 for table in TABLES}
    assert wall.connection.execute("UPDATE jobs SET priority = 1").rowcount == 2
    for table in ddl.LISTED:
        assert wall.connection.execute(f"UPDATE {table} SET created = now()").rowcount == 0
        assert wall.connection.execute(f"DELETE FROM {table}").rowcount == 0
        assert wall.connection.execute(f"SELECT 1 FROM {table} FOR UPDATE").fetchall() == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        wall.connection.execute(
            "INSERT INTO scopes (id, tenant, user_id, key, created) VALUES ('x', '*', 'x', '', now())"
        )


def test_the_setting_ends_with_its_transaction(wall: Wall) -> None:
    """A connection that goes back to the pool says nothing to who gets it next."""
    with wall.archive.database.reading(Reach("acme", "ada", wall.scopes["ada"])) as tx:
        assert tx.scalar(text("SELECT count(*) FROM events")) == 2
    with wall.archive.database.engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM events")) == 0


def test_the_grants_are_enough_to_work_and_not_to_change_tables(wall: Wall) -> None:
    new = wall.archive.user("other", "eve")
    session = opened(new)
    snapshot = slept(new, session.id, b"x")
    assert loaded(new, snapshot.id) == b"x"
    new.rollback(session.id, snapshot.id, "aside")
    for statement in ("UPDATE alembic_version SET version_num = '9'", "DROP TABLE jobs", "CREATE TABLE mine (x int)"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            wall.connection.execute(statement)


def test_without_the_grants_it_says_what_is_missing(postgres_server: PostgresServer, own_postgres: str) -> None:
    role = f"app_{secrets.token_hex(4)}"
    with postgres_server.connect(own_postgres, autocommit=True) as admin:
        admin.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'app'")
        try:
            with pytest.raises(ArchiveError, match=r"may not use it.*agentsleep db upgrade"):
                Archive(postgres_server.url(own_postgres, role, "app"))
            admin.execute(f"GRANT USAGE ON SCHEMA {SCHEMA} TO {role}")
            with pytest.raises(ArchiveError, match="give this user the right to its tables"):
                Archive(postgres_server.url(own_postgres, role, "app"))
        finally:
            admin.execute(f"DROP OWNED BY {role}")
            admin.execute(f"DROP ROLE {role}")


# The queries: every public method with ids of others

Ids = st.sampled_from(["session", "snapshot", "fork", "thread", "scope"]) | st.sampled_from(
    ["", "/", "a/b", "../x", "'", "' OR 1=1 --", '"', "%", "_", "*", "é", "e\u0301", "🦙", "\\", "a\0b", "x" * 300]
)
Calls = Callable[[UserArchive, str, str], Any]

# How each method is called with an id (a) and a name (b). One that gives nothing but one's own has no id to pass.
WITH_IDS: dict[str, Calls] = {
    "session": lambda user, a, b: user.session(a),
    "append": lambda user, a, b: user.append(a, [said(1)]),
    "events": lambda user, a, b: user.events(a),
    "since": lambda user, a, b: user.since(a, 0),
    "commit_snapshot": lambda user, a, b: user.commit_snapshot(
        a,
        expected_head=None,
        state=[tensor(b"x")],
        events=[SLEEP],
        fingerprint=MODEL,
        passes=1,
        rounds=1,
        trigger="t",
        mode="m",
        environment={},
        metrics={},
    ),
    "snapshots": lambda user, a, b: user.snapshots(a),
    "ancestors": lambda user, a, b: user.ancestors(a),
    "snapshot": lambda user, a, b: user.snapshot(a),
    "load_state": lambda user, a, b: user.load_state(a),
    "tag": lambda user, a, b: user.tag(a, b),
    "fork": lambda user, a, b: user.fork(a, b),
    "rollback": lambda user, a, b: user.rollback(a, b, "aside"),
}
OF_ONES_OWN: dict[str, Calls] = {
    "open_session": lambda user, a, b: user.open_session(b, fingerprint=MODEL, settings={}, create=False),
    "find": lambda user, a, b: user.find(b),
    "sessions": lambda user, a, b: user.sessions(),
    "all_snapshots": lambda user, a, b: user.all_snapshots(),
}


def test_every_public_method_is_tried_across_scopes() -> None:
    """A new method of `UserArchive` needs a case above."""
    public = {name for name, value in vars(UserArchive).items() if not name.startswith("_") and callable(value)}
    assert {*WITH_IDS, *OF_ONES_OWN} == public


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Archive, dict[str, str]]]:
    """Ada's things by kind. The trespassers come and go; nothing of hers may change."""
    name = None
    if request.param == "postgresql":
        server: PostgresServer = request.getfixturevalue("postgres_server")
        name = server.create()
    where = server.url(name) if name else str(tmp_path_factory.mktemp("isolation") / "memory.db")
    with Archive(where) as archive:
        ada = archive.user("acme", "ada")
        session = opened(ada, "private")
        ada.append(session.id, [said(1, 2, text="secret")])
        snapshot = slept(ada, session.id, b"secret")
        fork = ada.fork(snapshot.id, "fork")
        ada.tag(snapshot.id, "mine")
        with ada.reading() as (_tx, scope_id):
            ids = {"session": session.id, "snapshot": snapshot.id, "fork": fork.id, "thread": "private"}
        before = everything(ada)
        yield archive, {**ids, "scope": scope_id}
        assert everything(ada) == before  # whatever was tried
    if name:
        server.drop(name)


TRESPASSERS = [
    ("acme", "eve"),
    ("other", "ada"),
    ("ada", "acme"),
    ("acme/ada", "private"),
    ("acme", "ada "),
    ("*", "*"),
]


def everything(user: UserArchive) -> list[Any]:
    return [
        [(session, user.events(session.id), user.snapshots(session.id)) for session in user.sessions()],
        [(snapshot, loaded(user, snapshot.id)) for snapshot in user.all_snapshots()],
    ]


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    who=st.sampled_from(TRESPASSERS),
    settled=st.booleans(),
    method=st.sampled_from(sorted({*WITH_IDS, *OF_ONES_OWN})),
    a=Ids,
    b=Ids | st.text(max_size=4),
)
def test_no_method_reaches_into_another_scope(
    filled: tuple[Archive, dict[str, str]], who: tuple[str, str], settled: bool, method: str, a: str, b: str
) -> None:
    archive, ids = filled
    trespasser = archive.user(*who)
    if settled:  # one who has a session of the same name, and a state with the same bytes
        own = opened(trespasser, "private")
        if own.head is None:
            slept(trespasser, own.id, b"secret")
    mine = trespasser.sessions(), trespasser.all_snapshots()
    arguments = ids.get(a, a), ids.get(b, b)
    if method in WITH_IDS:
        with pytest.raises((SessionNotFound, SnapshotNotFound, InputError)):
            WITH_IDS[method](trespasser, *arguments)
    else:
        try:
            found = OF_ONES_OWN[method](trespasser, *arguments)
        except (SessionNotFound, InputError):
            found = []
        for one in found if isinstance(found, list) else [found]:
            assert one is None or one.id not in ids.values()
    assert (trespasser.sessions(), trespasser.all_snapshots()) == mine


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(tenant=Ids | st.text(max_size=3), user=Ids | st.text(max_size=3))
def test_ids_of_users_are_opaque(filled: tuple[Archive, dict[str, str]], tenant: str, user: str) -> None:
    archive, ids = filled
    try:
        Scope(tenant=tenant, user=user, thread="x")
    except InputError:
        with pytest.raises(InputError):
            archive.user(tenant, user)
        return
    one = archive.user(tenant, user)
    session = opened(one, "theirs")
    assert {found.scope for found in one.sessions()} >= {Scope(tenant=tenant, user=user, thread="theirs")}
    assert not {found.id for found in one.sessions()} & set(ids.values())
    assert session.id not in {found.id for found in archive.user("acme", "ada").sessions()}
