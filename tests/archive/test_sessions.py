from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest

from agentsleep.archive import Archive, Scope, UserArchive
from agentsleep.errors import ArchiveError, FingerprintMismatch, InputError, SessionNotFound, SnapshotNotFound
from tests.archive.helpers import MODEL, OTHER_MODEL, loaded, opened, said, slept


def test_a_session_is_made_once_and_found_again(archive: Archive, ada: UserArchive, where: str) -> None:
    first = ada.open_session("thread-1", fingerprint=MODEL, settings={"passes": 4, "pin": ("system",)})
    assert (first.scope, first.fingerprint) == (Scope(tenant="acme", user="ada", thread="thread-1"), MODEL)
    assert (first.head, first.forked_from) == (None, None)
    assert (first.events, first.tokens) == (0, 0)
    assert first.settings == {"passes": 4, "pin": ["system"]}
    assert first.created.tzinfo is UTC
    assert abs(datetime.now(UTC) - first.created) < timedelta(minutes=1)
    again = ada.open_session("thread-1", fingerprint=MODEL, settings={"passes": 1}, create=False)
    assert again == first  # the stored settings stand
    archive.close()
    with Archive(where) as reopened:
        again = reopened.user("acme", "ada").open_session("thread-1", fingerprint=MODEL, settings={})
        assert again == first == reopened.user("acme", "ada").session(first.id)


def test_create_false_makes_nothing(archive: Archive, ada: UserArchive) -> None:
    with pytest.raises(SessionNotFound, match="thread-1"):
        ada.open_session("thread-1", fingerprint=MODEL, settings={}, create=False)
    assert ada.find("thread-1") is None
    assert (ada.sessions(), archive.users()) == ([], [])


def test_another_models_session_is_refused_by_name(ada: UserArchive) -> None:
    opened(ada)
    with pytest.raises(FingerprintMismatch) as caught:
        ada.open_session("thread-1", fingerprint=OTHER_MODEL, settings={})
    for word in (MODEL[:12], OTHER_MODEL[:12], "load the model", "another thread"):
        assert word in str(caught.value)


@pytest.mark.parametrize(("fingerprint", "settings"), [("", {}), (MODEL, {"x": float("nan")})])
def test_a_bad_opening_stores_nothing(ada: UserArchive, fingerprint: str, settings: dict[str, float]) -> None:
    with pytest.raises(InputError):
        ada.open_session("thread-1", fingerprint=fingerprint, settings=settings)
    assert ada.sessions() == []


def test_sessions_lists_one_user_of_one_tenant_oldest_first(archive: Archive, ada: UserArchive) -> None:
    mine = [opened(ada, thread) for thread in ("b", "a", "c")]
    opened(archive.user("acme", "bob"), "a")
    opened(archive.user("other", "ada"), "a")
    assert ada.sessions() == mine
    assert [session.scope.user for session in archive.user("acme", "bob").sessions()] == ["bob"]
    assert archive.user("acme", "eve").sessions() == []
    assert archive.users() == [("acme", "ada"), ("acme", "bob"), ("other", "ada")]


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
        opened(archive.user(one.tenant, one.user), one.thread)
    for one in scopes:
        assert [session.scope for session in archive.user(one.tenant, one.user).sessions()] == [one]
    assert len(archive.users()) == len(scopes)


def test_an_unknown_session_is_named(ada: UserArchive) -> None:
    for call in (
        ada.session,
        ada.events,
        ada.snapshots,
        lambda name: ada.append(name, [said(1)]),
        lambda name: ada.append(name, []),
    ):
        with pytest.raises(SessionNotFound, match="nobody"):
            call("nobody")


def test_a_fork_begins_where_the_snapshot_ends(ada: UserArchive) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1, 2)])
    snapshot = slept(ada, session.id, b"one")
    ada.append(session.id, [said(3)])
    fork = ada.fork(snapshot.id, "branch")
    assert (fork.head, fork.forked_from, fork.events, fork.tokens) == (snapshot.id, snapshot.id, 2, 2)
    assert (fork.fingerprint, fork.settings, fork.scope.thread) == (MODEL, session.settings, "branch")
    assert ada.session(fork.id) == fork
    assert opened(ada, "branch") == fork
    assert ada.fork(snapshot.id, "other", settings={"passes": 8}).settings == {"passes": 8}


def test_a_fork_and_its_parent_go_separate_ways(ada: UserArchive) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1, 2)])
    first = slept(ada, session.id, b"one")
    fork = ada.fork(first.id, "branch")
    ada.append(session.id, [said(3)])
    ada.append(fork.id, [said(4, 5), said(6)])
    parents, forks = slept(ada, session.id, b"two"), slept(ada, fork.id, b"three")
    assert [event.token_ids for event in ada.events(session.id)] == [(1, 2), (), (3,), ()]
    assert [event.token_ids for event in ada.events(fork.id)] == [(1, 2), (), (4, 5), (6,), ()]
    assert [event.position for event in ada.events(fork.id)] == [0, 2, 2, 4, 5]
    assert ada.snapshots(session.id) == [first, parents]
    assert ada.snapshots(fork.id) == [first, forks]
    assert (forks.parent, forks.span, forks.tokens) == (first.id, (2, 5), 5)


def test_forks_of_forks(ada: UserArchive) -> None:
    """Five generations, each forked from its parent's first own snapshot, while every parent goes on."""
    parent, expected, history = opened(ada, "0"), [], []
    for generation in range(5):
        ada.append(parent.id, [said(generation)])
        history.append(slept(ada, parent.id, b"state %d" % generation))
        expected += [(generation,), ()]
        child = ada.fork(history[-1].id, str(generation + 1))
        ada.append(parent.id, [said(99)])
        slept(ada, parent.id, b"later %d" % generation)
        parent = child
    assert [event.token_ids for event in ada.events(parent.id)] == expected
    assert [event.seq for event in ada.events(parent.id)] == list(range(10))
    assert [event.token_ids for event in ada.events(parent.id, 3, 7)] == expected[3:7]
    assert ada.snapshots(parent.id) == history
    # A fork from a snapshot that was itself inherited, from the middle of the line.
    side = ada.fork(history[1].id, "side")
    assert [event.token_ids for event in ada.events(side.id)] == expected[:4]
    assert ada.snapshots(side.id) == history[:2]


def test_a_fork_needs_a_free_scope(ada: UserArchive) -> None:
    session = opened(ada)
    snapshot = slept(ada, session.id, b"one")
    with pytest.raises(InputError, match="another thread"):
        ada.fork(snapshot.id, "thread-1")
    with pytest.raises(SnapshotNotFound, match="nothing"):
        ada.fork("nothing", "branch")
    with pytest.raises(InputError, match="settings"):
        ada.fork(snapshot.id, "branch", settings={"x": float("inf")})
    assert ada.sessions() == [ada.session(session.id)]


@pytest.mark.parametrize("reader", [("acme", "eve"), ("other", "ada"), ("ada", "acme")])
def test_one_users_memory_is_never_shown_to_another(
    archive: Archive, ada: UserArchive, reader: tuple[str, str]
) -> None:
    session = opened(ada)
    snapshot = slept(ada, session.id, b"secret")
    # The reader has a session under the same thread id, and a state with the same bytes.
    other = archive.user(*reader)
    slept(other, opened(other).id, b"secret")
    for call in (
        other.snapshot,
        other.load_state,
        lambda name: other.tag(name, "mine"),
        lambda name: other.fork(name, "stolen"),
        lambda name: other.rollback(other.sessions()[0].id, name, "aside"),
    ):
        with pytest.raises(SnapshotNotFound):
            call(snapshot.id)
    assert ada.snapshot(snapshot.id) == snapshot
    assert [(one.scope.tenant, one.scope.user) for one in other.sessions()] == [reader]
    assert snapshot not in other.all_snapshots()


def test_what_is_missing_and_what_is_anothers_look_the_same(archive: Archive, ada: UserArchive) -> None:
    snapshot = slept(ada, opened(ada).id, b"secret")
    messages = []
    for name in (snapshot.id, "0" * 32):
        with pytest.raises(SnapshotNotFound) as caught:
            archive.user("acme", "eve").load_state(name)
        messages.append(str(caught.value).replace(name, "ID"))
    assert messages[0] == messages[1]


def test_a_rollback_gives_the_thread_to_the_past_and_keeps_the_rest(ada: UserArchive) -> None:
    session = opened(ada)
    ada.append(session.id, [said(1)])
    first = slept(ada, session.id, b"one")
    ada.append(session.id, [said(2)])
    second = slept(ada, session.id, b"two")
    back = ada.rollback(session.id, first.id, "before")
    assert (back.scope.thread, back.head, back.forked_from, back.events) == ("thread-1", first.id, first.id, 2)
    assert opened(ada) == back
    assert opened(ada, "before").id == session.id
    assert ada.snapshots(session.id) == [first, second]
    assert ada.snapshots(back.id) == [first]
    assert (loaded(ada, first.id), loaded(ada, second.id)) == (b"one", b"two")
    with pytest.raises(SnapshotNotFound, match="does not descend"):
        ada.rollback(back.id, second.id, "elsewhere")
    with pytest.raises(InputError, match="already"):
        ada.rollback(back.id, first.id, "before")
    with pytest.raises(SessionNotFound):
        ada.rollback("nobody", first.id, "elsewhere")
    assert opened(ada) == back  # what failed changed nothing


def test_many_open_one_thread_of_a_new_user_at_once(where: str) -> None:
    """Neither the user nor the thread comes into being twice, and nobody is refused."""
    barrier, found, failed = threading.Barrier(8), [], []

    def one() -> None:
        barrier.wait()
        try:
            with Archive(where) as archive:
                found.append(opened(archive.user("acme", "ada")).id)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(found) == 8
    assert len(set(found)) == 1


def test_many_fork_into_one_thread_and_one_wins(archive: Archive, ada: UserArchive) -> None:
    snapshot = slept(ada, opened(ada).id, b"x")
    barrier, found, failed = threading.Barrier(6), [], []

    def one() -> None:
        user = archive.user("acme", "ada")
        barrier.wait()
        try:
            found.append(user.fork(snapshot.id, "branch"))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [type(error) for error in failed] == [InputError] * 5
    assert [session.scope.thread for session in ada.sessions()] == ["thread-1", "branch"]


def test_a_scope_that_was_rolled_back_is_not_remembered(archive: Archive, ada: UserArchive) -> None:
    def interrupted() -> None:
        with ada.writing(create=True):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert archive.users() == []
    assert opened(ada).scope.user == "ada"
    assert archive.users() == [("acme", "ada")]


def test_a_closed_archive_says_so(archive: Archive, ada: UserArchive) -> None:
    archive.close()
    archive.close()
    with pytest.raises(ArchiveError, match="is closed; open a new Archive"):
        opened(ada)


def test_sessions_whose_thread_begins_with_a_prefix(archive: Archive, ada: UserArchive) -> None:
    """Taken as it stands: upper and lower case differ, and what a pattern would read as a wildcard is none."""
    names = [
        "rota@1",
        "Rota@2",
        "rota",
        "rot",
        "x-rota@1",
        "ro_a@1",
        "roXa@1",
        "50%",
        "500",
        "straße",
        "strasse",
        "日本",
        "a\\b",
    ]
    mine = {name: opened(ada, name) for name in names}
    opened(archive.user("acme", "bob"), "rota@of bob")
    opened(archive.user("other", "ada"), "rota@of another tenant")

    def named(prefix: str) -> list[str]:
        found = ada.sessions(prefix)
        assert found == [mine[one.scope.thread] for one in found]  # whole records
        return [one.scope.thread for one in found]

    assert named("rota@") == ["rota@1"]
    assert named("rota") == ["rota@1", "rota"]  # oldest first
    assert named("R") == ["Rota@2"]
    assert named("ro_a") == ["ro_a@1"]
    assert named("50%") == ["50%"]
    assert named("%") == named("_") == named("rota@12") == []
    assert named("straß") == ["straße"]
    assert named("日") == ["日本"]
    assert named("a\\") == ["a\\b"]
    assert named("") == names
    assert ada.sessions() == ada.sessions("")
