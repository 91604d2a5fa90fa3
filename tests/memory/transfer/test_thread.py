"""Threads as files: whole by themselves, equal wherever they are read again, and refused when a byte is wrong."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_safetensors

from agentsleep.archive import Archive, Event, Snapshot, UserArchive
from agentsleep.archive.codec import digest, dump_json
from agentsleep.errors import (
    AgentsleepError,
    ArchiveError,
    FingerprintMismatch,
    InputError,
    SessionNotFound,
    SnapshotConflict,
    SnapshotDamaged,
)
from agentsleep.memory import Session, SleepMemory
from agentsleep.memory.transfer import Exported, export_thread, import_thread
from agentsleep.memory.transfer.threadfile import ThreadFile
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from tests.memory.helpers import (
    FACT,
    NEVER,
    SYSTEM,
    assert_whole,
    calls,
    events,
    fill,
    kinds,
    make_nap,
    rig,
    same,
    schema,
)

SECRET = "zelda hands over to xena ."


def story(memory: SleepMemory, monkeypatch: pytest.MonkeyPatch) -> Session:
    """A thread with everything in it: pins, tools, calls, a turn that a sleep fell into, a fork, tags, a deep sleep,
    and an open window."""
    session = memory.session("root", user="ada", system=SYSTEM)
    session.pin(tools=[schema()])
    session.add("user", SECRET)
    fill(session, 9)
    session.sleep()
    session.close()
    branch = memory.fork(session.history()[-1], "branch")
    with monkeypatch.context() as patch:
        rig(patch, calls(memory, "look_up", person="zelda"))
        branch.ask("who is xena ?")
    branch.generate(max_new_tokens=60, min_new_tokens=50, temperature=1.0, seed=3)
    branch.tag("middle")
    fill(branch, 3)
    branch.sleep(deep=True, passes=1, rounds=2)
    branch.add("user", FACT)
    return branch


@pytest.fixture(scope="module")
def told(nap: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the archive of the story, and its thread exported, with and without texts."""
    folder = tmp_path_factory.mktemp("told")
    with SleepMemory(nap, archive=folder / "memory.db", policy=NEVER) as memory, pytest.MonkeyPatch.context() as patch:
        story(memory, patch).close()
        ada = memory.archive.user("default", "ada")
        export_thread(ada, "branch", folder / "branch.zip")
        export_thread(ada, "branch", folder / "bare.zip", text=False)
    return folder


@pytest.fixture
def archive(told: Path, tmp_path: Path) -> Path:
    """A copy of the archive, for `memory`."""
    with (
        closing(sqlite3.connect(told / "memory.db")) as source,
        closing(sqlite3.connect(tmp_path / "memory.db")) as target,
    ):
        source.backup(target)
    return tmp_path / "memory.db"


@pytest.fixture
def ada(memory: SleepMemory) -> UserArchive:
    return memory.archive.user("default", "ada")


@pytest.fixture
def branch(memory: SleepMemory) -> Iterator[Session]:
    with memory.session("branch", user="ada", create=False) as session:
        yield session


@pytest.fixture
def file(told: Path) -> Path:
    return told / "branch.zip"


@pytest.fixture
def bare(told: Path) -> Path:
    return told / "bare.zip"


@pytest.fixture
def other(nap: Path, tmp_path: Path) -> Iterator[SleepMemory]:
    """The same model on another archive."""
    with SleepMemory(nap, archive=tmp_path / "other.db", policy=NEVER) as memory:
        yield memory


def like(snapshot: Snapshot) -> dict[str, Any]:
    """A snapshot but for the ids of its surroundings."""
    return {**asdict(snapshot), "session_id": None}


def states_of(archive: UserArchive, thread: str) -> list[list[tuple[str, str, tuple[int, ...], bytes]]]:
    record = archive.find(thread)
    assert record is not None
    return [
        [(one.name, one.dtype, one.shape, bytes(one.data)) for one in archive.load_state(snapshot.id)]
        for snapshot in archive.snapshots(record.id)
        if snapshot.status == "stored"
    ]


def times(log: list[Event]) -> list[object]:
    return [event.created for event in log]


def nothing(archive: Archive) -> bool:
    """Whether an archive holds nothing at all."""
    return list(archive.users()) == []


# the file


def test_a_file_is_read_with_nothing_but_zip_json_and_safetensors(file: Path, branch: Session, nap: Path) -> None:
    with zipfile.ZipFile(file) as zipped:
        manifest = json.loads(zipped.read("manifest.json"))
        log = [json.loads(line) for line in zipped.read("log.jsonl").splitlines()]
        states = {
            name[7:39]: load_safetensors(zipped.read(name)) for name in zipped.namelist() if name.startswith("states/")
        }
        for name, entry in manifest["files"].items():
            data = zipped.read(name)
            assert entry == {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        assert {*manifest["files"], "manifest.json"} == set(zipped.namelist())
    assert (manifest["format"], manifest["version"], manifest["text"]) == ("agentsleep thread", 1, True)
    assert manifest["scope"] == {"tenant": "default", "user": "ada", "thread": "branch"}
    assert manifest["fingerprint"] == branch.archive.session(branch.id).fingerprint
    history = branch.history()
    origin = next(one for one in reversed(history) if one.session_id != branch.id)
    assert [one["id"] for one in manifest["sessions"]] == [origin.session_id, branch.id]
    assert [one["forked_from"] for one in manifest["sessions"]] == [None, origin.id]
    assert len(history) >= 4
    assert [one["id"] for one in manifest["snapshots"]] == [one.id for one in history]
    assert [one["parent"] for one in manifest["snapshots"]] == [None, *[one.id for one in history[:-1]]]
    assert [one["probe"]["text"] for one in manifest["snapshots"]] == [one.probe["text"] for one in history]
    for snapshot in history:
        assert same(FastWeights(states[snapshot.id]), branch.state_of(snapshot))
    whole = events(branch)
    assert [event["seq"] for event in log] == [event.seq for event in whole]
    assert [event["token_ids"] for event in log] == [list(event.token_ids) for event in whole]
    assert [event["text"] for event in log] == [event.text for event in whole]
    assert SECRET in [event["text"] for event in log]  # what a fork has inherited is in it


def test_what_an_export_tells(branch: Session, ada: UserArchive, tmp_path: Path) -> None:
    steps: list[tuple[int, int]] = []
    done = export_thread(ada, "branch", tmp_path / "b.zip", progress=lambda *step: steps.append(step))
    count = len(branch.history())
    assert steps == [(i, count) for i in range(count + 1)]
    assert done == Exported(
        path=tmp_path / "b.zip",
        thread="branch",
        text=True,
        events=len(events(branch)),
        snapshots=count,
        states=count,
        bytes=(tmp_path / "b.zip").stat().st_size,
        left_out=0,
    )
    assert (tmp_path / "b.zip").stat().st_mode & 0o077 == 0  # nobody else may read it
    again = export_thread(ada, "branch", tmp_path / "again.zip")
    assert again.path.read_bytes() == done.path.read_bytes()


def test_a_file_is_never_overwritten_unasked(branch: Session, ada: UserArchive, tmp_path: Path) -> None:
    target = tmp_path / "b.zip"
    target.write_text("precious")
    with pytest.raises(InputError, match="is there already"):
        export_thread(ada, "branch", target)
    assert target.read_text() == "precious"
    export_thread(ada, "branch", target, force=True)
    assert zipfile.is_zipfile(target)
    with pytest.raises(InputError, match="a folder"):
        export_thread(ada, "branch", tmp_path)
    with pytest.raises(InputError, match="is no folder"):
        export_thread(ada, "branch", tmp_path / "none" / "b.zip")


def test_an_export_that_fails_leaves_nothing(
    branch: Session, ada: UserArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "b.zip"
    target.parent.mkdir()
    target.write_text("precious")

    def fails(*anything: object) -> object:
        raise OSError(28, "No space left on device")

    def damaged(*anything: object) -> object:
        raise SnapshotDamaged("a chunk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("agentsleep.memory.transfer.threadfile.os.fsync", fails)
        with pytest.raises(ArchiveError, match="No space left"):
            export_thread(ada, "branch", target, force=True)
    with monkeypatch.context() as patch:
        patch.setattr(UserArchive, "load_state", damaged)
        with pytest.raises(SnapshotDamaged):
            export_thread(ada, "branch", target, force=True)
    assert [one.name for one in target.parent.iterdir()] == ["b.zip"]
    assert target.read_text() == "precious"


def test_what_is_forgotten_meanwhile_is_not_exported(
    branch: Session, memory: SleepMemory, ada: UserArchive, tmp_path: Path
) -> None:
    place = next(event.seq for event in branch.messages() if event.text == FACT)

    def forgets(done: int, of: int) -> None:
        if done == of:
            memory.forget(branch, [place])

    with pytest.raises(SnapshotConflict, match="export it again"):
        export_thread(ada, "branch", tmp_path / "b.zip", progress=forgets)
    assert not (tmp_path / "b.zip").exists()


def test_an_export_is_of_one_moment(branch: Session, ada: UserArchive, tmp_path: Path, other: SleepMemory) -> None:
    before, head = events(branch), branch.head

    def goes_on(done: int, of: int) -> None:
        if done == 0:
            branch.sleep()
            branch.add("user", "later")

    file = export_thread(ada, "branch", tmp_path / "b.zip", progress=goes_on).path
    assert branch.head != head
    record = import_thread(other.archive.user("default", "ada"), file)
    assert other.archive.user("default", "ada").events(record.id) == before
    assert record.head == (head.id if head else None)


def test_what_cannot_be_exported(memory: SleepMemory, ada: UserArchive, tmp_path: Path) -> None:
    with pytest.raises(SessionNotFound, match="nobody"):
        export_thread(ada, "nobody", tmp_path / "x.zip")
    memory.session("t", user="ada").close()
    with pytest.raises(InputError, match="sleep first"):
        export_thread(ada, "t", tmp_path / "x.zip", text=False)
    with pytest.raises(InputError, match="'all'"):
        export_thread(ada, "t", tmp_path / "x.zip", states="all")  # type: ignore[arg-type]
    with pytest.raises(SessionNotFound):  # another user's
        export_thread(memory.archive.user("default", "bob"), "t", tmp_path / "x.zip")
    assert not list(tmp_path.glob("*.zip"))


# there and back


def assert_equal(one: UserArchive, other: UserArchive, thread: str) -> None:
    """The same log, the same line, the same bytes; and the archive finds nothing wrong."""
    mine, theirs = one.find(thread), other.find(thread)
    assert mine is not None
    assert theirs is not None
    log = other.events(theirs.id)
    assert log == one.events(mine.id)
    assert times(log) == times(one.events(mine.id))
    assert (theirs.head, theirs.events, theirs.tokens) == (mine.head, mine.events, mine.tokens)
    assert (theirs.settings, theirs.fingerprint, theirs.forked_from) == (mine.settings, mine.fingerprint, None)
    assert list(map(like, other.snapshots(theirs.id))) == list(map(like, one.snapshots(mine.id)))
    assert states_of(other, thread) == states_of(one, thread)
    assert other.verify().findings == ()


@pytest.mark.parametrize("ways", [("sqlite", "postgresql"), ("postgresql", "sqlite")])
def test_a_thread_goes_from_one_database_to_the_other(
    ways: tuple[str, str], nap: Path, tmp_path: Path, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = {"sqlite": str(tmp_path / "memory.db"), "postgresql": postgres_url}
    with SleepMemory(nap, archive=places[ways[0]], policy=NEVER) as memory:
        with story(memory, monkeypatch) as session:
            window = session.window.ids
        source = memory.archive.user("default", "ada")
        file = export_thread(source, "branch", tmp_path / "b.zip").path
        with SleepMemory(nap, archive=places[ways[1]], policy=NEVER) as second:
            target = second.archive.user("default", "ada")
            record = import_thread(target, file, model=second)
            assert_equal(source, target, "branch")
            with second.session("branch", user="ada", create=False) as session:
                assert session.id == record.id
                assert session.window.ids == window
                assert_whole(session)
                fill(session, 4)
                session.sleep(deep=True)
                assert_whole(session)
            (entry,) = target.audit()
            assert entry.action == "import"
            assert {**entry.detail, "file": None} == {
                "session": record.id,
                "file": None,
                "events": record.events,
                "snapshots": len(source.snapshots(session_id(source))),
                "states": len(states_of(source, "branch")),
            }
            with ThreadFile(file) as opened:
                assert entry.detail["file"] == opened.digest


def session_id(archive: UserArchive) -> str:
    record = archive.find("branch")
    assert record is not None
    return record.id


def test_a_thread_without_a_sleep(memory: SleepMemory, ada: UserArchive, other: SleepMemory, tmp_path: Path) -> None:
    with memory.session("t", user="ada", system=SYSTEM) as session:
        session.add("user", FACT)
    memory.session("empty", user="ada").close()
    theirs = other.archive.user("default", "ada")
    for thread in ("t", "empty"):
        import_thread(theirs, export_thread(ada, thread, tmp_path / f"{thread}.zip").path, model=other)
        assert_equal(ada, theirs, thread)
    with other.session("t", user="ada") as session:
        assert session.stats().pinned_tokens > 0
        assert_whole(session)


def test_only_the_newest_state(branch: Session, ada: UserArchive, other: SleepMemory, tmp_path: Path) -> None:
    done = export_thread(ada, "branch", tmp_path / "b.zip", states="head")
    assert (done.states, done.snapshots) == (1, len(branch.history()))
    import_thread(other.archive.user("default", "ada"), done.path, model=other)
    with other.session("branch", user="ada") as session:
        assert [one.status for one in session.history()] == ["pruned"] * (done.snapshots - 1) + ["stored"]
        assert same(session.state_of(session.history()[1]), branch.state_of(branch.history()[1]))
        assert_whole(session)
        assert session.archive.verify().findings == ()


def test_pruned_states_stay_pruned(branch: Session, ada: UserArchive, other: SleepMemory, tmp_path: Path) -> None:
    from agentsleep.archive.rules import Retention

    ada.prune(Retention(keep_last=1))
    wanted = [one.status for one in branch.history()]
    assert {*wanted} == {"pruned", "stored"}
    theirs = other.archive.user("default", "ada")
    import_thread(theirs, export_thread(ada, "branch", tmp_path / "b.zip").path)
    assert_equal(ada, theirs, "branch")


def test_into_the_archive_it_came_from(branch: Session, memory: SleepMemory, ada: UserArchive, file: Path) -> None:
    with pytest.raises(InputError, match="already"):
        import_thread(ada, file)
    record = import_thread(ada, file, model=memory, thread="again")
    ids = {one.id for one in branch.history()}
    assert ids.isdisjoint(one.id for one in ada.snapshots(record.id))
    assert states_of(ada, "again") == states_of(ada, "branch")
    with memory.session("again", user="ada") as session:
        assert events(session) == events(branch)
        assert_whole(session)
    assert_whole(branch)
    assert ada.verify().findings == ()


def test_another_users_thread_is_not_taken_by_mistake(file: Path, memory: SleepMemory, other: SleepMemory) -> None:
    for tenant, user, options in (
        ("default", "bob", {}),
        ("acme", "ada", {}),
        ("acme", "bob", {"into_user": "bob"}),
        ("acme", "bob", {"into_tenant": "acme"}),
        ("acme", "bob", {"into_tenant": "acme", "into_user": "eve"}),
    ):
        with pytest.raises(InputError, match="into_"):
            import_thread(other.archive.user(tenant, user), file, **options)
    assert nothing(other.archive)
    # The same archive: the other user's snapshots are others.
    for into in (other, memory):
        bob = into.archive.user("acme", "bob")
        record = import_thread(bob, file, model=into, into_tenant="acme", into_user="bob")
        assert record.scope.user == "bob"
        assert {one.user for one in bob.snapshots(record.id)} == {"bob"}
        assert bob.verify().findings == ()
        with into.session("branch", user="bob", tenant="acme") as session:
            assert_whole(session)


def test_a_server_keeps_users_apart(file: Path, nap: Path, postgres_url: str) -> None:
    with SleepMemory(nap, archive=postgres_url, policy=NEVER) as memory:
        import_thread(memory.archive.user("default", "ada"), file, model=memory)
        bob = memory.archive.user("default", "bob")
        import_thread(bob, file, model=memory, into_user="bob")
        with memory.session("branch", user="bob") as session:
            assert_whole(session)


def test_only_its_model_may_have_it(file: Path, tmp_path: Path) -> None:
    strange = make_nap(tmp_path / "strange", hidden_size=16)
    with SleepMemory(strange, archive=tmp_path / "strange.db") as memory:
        theirs = memory.archive.user("default", "ada")
        with pytest.raises(FingerprintMismatch) as caught:
            import_thread(theirs, file, model=memory)
        with ThreadFile(file) as opened:
            fingerprint = opened.manifest["fingerprint"]
        assert fingerprint[:12] in str(caught.value)
        assert memory.fingerprint[:12] in str(caught.value)
        assert nothing(memory.archive)
        import_thread(theirs, file)  # without a model, so that it can be rebuilt
        with pytest.raises(FingerprintMismatch):
            memory.session("branch", user="ada")


def test_a_state_that_does_not_speak_is_not_imported(file: Path, other: SleepMemory, tmp_path: Path) -> None:
    def silent(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        last = manifest["snapshots"][-1]
        last["probe"]["logits"] = [value + 1 for value in last["probe"]["logits"]]

    wrong = forged(file, tmp_path / "wrong.zip", silent)
    with pytest.raises(SnapshotDamaged, match="does not speak"):
        import_thread(other.archive.user("default", "ada"), wrong, model=other)
    assert nothing(other.archive)


def test_a_failure_while_it_is_stored_leaves_nothing(
    file: Path, other: SleepMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, reads = other.archive.user("default", "ada"), []
    real = ThreadFile.read

    def read(self: ThreadFile, name: str) -> bytes:
        reads.append(name)
        if len(reads) > len(self.states) + 2:  # verified once, and now half of it is stored
            raise self.damaged(name, "was changed")
        return real(self, name)

    monkeypatch.setattr(ThreadFile, "read", read)
    with pytest.raises(SnapshotDamaged, match="was changed"):
        import_thread(ada, file)
    assert ada.sessions() == []
    assert ada.all_snapshots() == []
    assert ada.audit() == []
    monkeypatch.undo()
    import_thread(ada, file, model=other)


# without texts


def test_a_file_without_text_tells_nothing(bare: Path, file: Path, branch: Session) -> None:
    with zipfile.ZipFile(bare) as zipped:
        manifest = json.loads(zipped.read("manifest.json"))
        log = [json.loads(line) for line in zipped.read("log.jsonl").splitlines()]
        everything = b"".join(zipped.read(name) for name in zipped.namelist() if not name.startswith("states/"))
    assert manifest["text"] is False
    assert len(log) == len(branch.history())
    allowed = {
        *("passes", "rounds", "first", "windows", "tally", "reason", "number", "start", "stop"),
        *("pinned", "pins_seq", "next_seq", "open_turn", "textless"),
    }
    for event in log:
        assert event["kind"] in ("sleep", "deep_sleep")
        assert (event["token_ids"], event["text"], event["role"], event["position"]) == ([], None, None, 0)
        assert set(event["data"]) <= allowed
        assert event["data"]["pinned"] == []
    for word in ("zelda", "xena", "look_up", "build is fine", "hands over", "rendered", "calls"):
        assert word.encode() not in everything
    with zipfile.ZipFile(file) as zipped:  # where they are looked for, they would be found
        whole = zipped.read("log.jsonl")
    assert all(word in whole for word in (b"zelda", b"look_up", b"build is fine", b"rendered", b"calls"))


def test_a_thread_without_text_goes_on(bare: Path, branch: Session, other: SleepMemory) -> None:
    ada = other.archive.user("default", "ada")
    import_thread(ada, bare, model=other)
    assert ada.verify().findings == ()
    head = branch.head
    assert head is not None
    with other.session("branch", user="ada", system=SYSTEM) as session:
        assert session.messages() == []
        assert same(session.state, branch.state)
        assert session.tokens == 0
        assert session.stats().snapshots == branch.stats().snapshots
        assert session.stats().passes == branch.stats().passes
        assert session.stats().deep_sleeps == branch.stats().deep_sleeps
        assert session.head is not None
        assert (session.head.tag, session.history()[1].tag) == ("imported", branch.history()[1].tag)
        base = session.head
        assert session.sleep(deep=True) is None  # nothing to read again
        fill(session, 12)
        session.ask("who comes 1 after bob ?", max_new_tokens=8)
        session.sleep(deep=True, rounds=2)
        assert kinds(session).startswith(kinds_of_marks(branch) + "p")
        assert same(session.replay(base), session.state)
        with pytest.raises(ArchiveError, match="imported without its texts"):
            session.replay()
        with other.fork(session.history()[1], "early") as early:
            assert same(early.state, branch.state_of(branch.history()[1]))
            early.add("user", FACT)
            early.sleep()
            assert same(early.replay(early.history()[1]), early.state)
        before = [one.id for one in session.history()]
        with pytest.raises(InputError, match="is a sleep"):
            other.forget(session, [0])
        said = next(event.seq for event in session.messages() if event.role == "user")
        other.forget(session, [said])
        assert said not in [event.seq for event in session.messages() if event.text == "who comes 1 after bob ?"]
        assert same(session.replay(base), session.state)
        assert [one.id for one in session.history()][: len(branch.history())] == before[: len(branch.history())]
    with other.session("branch", user="ada") as session:
        assert session.archive.verify().findings == ()


def kinds_of_marks(session: Session) -> str:
    return "".join(letter for letter in kinds(session) if letter in "sd")


def test_what_needs_the_texts_says_that_they_are_missing(
    bare: Path, branch: Session, other: SleepMemory, tmp_path: Path
) -> None:
    ada = other.archive.user("default", "ada")
    record = import_thread(ada, bare)
    with other.session("branch", user="ada") as session:
        with (
            pytest.raises(ArchiveError, match="imported without its texts"),
            other.trial(session, SleepPolicy()),
        ):
            pass
        from agentsleep.archive.rules import Retention

        ada.prune(Retention(keep_last=1))
        assert session.history()[0].status == "pruned"
        assert session.history()[-1].status == "stored"
        with pytest.raises(ArchiveError, match="imported without its texts"):
            session.state_of(session.history()[0])
    strange = make_nap(tmp_path / "strange", hidden_size=16)
    with (
        SleepMemory(strange, archive=tmp_path / "other.db") as memory,
        pytest.raises(ArchiveError, match="imported without its texts"),
    ):
        memory.rebuild("branch", user="ada")
    again = export_thread(ada, "branch", tmp_path / "again.zip")  # and such a thread can travel on
    assert import_thread(ada, again.path, thread="copy", model=other).events == record.events


def test_what_no_state_has_seen_is_left_out(branch: Session, ada: UserArchive, tmp_path: Path) -> None:
    done = export_thread(ada, "branch", tmp_path / "b.zip", text=False)
    assert done.left_out == branch.window_tokens - branch.stats().pinned_tokens > 0
    branch.sleep()
    assert export_thread(ada, "branch", tmp_path / "c.zip", text=False).left_out == 0


# what is refused

Change = Callable[[dict[str, Any], dict[str, bytes]], None]


def forged(source: Path, target: Path, change: Change, *, seal: bool = True) -> Path:
    """A file with something changed in it, whose digests are right again if it is `seal`ed."""
    with zipfile.ZipFile(source) as zipped:
        files = {name: zipped.read(name) for name in zipped.namelist()}
    manifest = json.loads(files.pop("manifest.json"))
    change(manifest, files)
    if seal:
        manifest["files"] = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()
        }
        manifest.pop("digest", None)
        manifest["digest"] = digest(dump_json(manifest).encode())
    with zipfile.ZipFile(target, "w") as zipped:
        for name, data in files.items():
            zipped.writestr(name, data)
        zipped.writestr("manifest.json", json.dumps(manifest))
    return target


def refused(archive: Archive, source: Path) -> AgentsleepError:
    """The error of an import that has stored nothing."""
    with pytest.raises((InputError, SnapshotDamaged)) as caught:
        import_thread(archive.user("default", "ada"), source)
    assert nothing(archive)
    assert str(source) in str(caught.value)
    return caught.value


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Archive]:
    with Archive(tmp_path / "empty.db") as archive:
        yield archive


def test_every_file_in_turn_is_guarded(file: Path, empty: Archive, tmp_path: Path) -> None:
    raw = file.read_bytes()
    with zipfile.ZipFile(file) as zipped:
        infos = zipped.infolist()
    for info in infos:
        # Behind the local header: its name, and what it has extra.
        start = (
            info.header_offset + 30 + len(info.filename) + int.from_bytes(raw[info.header_offset + 28 :][:2], "little")
        )
        size = info.compress_size
        places = {start + size // 4, start + size // 2}
        if info.filename.startswith("states/"):  # the last bits of what is compressed say nothing
            places |= {start, start + size - 1}
        for place in sorted(places):
            broken = tmp_path / "broken.zip"
            broken.write_bytes(raw[:place] + bytes([raw[place] ^ 0x55]) + raw[place + 1 :])
            error = refused(empty, broken)
            assert info.filename in str(error)
            assert isinstance(error, SnapshotDamaged if info.filename.startswith("states/") else InputError)


def test_every_file_in_turn_is_missed(file: Path, empty: Archive, tmp_path: Path) -> None:
    with zipfile.ZipFile(file) as zipped:
        names = zipped.namelist()
    for name in names:
        broken = tmp_path / "broken.zip"
        with zipfile.ZipFile(file) as source, zipfile.ZipFile(broken, "w") as target:
            for info in source.infolist():
                if info.filename != name:
                    target.writestr(info, source.read(info.filename))
        assert ("manifest.json" if name.startswith("states/") else name) in str(refused(empty, broken))


@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.99, 0.9999])
def test_a_file_that_was_cut_short(part: float, file: Path, empty: Archive, tmp_path: Path) -> None:
    raw = file.read_bytes()
    (tmp_path / "short.zip").write_bytes(raw[: int(part * len(raw))])
    assert "cut short" in str(refused(empty, tmp_path / "short.zip"))


def test_bytes_flipped_anywhere_never_store_anything_wrong(file: Path, empty: Archive, tmp_path: Path) -> None:
    """Some bytes of a zip say nothing (times, attributes); then what is imported is what was exported."""
    raw = file.read_bytes()
    ada = empty.user("default", "ada")
    whole = import_thread(ada, file)
    log, states = ada.events(whole.id), states_of(ada, "branch")
    generator = torch.Generator().manual_seed(1)
    for place in torch.randint(len(raw), (60,), generator=generator).tolist() + list(range(len(raw) - 22, len(raw))):
        (tmp_path / "b.zip").write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        try:
            record = import_thread(ada, tmp_path / "b.zip", thread=f"t{place}")
        except (InputError, SnapshotDamaged):
            continue
        assert ada.events(record.id) == log
        assert states_of(ada, f"t{place}") == states


def tiny_forgeries() -> dict[str, tuple[str, Change]]:
    def first(manifest: dict[str, Any]) -> dict[str, Any]:
        return manifest["snapshots"][0]  # type: ignore[no-any-return]

    def line(number: int, **changes: object) -> Change:
        def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
            lines = files["log.jsonl"].splitlines()
            lines[number] = json.dumps({**json.loads(lines[number]), **changes}).encode()
            files["log.jsonl"] = b"\n".join(lines) + b"\n"

        return change

    def entry(**changes: object) -> Change:
        return lambda manifest, files: first(manifest).update(changes)

    def top(**changes: object) -> Change:
        return lambda manifest, files: manifest.update(changes)

    def raw_log(data: bytes) -> Change:
        return lambda manifest, files: files.update({"log.jsonl": data})

    def gone(name: str) -> Change:
        def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
            del first(manifest)[name]

        return change

    def state(data: bytes) -> Change:
        return lambda manifest, files: files.update({f"states/{first(manifest)['id']}.safetensors": data})

    def swapped(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        a, b = sorted(name for name in files if name.startswith("states/"))[:2]
        files[a], files[b] = files[b], files[a]

    def orphaned(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        manifest["snapshots"].pop(0)

    def twice(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        manifest["snapshots"][2]["id"] = first(manifest)["id"]
        manifest["snapshots"][3]["parent"] = first(manifest)["id"]

    def headless(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        last = manifest["snapshots"][-1]
        last["status"] = "pruned"
        del files[f"states/{last['id']}.safetensors"]

    return {
        "another format": ("not that of an exported", top(format="holiday pictures")),
        "a later version": ("version 2", top(version=2)),
        "no scope": ("scope is None", top(scope=None)),
        "an empty user": ("scope: user is empty", top(scope={"tenant": "default", "user": "", "thread": "t"})),
        "no fingerprint": ("fingerprint is None", top(fingerprint=None)),
        "settings": ("settings is \\[\\]", top(settings=[])),
        "the count of events": ("tells of 3 events", top(events=3)),
        "snapshots as an object": ("not a list", top(snapshots={})),
        "a snapshot as a number": ("snapshot 0 is no JSON object", top(snapshots=[1])),
        "passes of none": ("passes is 0", entry(passes=0)),
        "passes as a flag": ("passes is True", entry(passes=True)),
        "huge passes": ("passes is 1", entry(passes=10**30)),
        "an id that is a path": ("id is '../../etc/passwd'", entry(id="../../etc/passwd")),
        "a span backwards": ("its span is \\[0, 0\\]", entry(span=[0, 0])),
        "a span beyond": ("its span is", entry(span=[0, 10**6])),
        "a span of texts": ("its span is", entry(span=["0", "5"])),
        "wrong tokens": ("its tokens are", entry(tokens=1)),
        "no such status": ("status is 'lost'", entry(status="lost")),
        "status pruned": ("lists other states", entry(status="pruned")),
        "a digest": ("holds other tensors", entry(state_digest="0" * 64)),
        "bytes": ("holds other tensors", entry(state_bytes=8)),
        "a time": ("created is 'yesterday'", entry(created="yesterday")),
        "a time without zone": ("created is '2026", entry(created="2026-01-01T00:00:00")),
        "an old time": ("created is '0001", entry(created="0001-01-01T00:00:00+14:00")),
        "a tag": ("tag has 300 characters", entry(tag="x" * 300)),
        "metrics": ("metrics is None", entry(metrics=None)),
        "no trigger": ("trigger is missing", gone("trigger")),
        "another parent": ("descends from", entry(parent="0" * 32)),
        "a missing parent": ("descends from", orphaned),
        "one id twice": ("has the id of another", twice),
        "no newest state": ("is the newest state, and missing", headless),
        "swapped states": ("holds other tensors", swapped),
        "an empty state": ("is no state", state(b"")),
        "noise for a state": ("is no state", state(b"noise" * 100)),
        "no tensors": ("is no state", state(FastWeights().save())),
        "half a state": ("holds other tensors", state(FastWeights({"x": torch.ones(3)}).save())),
        "an empty log": ("tells of", raw_log(b"")),
        "a log of noise": ("log.jsonl cannot be read", raw_log(b"noise\n")),
        "a log that is no text": ("log.jsonl cannot be read", raw_log(b"\xff\xfe\n")),
        "a log of numbers": ("log.jsonl, line 1 is no JSON object", raw_log(b"1\n")),
        "a log too deep": ("log.jsonl cannot be read", raw_log(b"[" * 100_000 + b"\n")),
        "not a number": ("log.jsonl cannot be read", raw_log(b'{"seq": NaN}\n')),
        "a gap": ("has a gap", line(1, seq=7)),
        "a wrong position": ("has a gap", line(3, position=1)),
        "a token": ("token id -1", line(2, token_ids=[-1])),
        "a token of text": ("must be ints", line(2, token_ids=["bob"])),
        "a kind": ("kind is 'rumour'", line(2, kind="rumour")),
        "a role": ("role is 5", line(2, role=5)),
        "a text": ("text is \\[\\]", line(2, text=[])),
        "half a letter": ("lone surrogate", line(2, text="\ud800")),
        "data": ("data is None", line(2, data=None)),
    }


@pytest.mark.parametrize("case", tiny_forgeries())
def test_what_does_not_fit_together(case: str, file: Path, empty: Archive, tmp_path: Path) -> None:
    said, change = tiny_forgeries()[case]
    wrong = forged(file, tmp_path / "wrong.zip", change)
    error = refused(empty, wrong)
    assert re.search(said, str(error)), str(error)


@pytest.mark.parametrize("key", ["number", "stop", "next_seq", "pins_seq"])
def test_a_mark_from_which_no_window_can_be_built(key: str, file: Path, empty: Archive, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        lines = [json.loads(line) for line in files["log.jsonl"].splitlines()]
        mark = next(line for line in lines if line["kind"] == "sleep")
        mark["data"][key] = 10**9
        files["log.jsonl"] = b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    assert "the mark in event" in str(refused(empty, forged(file, tmp_path / "wrong.zip", change)))


def test_a_manifest_that_was_edited(file: Path, empty: Archive, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any], files: dict[str, bytes]) -> None:
        manifest["snapshots"][0]["passes"] += 1

    error = refused(empty, forged(file, tmp_path / "wrong.zip", change, seal=False))
    assert "manifest.json does not match its digest" in str(error)


def rewritten(source: Path, target: Path, **options: Any) -> zipfile.ZipFile:
    """The zip again, still open for more."""
    zipped = zipfile.ZipFile(target, "w", **options)
    with zipfile.ZipFile(source) as old:
        for name in old.namelist():
            zipped.writestr(name, old.read(name))
    return zipped


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "states/../../evil.safetensors", "notes.txt", "states/"])
def test_what_does_not_belong_there(name: str, file: Path, empty: Archive, tmp_path: Path) -> None:
    with rewritten(file, tmp_path / "more.zip") as zipped:
        zipped.writestr(name, b"x")
    assert "does not belong" in str(refused(empty, tmp_path / "more.zip"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice(file: Path, empty: Archive, tmp_path: Path) -> None:
    with rewritten(file, tmp_path / "twice.zip") as zipped:
        zipped.writestr("log.jsonl", b"{}\n")
    assert "twice" in str(refused(empty, tmp_path / "twice.zip"))


def test_a_state_that_the_manifest_does_not_know(file: Path, empty: Archive, tmp_path: Path) -> None:
    with rewritten(file, tmp_path / "more.zip") as zipped:
        zipped.writestr(f"states/{'0' * 32}.safetensors", b"x")
    assert "does not list the files" in str(refused(empty, tmp_path / "more.zip"))


def test_bombs(file: Path, empty: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten(file, tmp_path / "packed.zip", compression=zipfile.ZIP_DEFLATED).close()
    assert "is compressed" in str(refused(empty, tmp_path / "packed.zip"))  # a state may not blow up
    limits = ThreadFile.__init__.__globals__["_MOST_JSON"]
    for name in ("log.jsonl", "manifest.json"):
        with monkeypatch.context() as patch:
            patch.setitem(limits, name, 100)
            assert f"{name} unpacks to" in str(refused(empty, file))


def test_one_piece_of_data_under_many_names(file: Path, empty: Archive, tmp_path: Path) -> None:
    """Entries that overlap: little data, many files."""
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w") as zipped:
        for name in ("manifest.json", "log.jsonl", f"states/{'0' * 32}.safetensors"):
            zipped.writestr(name, b"x" * 1000)
        first = zipped.infolist()[2]
        for i in range(1, 100):
            again = zipfile.ZipInfo(f"states/{i:032x}.safetensors")
            again.header_offset, again.file_size, again.compress_size = first.header_offset, 1000, 1000
            again.CRC = first.CRC
            zipped.filelist.append(again)
            zipped.NameToInfo[again.filename] = again
    assert "more than it holds" in str(refused(empty, tmp_path / "bomb.zip"))


def test_what_is_no_file(empty: Archive, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a zip")
    assert "is no zip" in str(refused(empty, tmp_path / "notes.txt"))
    assert "there is no file" in str(refused(empty, tmp_path / "none.zip"))
    assert "there is no file" in str(refused(empty, tmp_path))


def test_names_of_threads_are_checked(file: Path, empty: Archive) -> None:
    ada = empty.user("default", "ada")
    for name in ("x" * 256, "nul\0"):
        with pytest.raises(InputError, match="thread"):
            import_thread(ada, file, thread=name)
    assert nothing(empty)
    record = import_thread(ada, file, thread="another")
    assert replace(record.scope, thread="branch").thread == "branch"
    assert record.scope.thread == "another"
