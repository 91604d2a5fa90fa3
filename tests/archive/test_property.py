"""The archive against a model in plain lists and dicts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from agentsleep.archive import Archive, NewEvent, UserArchive
from agentsleep.errors import InputError, SnapshotConflict, SnapshotNotFound
from tests.archive.helpers import loaded, opened, slept
from tests.postgres import PostgresServer

USERS = ["ada", "bob"]
TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aé\0", max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=2),
    max_leaves=4,
)
DATA = st.dictionaries(st.text("xyz", max_size=2), VALUES, max_size=2)
SAID = st.builds(
    NewEvent,
    kind=st.just("tokens"),
    role=st.none() | st.sampled_from(["user", "tool"]),
    token_ids=st.lists(st.integers(0, 2**32 - 1), max_size=4).map(tuple),
    text=TEXT,
    data=DATA,
)
MARKS = st.builds(NewEvent, kind=st.sampled_from(["sleep", "deep_sleep"]), data=DATA)


@dataclass
class Picture:
    """A session, as it should be."""

    user: str
    log: list[NewEvent] = field(default_factory=list)
    history: list[str] = field(default_factory=list)


@dataclass
class Moment:
    """A snapshot, as it should be."""

    user: str
    state: bytes
    log: list[NewEvent]
    history: list[str]
    tag: str | None = None


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.where = self.place()
        self.archive = Archive(self.where)
        self.sessions: dict[str, Picture] = {}
        self.snapshots: dict[str, Moment] = {}
        self.threads = 0

    def place(self) -> str:
        return str(Path(self.folder.name) / "memory.db")

    def of(self, user: str) -> UserArchive:
        return self.archive.user("acme", user)

    def teardown(self) -> None:
        self.archive.close()
        self.folder.cleanup()

    def session_id(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.sessions, key=list(self.sessions).index)))

    def snapshot_id(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.snapshots, key=list(self.snapshots).index)))

    def new_thread(self) -> str:
        self.threads += 1
        return f"thread-{self.threads}"

    @initialize(user=st.sampled_from(USERS))
    def first(self, user: str) -> None:
        self.open(user)

    @rule(user=st.sampled_from(USERS))
    def open(self, user: str) -> None:
        record = opened(self.of(user), self.new_thread())
        self.sessions[record.id] = Picture(user)

    @rule(data=st.data(), events=st.lists(SAID | MARKS, max_size=3))
    def append(self, data: st.DataObject, events: list[NewEvent]) -> None:
        name = self.session_id(data)
        written = self.of(self.sessions[name].user).append(name, events)
        assert [one.seq for one in written] == list(
            range(len(self.sessions[name].log), len(self.sessions[name].log) + len(events))
        )
        self.sessions[name].log += events

    @rule(data=st.data(), marks=st.lists(MARKS, max_size=2), state=st.binary(min_size=1, max_size=40))
    def commit(self, data: st.DataObject, marks: list[NewEvent], state: bytes) -> None:
        name = self.session_id(data)
        picture = self.sessions[name]
        parent = picture.history[-1] if picture.history else None
        snapshot = slept(
            self.of(picture.user), name, state, events=marks, expected_head=parent, expected_events=len(picture.log)
        )
        picture.log += marks
        start = len(self.snapshots[parent].log) if parent else 0
        assert (snapshot.parent, snapshot.span) == (parent, (start, len(picture.log)))
        assert snapshot.tokens == sum(len(one.token_ids) for one in picture.log)
        picture.history.append(snapshot.id)
        self.snapshots[snapshot.id] = Moment(picture.user, state, list(picture.log), list(picture.history))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), mark=MARKS)
    def lose_a_race(self, data: st.DataObject, mark: NewEvent) -> None:
        name, other = self.session_id(data), self.snapshot_id(data)
        head = self.sessions[name].history[-1] if self.sessions[name].history else None
        wrong = other if other != head else None
        with pytest.raises(SnapshotConflict):
            slept(self.of(self.sessions[name].user), name, b"lost", events=[mark], expected_head=wrong)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        name = self.snapshot_id(data)
        moment = self.snapshots[name]
        record = self.of(moment.user).fork(name, self.new_thread())
        assert record.forked_from == name
        self.sessions[record.id] = Picture(moment.user, list(moment.log), list(moment.history))
        with pytest.raises(InputError):
            self.of(moment.user).fork(name, record.scope.thread)

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data(), tag=st.none() | st.text("ab", min_size=1, max_size=3))
    def tag(self, data: st.DataObject, tag: str | None) -> None:
        name = self.snapshot_id(data)
        self.of(self.snapshots[name].user).tag(name, tag)
        self.snapshots[name].tag = tag

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def trespass(self, data: st.DataObject) -> None:
        name = self.snapshot_id(data)
        other = self.of(next(user for user in USERS if user != self.snapshots[name].user))
        calls: list[Any] = [other.snapshot, other.load_state]
        for call in calls:
            with pytest.raises(SnapshotNotFound):
                call(name)
        with pytest.raises(SnapshotNotFound):
            other.fork(name, self.new_thread())

    @rule()
    def reopen(self) -> None:
        self.archive.close()
        self.archive = Archive(self.where)

    @rule(data=st.data(), start=st.integers(0, 12), stop=st.none() | st.integers(0, 12))
    def slice(self, data: st.DataObject, start: int, stop: int | None) -> None:
        name = self.session_id(data)
        found = self.of(self.sessions[name].user).events(name, start, stop)
        assert [one.seq for one in found] == list(range(len(self.sessions[name].log)))[start:stop]

    @invariant()
    def logs_agree(self) -> None:
        for name, picture in self.sessions.items():
            found = self.of(picture.user).events(name)
            record = self.of(picture.user).session(name)
            assert (record.events, record.head) == (len(picture.log), picture.history[-1] if picture.history else None)
            position = 0
            for one, wanted in zip(found, picture.log, strict=True):
                assert (one.kind, one.role, one.token_ids) == (wanted.kind, wanted.role, wanted.token_ids)
                assert (one.text, one.data, one.position) == (wanted.text, wanted.data, position)
                position += len(one.token_ids)
            assert record.tokens == position

    @invariant()
    def histories_agree(self) -> None:
        for name, picture in self.sessions.items():
            found = self.of(picture.user).snapshots(name)
            assert [one.id for one in found] == picture.history
            assert [one.tag for one in found] == [self.snapshots[one].tag for one in picture.history]
        for name, moment in self.snapshots.items():
            assert loaded(self.of(moment.user), name) == moment.state

    @invariant()
    def lists_agree(self) -> None:
        for user in USERS:
            found = [one.id for one in self.of(user).sessions()]
            assert found == [name for name, picture in self.sessions.items() if picture.user == user]


OPTIONS = settings(max_examples=15, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))


def test_the_archive_agrees_with_its_model_on_sqlite() -> None:
    run_state_machine_as_test(Machine, settings=OPTIONS)


def test_the_archive_agrees_with_its_model_on_postgresql(postgres_server: PostgresServer) -> None:
    name = postgres_server.create()

    class OnServer(Machine):
        def place(self) -> str:
            postgres_server.clean(name)
            return postgres_server.url(name)

    try:
        run_state_machine_as_test(OnServer, settings=settings(OPTIONS, max_examples=6))
    finally:
        postgres_server.drop(name)
