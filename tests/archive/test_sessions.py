from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agentsleep.archive import Archive, Scope
from agentsleep.errors import FingerprintMismatch, InputError, SessionNotFound, SnapshotNotFound
from tests.archive.helpers import ADA, MODEL, OTHER_MODEL, opened, said, scope, slept


def test_a_session_is_made_once_and_found_again(archive: Archive, path: Path) -> None:
    first = archive.open_session(scope(), fingerprint=MODEL, settings={"passes": 4, "pin": ("system",)})
    assert (first.scope, first.fingerprint, first.head, first.forked_from) == (scope(), MODEL, None, None)
    assert (first.events, first.tokens) == (0, 0)
    assert first.settings == {"passes": 4, "pin": ["system"]}
    assert first.created.tzinfo is UTC
    assert abs(datetime.now(UTC) - first.created) < timedelta(minutes=1)
    again = archive.open_session(scope(), fingerprint=MODEL, settings={"passes": 1}, create=False)
    assert again == first  # the stored settings stand
    archive.close()
    with Archive(path) as reopened:
        assert reopened.open_session(scope(), fingerprint=MODEL, settings={}) == first
        assert reopened.session(first.id) == first


def test_create_false_makes_nothing(archive: Archive) -> None:
    with pytest.raises(SessionNotFound, match="thread-1"):
        archive.open_session(scope(), fingerprint=MODEL, settings={}, create=False)
    assert archive.sessions("acme", "ada") == []


def test_another_models_session_is_refused_by_name(archive: Archive) -> None:
    opened(archive)
    with pytest.raises(FingerprintMismatch) as caught:
        archive.open_session(scope(), fingerprint=OTHER_MODEL, settings={})
    for word in (MODEL[:12], OTHER_MODEL[:12], "load the model", "another thread"):
        assert word in str(caught.value)


@pytest.mark.parametrize(("fingerprint", "settings"), [("", {}), (MODEL, {"x": float("nan")})])
def test_a_bad_opening_stores_nothing(archive: Archive, fingerprint: str, settings: dict[str, float]) -> None:
    with pytest.raises(InputError):
        archive.open_session(scope(), fingerprint=fingerprint, settings=settings)
    assert archive.sessions("acme", "ada") == []


def test_sessions_lists_one_user_of_one_tenant_oldest_first(archive: Archive) -> None:
    mine = [opened(archive, thread) for thread in ("b", "a", "c")]
    opened(archive, "a", user="bob")
    opened(archive, "a", tenant="other")
    assert archive.sessions("acme", "ada") == mine
    assert [session.scope.user for session in archive.sessions("acme", "bob")] == ["bob"]
    assert archive.sessions("acme", "eve") == []


def test_ids_are_opaque(archive: Archive) -> None:
    # Each pair would fall together if the three ids were joined, trimmed, case-folded, normalised or used as patterns.
    scopes = [
        Scope(tenant="a/b", user="c", thread="d"),
        Scope(tenant="a", user="b/c", thread="d"),
        Scope(tenant="a", user="b", thread="c/d"),
        Scope(tenant="A", user="b", thread="c/d"),
        Scope(tenant="a ", user="b", thread="c/d"),
        Scope(tenant="%", user="%", thread="%"),
        Scope(tenant="' OR 1=1 --", user="b", thread="../x"),
        Scope(tenant="é", user="b", thread="1"),
        Scope(tenant="e\u0301", user="b", thread="1"),
    ]
    for one in scopes:
        archive.open_session(one, fingerprint=MODEL, settings={})
    for one in scopes:
        assert [session.scope for session in archive.sessions(one.tenant, one.user)] == [one]


def test_an_unknown_session_is_named(archive: Archive) -> None:
    for call in (
        archive.session,
        archive.events,
        archive.snapshots,
        lambda name: archive.append(name, [said(1)]),
        lambda name: archive.append(name, []),
    ):
        with pytest.raises(SessionNotFound, match="nobody"):
            call("nobody")


def test_a_fork_begins_where_the_snapshot_ends(archive: Archive) -> None:
    session = opened(archive)
    archive.append(session.id, [said(1, 2)])
    snapshot = slept(archive, session.id, b"one")
    archive.append(session.id, [said(3)])
    fork = archive.fork(snapshot.id, scope("branch"))
    assert (fork.head, fork.forked_from, fork.events, fork.tokens) == (snapshot.id, snapshot.id, 2, 2)
    assert (fork.fingerprint, fork.settings, fork.scope) == (MODEL, session.settings, scope("branch"))
    assert archive.session(fork.id) == fork
    assert opened(archive, "branch") == fork
    assert archive.fork(snapshot.id, scope("other"), settings={"passes": 8}).settings == {"passes": 8}


def test_a_fork_and_its_parent_go_separate_ways(archive: Archive) -> None:
    session = opened(archive)
    archive.append(session.id, [said(1, 2)])
    first = slept(archive, session.id, b"one")
    fork = archive.fork(first.id, scope("branch"))
    archive.append(session.id, [said(3)])
    archive.append(fork.id, [said(4, 5), said(6)])
    parents, forks = slept(archive, session.id, b"two"), slept(archive, fork.id, b"three")
    assert [event.token_ids for event in archive.events(session.id)] == [(1, 2), (), (3,), ()]
    assert [event.token_ids for event in archive.events(fork.id)] == [(1, 2), (), (4, 5), (6,), ()]
    assert [event.position for event in archive.events(fork.id)] == [0, 2, 2, 4, 5]
    assert archive.snapshots(session.id) == [first, parents]
    assert archive.snapshots(fork.id) == [first, forks]
    assert (forks.parent, forks.span, forks.tokens) == (first.id, (2, 5), 5)


def test_forks_of_forks(archive: Archive) -> None:
    """Five generations, each forked from its parent's first own snapshot, while every parent goes on."""
    parent, expected, history = opened(archive, "0"), [], []
    for generation in range(5):
        archive.append(parent.id, [said(generation)])
        history.append(slept(archive, parent.id, b"state %d" % generation))
        expected += [(generation,), ()]
        child = archive.fork(history[-1].id, scope(str(generation + 1)))
        archive.append(parent.id, [said(99)])
        slept(archive, parent.id, b"later %d" % generation)
        parent = child
    assert [event.token_ids for event in archive.events(parent.id)] == expected
    assert [event.seq for event in archive.events(parent.id)] == list(range(10))
    assert [event.token_ids for event in archive.events(parent.id, 3, 7)] == expected[3:7]
    assert archive.snapshots(parent.id) == history
    # A fork from a snapshot that was itself inherited, from the middle of the line.
    side = archive.fork(history[1].id, scope("side"))
    assert [event.token_ids for event in archive.events(side.id)] == expected[:4]
    assert archive.snapshots(side.id) == history[:2]


def test_a_fork_needs_a_free_scope(archive: Archive) -> None:
    session = opened(archive)
    snapshot = slept(archive, session.id, b"one")
    with pytest.raises(InputError, match="another thread"):
        archive.fork(snapshot.id, scope())
    with pytest.raises(SnapshotNotFound, match="nothing"):
        archive.fork("nothing", scope("branch"))
    with pytest.raises(InputError, match="settings"):
        archive.fork(snapshot.id, scope("branch"), settings={"x": float("inf")})
    assert archive.sessions("acme", "ada") == [archive.session(session.id)]


@pytest.mark.parametrize("reader", [{"user": "eve"}, {"tenant": "other"}, {"user": "acme", "tenant": "ada"}])
def test_one_users_memory_is_never_shown_to_another(archive: Archive, reader: dict[str, str]) -> None:
    session = opened(archive)
    snapshot = slept(archive, session.id, b"secret")
    # The reader has a session under the same thread id, and a state with the same bytes.
    slept(archive, opened(archive, **reader).id, b"secret")
    who = {**ADA, **reader}
    with pytest.raises(SnapshotNotFound):
        archive.snapshot(snapshot.id, **who)
    with pytest.raises(SnapshotNotFound):
        archive.load_state(snapshot.id, **who)
    with pytest.raises(SnapshotNotFound):
        archive.tag(snapshot.id, "mine", **who)
    with pytest.raises(SnapshotNotFound):
        archive.fork(snapshot.id, scope("stolen", **reader))
    assert archive.snapshot(snapshot.id, **ADA) == snapshot
    assert all(one.scope.user == who["user"] and one.scope.tenant == who["tenant"] for one in archive.sessions(**who))


def test_what_is_missing_and_what_is_anothers_look_the_same(archive: Archive) -> None:
    snapshot = slept(archive, opened(archive).id, b"secret")
    messages = []
    for name in (snapshot.id, "0" * 32):
        with pytest.raises(SnapshotNotFound) as caught:
            archive.load_state(name, tenant="acme", user="eve")
        messages.append(str(caught.value).replace(name, "ID"))
    assert messages[0] == messages[1]


def test_a_closed_archive_says_so(archive: Archive) -> None:
    archive.close()
    archive.close()
    with pytest.raises(Exception, match="is closed; open a new Archive"):
        opened(archive)
