"""Eight processes on one session: nothing that was acknowledged is lost, and nobody is told that it is locked."""

from __future__ import annotations

import json
import multiprocessing
import os
import sqlite3
import traceback
import warnings
from multiprocessing.synchronize import Barrier
from typing import Any

import pytest

from agentsleep.archive import Archive, NewEvent
from agentsleep.errors import SnapshotConflict
from tests.archive.helpers import opened, said, slept

PROCESSES = 8
EVERY = 5  # of a writer's operations, one is a snapshot
Told = dict[str, Any]


def write(where: str, writer: int, operations: int, together: Barrier) -> Told:
    """Appends to one session, and moves its head; returns what was acknowledged."""
    told: Told = {"appended": [], "snapshots": [], "conflicts": 0}
    with Archive(where) as archive:
        ada = archive.user("acme", "ada")
        session = opened(ada, "shared")
        expected = ada.session(session.id).head
        together.wait()  # all start from one head: one of them moves it
        for i in range(operations):
            if i % EVERY:
                (event,) = ada.append(session.id, [said(writer, i, text=f"{writer}-{i}")])
                told["appended"].append((event.seq, event.position, i))
                continue
            while True:
                mark = NewEvent(kind="sleep", data={"writer": writer, "i": i})
                state = f"state {i % 10} ".encode() * 50  # the same from several writers: its chunks are shared
                try:
                    made = slept(ada, session.id, state, events=[mark], expected_head=expected)
                except SnapshotConflict:
                    told["conflicts"] += 1
                    expected = ada.session(session.id).head
                else:
                    told["snapshots"].append((made.id, made.parent, i))
                    expected = ada.session(session.id).head
                    break
    return told


def forked(where: str, operations: int) -> list[Told]:
    """What each of the processes was told."""
    together = multiprocessing.get_context("fork").Barrier(PROCESSES, timeout=120)
    running = []
    for writer in range(PROCESSES):
        source, sink = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # the child has no use for threads of libraries
            pid = os.fork()
        if not pid:
            with os.fdopen(sink, "w") as out:
                try:
                    out.write(json.dumps(write(where, writer, operations, together)))
                except BaseException:
                    together.abort()
                    out.write(json.dumps({"failed": traceback.format_exc()}))
                out.flush()
                os._exit(0)
        os.close(sink)
        running.append((pid, source))
    told = []
    for pid, source in running:
        with os.fdopen(source) as pipe:
            told.append(json.loads(pipe.read()))
        os.waitpid(pid, 0)
    return told


def lose_nothing(where: str, operations: int) -> None:
    with Archive(where) as archive:
        opened(archive.user("acme", "ada"), "shared")
    told = forked(where, operations)
    assert [one["failed"] for one in told if "failed" in one] == []
    assert sum(one["conflicts"] for one in told) >= PROCESSES - 1
    with Archive(where) as archive:
        ada = archive.user("acme", "ada")
        record = opened(ada, "shared")
        log, history = ada.events(record.id), ada.snapshots(record.id)
        assert ada.verify().findings == ()
    assert len(log) == record.events == PROCESSES * operations
    # Every append is there once, where its writer was told, in the writer's order.
    for writer, one in enumerate(told):
        mine = [
            (event.seq, event.position, event.token_ids[1])
            for event in log
            if event.kind == "tokens" and event.token_ids[0] == writer
        ]
        assert mine == [tuple(each) for each in one["appended"]]
    position = 0
    for event in log:
        assert event.position == position
        position += len(event.token_ids)
    assert record.tokens == position
    # The head moved by one snapshot at a time: a line without a branch, and without those that lost a race.
    acknowledged = {made: parent for one in told for made, parent, _i in one["snapshots"]}
    assert {one.id: one.parent for one in history} == acknowledged
    assert [one.parent for one in history] == [None, *[one.id for one in history[:-1]]]
    assert record.head == history[-1].id
    marks = sorted((event.data["writer"], event.data["i"]) for event in log if event.kind == "sleep")
    assert marks == [(writer, i) for writer in range(PROCESSES) for i in range(0, operations, EVERY)]
    if not where.startswith("postgresql:"):
        raw = sqlite3.connect(where)
        assert raw.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
        raw.close()


def test_eight_processes_lose_nothing(where: str) -> None:
    lose_nothing(where, 25)


@pytest.mark.slow
def test_eight_processes_lose_nothing_over_many_operations(where: str) -> None:
    lose_nothing(where, 200)
