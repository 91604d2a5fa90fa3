"""One archive, and the processes that are killed while they write to it."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import time
import traceback
import uuid
import warnings
from collections import Counter, defaultdict
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsleep.archive import Archive
from agentsleep.errors import AgentsleepError
from agentsleep.memory import SleepMemory
from tests.archive.test_migrations import old_file
from tests.memory.helpers import assert_whole
from tests.soak.hands import FEW, ArchiveHand, Hand, state_of
from tests.soak.ledger import USERS, Entry, Ledger, Picture, Thread, read
from tests.soak.memory_hand import MemoryHand
from tests.soak.places import PATIENCE_S, Place
from tests.soak.points import Name, Points

AT_RANDOM = "at random"
BETWEEN = "between operations"


@dataclass
class Kill:
    """A process that was killed, and what was found after it."""

    op: str
    point: str
    level: str
    beginning: str
    acknowledged: int
    findings: list[str]


@dataclass
class Life:
    """Kills processes on one archive after the other.

    memory: with its model loaded and no archive open; processes are forked with it.
    """

    place: Place
    memory: SleepMemory
    rng: random.Random
    known: dict[str, set[Name]] = field(default_factory=lambda: defaultdict(set))
    hits: Counter[Name] = field(default_factory=Counter)
    _left: int = 0
    _pace: float = 0.05  # seconds that an operation takes, for the random times

    def kill(self) -> Kill:
        """One more process, and the check after it."""
        if not self._left:
            self.level = "memory" if self.rng.random() < 0.2 else "archive"
            self.beginning = self.rng.choice(self.place.beginnings)
            if self.beginning == "old":
                self.level = "archive"
            self.where, self.ledger = self.place.begin(self.beginning), Ledger()
            if self.beginning == "old":
                self.ledger.settle(deepcopy(_OLD))
            self._left, self._first = self.rng.randint(4, 10), True
        self._left -= 1
        target = self._target()
        self._first = False
        seed = self.rng.getrandbits(32)
        acks, trying, hit, stuck = self._process(target, seed)
        for did in acks:
            self.ledger.apply(did)
        self.hits[hit] += 1
        findings = stuck + self.place.settle() + self._check(trying)
        if findings:
            self._left = 0
            findings.append(f"seed {seed}, target {target}, trying {trying}")
        return Kill(*hit, self.level, self.beginning, len(acks), findings)

    @property
    def _ours(self) -> set[Name]:
        """Points that processes of this kind of life are known to pass."""
        return self.known[f"{self.level} {self.beginning}"]

    def _target(self) -> Name | None:
        """Of the points that are known, one of those that were hit least; None: a random time."""
        opens = self._first and self.rng.random() < 0.6
        usable = [name for name in self._ours if (name[0] == "open") is opens]
        if not usable or self.rng.random() < (0.3 if opens else 0.45):
            return None
        least = min(self.hits[name] for name in usable)
        return self.rng.choice(sorted(name for name in usable if self.hits[name] == least))

    # The process

    def _process(self, target: Name | None, seed: int) -> tuple[list[Entry], Entry | None, Name, list[str]]:
        """What it acknowledged, what it had begun, where it was killed, and what went wrong in it."""
        source, sink = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries, which the child has no use for
            pid = os.fork()
        if not pid:
            os.close(source)
            self._child(sink, target, seed)
        os.close(sink)
        began = time.monotonic()
        due = began + self.rng.uniform(0.0, 15 * self._pace) if target is None else began + PATIENCE_S
        data, stuck, killed = b"", [], False
        while True:
            wait = PATIENCE_S if killed else max(0.0, due - time.monotonic())
            if select.select([source], [], [], wait)[0]:
                part = os.read(source, 65536)
                if not part:
                    break
                data += part
            elif not killed:
                killed = True
                os.kill(pid, signal.SIGKILL)
                if target is not None:
                    stuck = [f"stuck for {PATIENCE_S:g} s"]
            else:
                stuck = ["not to be killed"]
                break
        os.close(source)
        _pid, status = os.waitpid(pid, 0)
        acks, trying = [], None
        hit: Name = ("open", AT_RANDOM)
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue  # killed while it spoke: that was not yet said
            entry = json.loads(line)
            if "point" in entry:
                self._ours.add(tuple(entry["point"]))
            elif "trying" in entry:
                trying, hit = entry["trying"], (entry["trying"]["op"], AT_RANDOM)
            elif "did" in entry:
                acks.append(entry["did"])
                trying, hit = None, ("nothing", AT_RANDOM)
            elif "hit" in entry:
                hit = tuple(entry["hit"])
            elif "failed" in entry:
                stuck.append(entry["failed"])
        if acks and not stuck:
            self._pace += 0.1 * ((time.monotonic() - began) / (len(acks) + 1) - self._pace)
        if os.WTERMSIG(status) != signal.SIGKILL and not stuck:
            stuck.append(f"ended with status {status} before it was killed")
        return acks, trying, hit, stuck

    def _child(self, sink: int, target: Name | None, seed: int) -> None:
        """Runs in the fork, and never returns."""
        try:

            def say(**what: Any) -> None:
                os.write(sink, json.dumps(what).encode() + b"\n")

            rng = random.Random(seed)
            points = Points(self._ours, say)
            points.watch()
            if target is not None and target[0] == "open":
                points.arm(target, rng.choice((1, 1, 2, 4)))
            archive = Archive(self.where, synchronous=rng.choice(("FULL", "NORMAL")), retention=None)
            points.arm(None)
            points.doing = ""
            hand: Hand = ArchiveHand(archive, rng, say)
            if self.level == "memory":
                archive.retention = FEW if rng.random() < 0.3 else None
                self.memory.archive = archive
                hand = MemoryHand(self.memory, rng, say)
            for _ in range(rng.randint(0, 3)):
                _step(hand, points, rng.choice(hand.ops))
            if target is not None:
                for times in (rng.choice((1, 1, 2, 3, 5)), 1, 1, 1):
                    points.arm(target, times)
                    _step(hand, points, target[0] if target[0] in hand.ops else rng.choice(hand.ops))
                say(hit=("nothing", BETWEEN))
                os.kill(os.getpid(), signal.SIGKILL)
            while True:
                _step(hand, points, rng.choice(hand.ops))
        except BaseException:
            say(failed=traceback.format_exc()[-3000:])
        finally:
            os._exit(1)

    # The check

    def _check(self, trying: Entry | None) -> list[str]:
        """Opens the archive as the next process would."""
        try:
            with Archive(self.where, retention=None) as archive:
                found = read(archive)
                wrong = self.ledger.compare(found, trying)
                for tenant, user in archive.users():
                    report = archive.user(tenant, user).verify()
                    wrong += [f"verify: {one}" for one in report.findings]
                wrong += self._states(archive) if self.level == "archive" else self._sessions(archive, found)
                # Opening a session made the sleep that was due when its writer was killed.
                found = read(archive) if self.level == "memory" else found
            codes = [{one for one in texts if len(one) == 11} for texts in (self.ledger.forgotten, self.ledger.purged)]
            wrong += self.place.left(*codes)  # texts of the old file are said by others, too
            self.ledger.settle(found)
        except (AgentsleepError, AssertionError):
            return [traceback.format_exc()[-3000:]]
        return wrong

    def _states(self, archive: Archive) -> list[str]:
        wrong = []
        for user in USERS:
            part = archive.user("acme", user)
            for session in part.sessions():
                log = part.events(session.id)
                for snapshot in part.snapshots(session.id):
                    if snapshot.status == "stored" and snapshot.environment.get("soak"):
                        stored = [(t.name, bytes(t.view())) for t in part.load_state(snapshot.id)]
                        if stored != [(t.name, bytes(t.view())) for t in state_of(log[: snapshot.span[1]])]:
                            wrong.append(f"snapshot {snapshot.id} is not what its log computes to")
        return wrong

    def _sessions(self, archive: Archive, found: Picture) -> list[str]:
        self.memory.archive = archive
        for key in found.threads:
            user, thread = key.split("/", 1)
            with self.memory.session(thread, user=user, tenant="acme", timeout=10) as session:
                assert_whole(session)
        return []


def _step(hand: Hand, points: Points, op: str) -> None:
    op, user, thread = hand.possible(op)
    points.doing = op
    hand.do(op, user, thread)
    points.doing = ""


OLD_IDS = {name: uuid.uuid5(uuid.NAMESPACE_OID, name).hex for name in ("s1", "s2", "s3", "s4", "p1", "p2", "p3", "p4")}
"""Ids as version 1 gave them, for those of `old_file`."""

_P1, _P2, _P3 = (OLD_IDS[name] for name in ("p1", "p2", "p3"))
_OLD = Picture(
    threads={
        "ada/thread-1": Thread(["hello é", "again", "x"], [_P1, _P2]),
        "ada/fork/1": Thread(["hello é", "another way"], [_P1, _P3]),
        "ada/empty": Thread([], []),
    },
    tags={_P1: "first", _P2: None, _P3: None},
)
"""What `old_archive` holds of ada."""


def old_archive(path: Path) -> None:
    """A file of version 1, with ids like those of its time."""
    old_file(path)
    columns = {"sessions": ("id", "head_id", "forked_from"), "events": ("session_id",)}
    columns["snapshots"] = ("id", "session_id", "parent_id")
    raw = sqlite3.connect(path)
    with raw:
        for table, names in columns.items():
            for column in names:
                for old, new in OLD_IDS.items():
                    raw.execute(f"UPDATE {table} SET {column} = ? WHERE {column} = ?", (new, old))
    raw.close()
