"""What changes an archive besides appending: forks, rollbacks, pruning, forgetting, against a model in plain dicts.

`test_property.py` draws logs of every form; here texts are plain, and states go and come again.
"""

from __future__ import annotations

import hashlib
import tempfile
import uuid
from dataclasses import dataclass, field, replace
from pathlib import Path

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

from agentsleep.archive import Archive, Event, Line, Regrowth, Retention, TensorBytes, UserArchive, chunks, regrow
from agentsleep.errors import SnapshotConflict, SnapshotNotFound, SnapshotPruned
from tests.archive.helpers import count, opened, said, slept, tensor
from tests.postgres import PostgresServer

MOST_SESSIONS = 5


@dataclass
class Sleep:
    """A snapshot, as it should be. log: texts up to it, None for a mark."""

    log: list[str | None]
    line: list[str]
    stored: bool = True
    tag: str | None = None


@dataclass
class Thread:
    """A session, as it should be."""

    log: list[str | None] = field(default_factory=list)
    line: list[str] = field(default_factory=list)


def state_of(log: list[str | None]) -> list[TensorBytes]:
    """A function of what was said: one part for all of it, one for every four texts, one that never changes."""
    texts = [text for text in log if text is not None]
    whole, old = (hashlib.sha256(repr(part).encode()).digest() for part in (texts, texts[: len(texts) // 4 * 4]))
    return [tensor(whole * 3, "a"), tensor(old * 2, "b"), tensor(bytes(40), "c"), tensor(b"", "empty")]


def token_of(text: str) -> int:
    return int(text.split()[1])


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.where = self.place()
        self.archive = Archive(self.where, synchronous="NORMAL", retention=None)
        self.threads: dict[str, Thread] = {}
        self.sleeps: dict[str, Sleep] = {}
        self.made = 0

    def place(self) -> str:
        return str(Path(self.folder.name) / "memory.db")

    def teardown(self) -> None:
        self.archive.close()
        self.folder.cleanup()

    @property
    def ada(self) -> UserArchive:
        return self.archive.user("acme", "ada")

    def new(self) -> int:
        self.made += 1
        return self.made

    def drawn(self, data: st.DataObject, names: list[str]) -> str:
        return data.draw(st.sampled_from(names))

    def id_of(self, thread: str) -> str:
        return str(self.ada.find(thread).id)

    # Rules

    @initialize()
    def first(self) -> None:
        self.open()

    @precondition(lambda self: len(self.threads) < MOST_SESSIONS)
    @rule()
    def open(self) -> None:
        thread = f"thread-{self.new()}"
        opened(self.ada, thread)
        self.threads[thread] = Thread()

    @rule(data=st.data(), number=st.integers(1, 3))
    def append(self, data: st.DataObject, number: int) -> None:
        thread = self.drawn(data, list(self.threads))
        texts = [f"text {self.new()}" for _ in range(number)]
        self.ada.append(self.id_of(thread), [said(token_of(text), text=text) for text in texts])
        self.threads[thread].log += texts

    @rule(data=st.data())
    def sleep(self, data: st.DataObject) -> None:
        thread = self.drawn(data, list(self.threads))
        mine = self.threads[thread]
        head = mine.line[-1] if mine.line else None
        made = slept(self.ada, self.id_of(thread), state_of(mine.log), expected_head=head)
        mine.log.append(None)
        mine.line.append(made.id)
        self.sleeps[made.id] = Sleep(list(mine.log), list(mine.line))

    @precondition(lambda self: self.sleeps)
    @rule(data=st.data(), tag=st.sampled_from([None, "good", "better"]))
    def tag(self, data: st.DataObject, tag: str | None) -> None:
        name = self.drawn(data, list(self.sleeps))
        self.ada.tag(name, tag)
        self.sleeps[name].tag = tag

    @precondition(lambda self: self.sleeps and len(self.threads) < MOST_SESSIONS)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        name, thread = self.drawn(data, list(self.sleeps)), f"thread-{self.new()}"
        self.ada.fork(name, thread)
        self.threads[thread] = Thread(list(self.sleeps[name].log), list(self.sleeps[name].line))

    @precondition(lambda self: self.sleeps and len(self.threads) < MOST_SESSIONS)
    @rule(data=st.data())
    def rollback(self, data: st.DataObject) -> None:
        thread, aside = self.drawn(data, list(self.threads)), f"aside-{self.new()}"
        name = self.drawn(data, list(self.sleeps))
        if name not in self.threads[thread].line:
            with pytest.raises(SnapshotNotFound):
                self.ada.rollback(self.id_of(thread), name, aside)
            return
        self.ada.rollback(self.id_of(thread), name, aside)
        self.threads[aside] = self.threads[thread]
        self.threads[thread] = Thread(list(self.sleeps[name].log), list(self.sleeps[name].line))

    @precondition(lambda self: self.sleeps)
    @rule(keep=st.integers(1, 3))
    def prune(self, keep: int) -> None:
        newest = {name for thread in self.threads.values() for name in thread.line[-keep:]}
        going = {n for n, one in self.sleeps.items() if one.stored and one.tag is None and n not in newest}
        planned = self.ada.plan_pruning(Retention(keep_last=keep))
        pruned = self.ada.prune(Retention(keep_last=keep))
        assert {one.snapshot_id for one in pruned.snapshots} == going
        assert (planned.snapshots, planned.bytes) == (pruned.snapshots, pruned.bytes)
        for name in going:
            self.sleeps[name].stored = False

    @precondition(lambda self: any(any(thread.log) for thread in self.threads.values()))
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        texts = sorted({text for thread in self.threads.values() for text in thread.log if text}, key=token_of)
        text = self.drawn(data, texts)
        condemned = {name for name, one in self.sleeps.items() if text in one.log}
        regrowths, after = [], {}
        for thread, mine in self.threads.items():
            if text in mine.log:
                growth, after[thread] = self.regrown(thread, mine, text)
                regrowths.append(growth)
        stale = [replace(regrowths[0], expected_events=regrowths[0].expected_events + 1), *regrowths[1:]]
        with pytest.raises(SnapshotConflict):
            regrow(self.ada, stale, condemned, 1)
        self.nothing_is_half()
        regrow(self.ada, regrowths, condemned, 1)
        self.threads |= after
        for name in condemned:
            with pytest.raises(SnapshotNotFound):
                self.ada.snapshot(name)
            del self.sleeps[name]
        assert self.ada.search(f'"{text}"') == []

    def regrown(self, thread: str, mine: Thread, text: str) -> tuple[Regrowth, Thread]:
        """What becomes of a thread without the text, for the archive and for the model."""
        record = self.ada.find(thread)
        log, line = self.ada.events(record.id), self.ada.snapshots(record.id)
        unseen = [one for one in line if text not in self.sleeps[one.id].log]
        base = unseen[-1] if unseen else None
        start, position = (base.span[1], base.tokens) if base else (0, 0)
        events: list[Event] = []
        for event in log[start:]:
            if event.text != text:
                events.append(replace(event, seq=start + len(events), position=position))
                position += len(event.token_ids)
        new = Thread([one for one in mine.log if one != text], [one.id for one in unseen])
        snapshots, states, before = [], {}, start
        for one in line[len(unseen) :]:
            known = self.sleeps[one.id]
            kept = [each for each in known.log if each != text]
            name = uuid.UUID(int=self.new()).hex
            span, tokens = (before, len(kept)), sum(each is not None for each in kept)
            if known.stored:
                states[name] = state_of(kept)
            size = sum(len(each.view()) for each in state_of(kept))
            snapshots.append(replace(one, id=name, span=span, tokens=tokens, state_bytes=size))
            new.line.append(name)
            self.sleeps[name] = Sleep(kept, list(new.line), known.stored, known.tag)
            before = len(kept)
        growth = Regrowth(
            session_id=record.id,
            base=base,
            expected_head=record.head,
            expected_events=record.events,
            line=Line(events=events, snapshots=snapshots, states=states),
        )
        return growth, new

    @rule()
    def reopen(self) -> None:
        self.archive.close()
        self.archive = Archive(self.where, synchronous="NORMAL", retention=None)

    # Invariants

    @invariant()
    def threads_agree(self) -> None:
        records = {one.scope.thread: one for one in self.ada.sessions()}
        assert records.keys() == self.threads.keys()
        for name, mine in self.threads.items():
            record = records[name]
            log = self.ada.events(record.id)
            assert [one.text for one in log] == mine.log
            assert [one.token_ids for one in log] == [() if text is None else (token_of(text),) for text in mine.log]
            assert (record.events, record.tokens) == (len(mine.log), sum(text is not None for text in mine.log))
            assert [one.id for one in self.ada.snapshots(record.id)] == mine.line
            assert record.head == (mine.line[-1] if mine.line else None)

    @invariant()
    def states_agree(self) -> None:
        assert {one.id for one in self.ada.all_snapshots()} == self.sleeps.keys()
        held = set()
        for name, one in self.sleeps.items():
            found = self.ada.snapshot(name)
            assert (found.status == "stored", found.tag, found.span[1]) == (one.stored, one.tag, len(one.log))
            if not one.stored:
                with pytest.raises(SnapshotPruned):
                    self.ada.load_state(name)
                continue
            wanted = [(each.name, bytes(each.view())) for each in state_of(one.log)]
            assert [(each.name, bytes(each.view())) for each in self.ada.load_state(name)] == wanted
            size = chunks.CHUNK_BYTES
            held |= {data[i : i + size] for _name, data in wanted for i in range(0, len(data), size)}
        assert count(self.ada, "chunks") == len(held)  # each once, and none that nothing refers to

    @invariant()
    def nothing_is_half(self) -> None:
        assert self.ada.verify().findings == ()


OPTIONS = settings(max_examples=5, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 32)


def test_the_archive_agrees_with_its_model_on_sqlite() -> None:
    run_state_machine_as_test(Machine, settings=OPTIONS)


@pytest.mark.slow
def test_the_archive_agrees_with_its_model_over_long_lives() -> None:
    run_state_machine_as_test(Machine, settings=settings(OPTIONS, max_examples=60, stateful_step_count=40))


def test_the_archive_agrees_with_its_model_on_postgresql(postgres_server: PostgresServer) -> None:
    name = postgres_server.create()

    class OnServer(Machine):
        def place(self) -> str:
            postgres_server.clean(name)
            return postgres_server.url(name)

    try:
        run_state_machine_as_test(OnServer, settings=settings(OPTIONS, max_examples=2))
    finally:
        postgres_server.drop(name)
