"""The short form of `make soak`, and proof that it would notice."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agentsleep.archive import chunks
from tests.archive.helpers import ROOT
from tests.postgres import PostgresServer
from tests.soak.__main__ import CHUNK_BYTES, Soak, document, kills
from tests.soak.ledger import Entry, Ledger, Picture, Thread
from tests.soak.life import Life
from tests.soak.places import SqlitePlace
from tests.soak.points import Name, kind_of


@pytest.fixture(scope="module")
def soak(tmp_path_factory: pytest.TempPathFactory) -> Soak:
    return Soak(tmp_path_factory.mktemp("soak"))


@pytest.fixture
def life(soak: Soak, monkeypatch: pytest.MonkeyPatch) -> Life:
    """One that has not begun, on SQLite."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", CHUNK_BYTES)
    return soak.life(0, 3, None)


def begun(life: Life) -> Life:
    """At the beginning of an empty archive, without a model."""
    life.level, life.beginning, life.ledger = "archive", "fresh", Ledger()
    life.where = life.place.begin("fresh")
    return life


def test_kills_take_nothing_back_on_sqlite(soak: Soak) -> None:
    assert [one.findings for one in kills(soak.life(0, 1, None), 100, 60) if one.findings] == []


def test_kills_take_nothing_back_on_postgresql(soak: Soak, postgres_server: PostgresServer) -> None:
    assert [one.findings for one in kills(soak.life(0, 2, postgres_server), 30, 60) if one.findings] == []


@pytest.mark.slow
def test_many_kills_take_nothing_back(soak: Soak, postgres_server: PostgresServer) -> None:
    for server, number in ((None, 100), (postgres_server, 40)):
        found = list(kills(soak.life(1, 4, server), number, 600))
        assert [one.findings for one in found if one.findings] == []
        assert {one.level for one in found} == {"archive", "memory"}


@pytest.mark.parametrize(("point", "there"), [("before INSERT events", 0), ("before COMMIT", 0), ("after COMMIT", 1)])
def test_a_process_dies_at_its_point(life: Life, point: str, there: int) -> None:
    target: Name = ("add", point)
    # The first transaction of an add makes the session, the second one the message.
    for seed in range(20):
        acks, trying, hit, stuck = begun(life)._process(target, seed)
        assert stuck == []
        if hit == target and trying and trying["key"] not in {one["key"] for one in acks}:
            break
    else:
        pytest.fail(f"no process died at {target}")
    for did in acks:
        life.ledger.apply(did)
    assert life._check(trying) == []
    lasting = life.ledger.known.threads.get(trying["key"])
    assert (lasting is None or lasting.texts in ([], trying["texts"])) if there else not (lasting and lasting.texts)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM events WHERE seq = 0", "Damaged|missing|lost"),
        ("UPDATE chunks SET refs = refs + 1", "references"),
        ("UPDATE snapshots SET tag = 'other'", "tag"),
        ("DELETE FROM sessions", "lost|foreign keys"),
    ],
)
def test_damage_is_found(life: Life, statement: str, says: str) -> None:
    life.rng.seed(5)
    begun(life)
    for seed in range(40):
        acks, trying, _hit, stuck = life._process(("nothing", "never"), seed)
        assert stuck == []
        for did in acks:
            life.ledger.apply(did)
        assert life._check(trying) == []
        if any(thread.history and thread.texts for thread in life.ledger.known.threads.values()):
            break
    assert isinstance(life.place, SqlitePlace)
    raw = sqlite3.connect(life.place.path)
    with raw:
        changed = raw.execute(statement).rowcount
    raw.close()
    assert changed
    assert re.search(says, "; ".join(life.place.settle() + life._check(None)))


SEEN = Thread(["a", "b"], ["s1"])


@pytest.mark.parametrize(
    ("found", "trying", "says"),
    [
        ({}, None, "lost"),
        ({"ada/t": Thread(["a"], ["s1"])}, None, "should begin with"),
        ({"ada/t": Thread(["a", "b", "c"], ["s1"])}, None, "nobody has finished"),
        ({"ada/t": Thread(["a", "b", "c"], ["s1"])}, {"op": "add", "key": "ada/t", "texts": ["c", "d"]}, "nobody"),
        ({"ada/t": Thread(["a", "b"], [])}, None, "should have the snapshots"),
        (
            {"ada/t": Thread(["a", "b"], ["s1", "s2"])},
            {"op": "tag", "key": "ada/t", "snapshot": "s1", "tag": "x"},
            "s2",
        ),
        ({"ada/t": SEEN, "ada/u": SEEN}, None, "came from nowhere"),
        ({"ada/t": Thread(["a", "b", "gone"], ["s1"])}, None, "is back"),
        ({}, {"op": "forget", "key": "ada/t", "texts": ["a"]}, "lost"),
        ({"ada/t": Thread(["a"], ["s1"])}, {"op": "rollback", "key": "ada/t", "new": "ada/v"}, "should begin with"),
    ],
)
def test_the_ledger_misses_what_is_lost_half_or_back(found: dict[str, Thread], trying: Entry | None, says: str) -> None:
    ledger = Ledger()
    ledger.settle(Picture({"ada/t": SEEN}, {"s1": None}))
    ledger.forgotten = {"gone"}
    assert says in "; ".join(ledger.compare(Picture(found, {"s1": None}), trying))


@pytest.mark.parametrize(
    ("found", "trying"),
    [
        ({"ada/t": SEEN}, None),
        ({"ada/t": Thread(["a", "b", "c", "d"], ["s1"])}, {"op": "add", "key": "ada/t", "texts": ["c", "d"]}),
        ({"ada/t": Thread(["a", "b"], ["s1", "s2"])}, {"op": "sleep", "key": "ada/t"}),
        ({"ada/t": Thread(["b"], ["s9"])}, {"op": "forget", "key": "ada/t", "texts": ["a"]}),
        ({"ada/t": Thread(["a"], ["s1"]), "ada/v": SEEN}, {"op": "rollback", "key": "ada/t", "new": "ada/v"}),
        ({}, {"op": "forget user", "key": "ada/t"}),
        ({"ada/t": SEEN, "ada/f": SEEN}, {"op": "fork", "key": "ada/t", "new": "ada/f"}),
    ],
)
def test_what_was_begun_may_have_happened(found: dict[str, Thread], trying: Entry | None) -> None:
    ledger = Ledger()
    ledger.settle(Picture({"ada/t": SEEN}, {"s1": None}))
    assert ledger.compare(Picture(found, {"s1": None}), trying) == []


@pytest.mark.parametrize(
    ("statement", "kind"),
    [
        ("INSERT INTO chunks (scope_id) VALUES (?)", "INSERT chunks"),
        ('SELECT 1 FROM agentsleep."events"', "SELECT"),
        ("\nSELECT a FROM events WHERE 1", "SELECT events"),
        ("UPDATE sessions SET head_id = 1", "UPDATE sessions"),
        ("BEGIN IMMEDIATE", "BEGIN"),
        ("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA wal_checkpoint"),
        ("CREATE TABLE chunks (id)", "CREATE TABLE"),
        ("VACUUM FULL agentsleep.events", "VACUUM events"),
        ("", "nothing"),
    ],
)
def test_statements_have_kinds(statement: str, kind: str) -> None:
    assert kind_of(statement).startswith(kind)


@pytest.mark.slow
def test_the_driver_tells_its_figures(tmp_path: Path) -> None:
    run = [sys.executable, "-m", "tests.soak", "--kills", "3", "--lanes", "2", "--folder", str(tmp_path), "--json"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    figures: dict[str, Any] = json.loads(done.stdout)
    assert (figures["kills"], figures["with_findings"], figures["ended"]) == (3, 0, True)
    assert sum(figures["failpoints"].values()) == 3
    assert list(tmp_path.iterdir()) == []


def test_findings_are_told() -> None:
    one: dict[str, Any] = {"op": "add", "point": "before COMMIT", "level": "archive", "beginning": "fresh"}
    bad = {**one, "acknowledged": 3, "findings": ["lost"]}
    figures = document([bad, {**bad, "findings": [], "point": "at random"}], "sqlite", 0, 1.0, True)
    assert (figures["at_failpoints"], figures["at_random"], figures["with_findings"]) == (1, 1, 1)
    assert figures["findings"] == [bad]
