"""``agentsleep snapshots forget``: what goes, what is read again, and that nothing goes unasked."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agentsleep.archive import Archive
from agentsleep.cli import app
from agentsleep.memory import SleepMemory
from tests.memory.helpers import NEVER, make_nap

SECRET = "bob hands over to carol ."


@dataclass
class World:
    """Thread one says a secret between two facts; thread two, a fork behind it, says it again."""

    path: Path
    model: Path
    seq: int
    fork: int

    @property
    def place(self) -> list[object]:
        """Options that name the archive and the model."""
        return ["--archive", self.path, "--model", self.model]


def fill(memory: SleepMemory) -> tuple[int, int]:
    with memory.session("one") as session:
        session.add("tool", "alice hands over to bob .")
        session.sleep()
        event = session.add("tool", SECRET)
        head = session.sleep()
        session.add("tool", "dave hands over to erin .")
        session.sleep()
    assert head is not None
    with memory.fork(head, "two") as session:
        again = session.add("user", SECRET)
        session.sleep()
    return event.seq, again.seq


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("forget")
    model = make_nap(folder / "model")
    with SleepMemory(model, archive=folder / "memory.db", policy=NEVER) as memory:
        seq, fork = fill(memory)
    return World(folder / "memory.db", model, seq, fork)


@pytest.fixture
def world(filled, tmp_path) -> World:
    """A copy that a test may change."""
    with closing(sqlite3.connect(filled.path)) as source, closing(sqlite3.connect(tmp_path / "memory.db")) as target:
        source.backup(target)
    return World(tmp_path / "memory.db", filled.model, filled.seq, filled.fork)


def said(path: object) -> dict[str, list[str]]:
    """What each thread holds."""
    with Archive(path) as archive:
        theirs = archive.user("default", "default")
        return {one.scope.thread: [e.text for e in theirs.events(one.id) if e.text] for one in theirs.sessions()}


def test_a_message_goes_from_all_that_have_seen_it(cli, world) -> None:
    arguments = ["snapshots", "forget", "one", "--message", world.seq, *world.place]
    planned = json.loads(cli(*arguments, "--dry-run", "--json").stdout)["planned"]
    assert [one["text"] for one in planned["messages"]] == [SECRET]
    assert sorted(planned["rebuilt"]) == ["one", "two"]
    assert [one["thread"] for one in planned["repeats"]] == ["two"]
    document = json.loads(cli(*arguments, "--yes", "--json").stdout)
    assert document["planned"] == planned
    done = document["done"]
    assert done["messages"] == 1
    assert done["snapshots"] == len(planned["snapshots"])
    assert sorted(done["rebuilt"]) == ["one", "two"]
    assert said(world.path)["one"] == ["alice hands over to bob .", "dave hands over to erin ."]
    assert said(world.path)["two"] == ["alice hands over to bob .", SECRET]  # the repeat was listed, and stays


def test_repeats_go_too_if_asked(cli, world) -> None:
    shown = cli("snapshots", "forget", "one", "--message", world.seq, "--cascade", "--yes", *world.place).stdout
    assert "thread 'two' was read again without it" in shown
    assert SECRET not in [text for texts in said(world.path).values() for text in texts]


def test_a_span_and_a_phrase(cli, world) -> None:
    arguments = ["--span", f"{world.seq}:{world.seq + 1}", "--phrase", "DAVE hands", "--dry-run", "--json"]
    planned = json.loads(cli("snapshots", "forget", "one", *arguments, *world.place).stdout)["planned"]
    assert [one["seq"] for one in planned["messages"]] == [world.seq]
    assert "dave hands over to erin ." in [one["text"] for one in planned["repeats"]]


def test_nothing_goes_unasked(world) -> None:
    before = said(world.path)
    arguments = ["snapshots", "forget", "one", "--message", world.seq, *world.place]
    for answer, told in (("n\n", "nothing was forgotten"), ("", "give --yes")):
        result = CliRunner().invoke(app, [str(word) for word in arguments], input=answer)
        assert result.exit_code == 130
        assert SECRET in result.stderr  # what would go was shown first
        assert told in result.stderr
        assert "forgotten:" not in result.stdout  # which has the answer that was typed
    assert said(world.path) == before
    done = CliRunner().invoke(app, [str(word) for word in arguments], input="y\n")
    assert done.exit_code == 0
    assert "forgotten: 1 " in done.stdout


def test_a_dry_run_changes_nothing(cli, world) -> None:
    before = said(world.path)
    shown = cli("snapshots", "forget", "two", "--dry-run", *world.place).stdout
    assert "thread 'two' goes as a whole" in shown
    assert said(world.path) == before


def test_a_thread_goes_and_what_it_came_from_stays(cli, world) -> None:
    before = said(world.path)
    assert "thread 'two' is gone" in cli("snapshots", "forget", "two", "--yes", *world.place).stdout
    assert said(world.path) == {"one": before["one"]}


def test_a_fork_that_said_nothing_goes_alone(cli, world) -> None:
    before = said(world.path)
    head = json.loads(cli("snapshots", "list", "--archive", world.path, "--thread", "one", "--json").stdout)
    cli("snapshots", "fork", head["snapshots"][0]["id"], "idle", "--archive", world.path)
    cli("snapshots", "forget", "idle", "--yes", *world.place)
    assert said(world.path) == before


def test_a_user_goes_without_a_model(cli, world, monkeypatch) -> None:
    monkeypatch.setattr(SleepMemory, "__init__", lambda *_, **__: pytest.fail("no model is needed"))
    place = ["--archive", world.path]
    document = json.loads(cli("snapshots", "forget", "--everything", "--yes", *place, "--json").stdout)
    assert sorted(document["done"]["threads"]) == ["one", "two"]
    assert said(world.path) == {}
    assert "holds nothing of user" in cli.complaint("snapshots", "forget", "--everything", "--yes", *place)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "give a thread"),
        (["one", "--everything"], "give a thread"),
        (["--everything", "--message", 0], "give a thread"),
        (["none"], "no thread 'none'"),
        (["one", "--message", 99], "event 99"),
        (["one", "--message", 1], "is a sleep"),
        (["one", "--span", "3"], "--span is '3'"),
        (["one", "--span", "1:2"], "has no message"),
    ],
)
def test_what_cannot_be_forgotten(cli, filled, words, named) -> None:
    assert named in cli.complaint("snapshots", "forget", *words, "--yes", "--dry-run", *filled.place)


def test_an_interrupt_is_told(cli, world, monkeypatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    before = said(world.path)
    monkeypatch.setattr(SleepMemory, "forget", interrupted)
    arguments = ["snapshots", "forget", "one", "--message", world.seq, "--yes", *world.place]
    assert "all of it was forgotten, or nothing" in cli.complaint(*arguments, code=130)
    assert said(world.path) == before


def test_forget_on_a_server(cli, filled, postgres_url) -> None:
    with SleepMemory(filled.model, archive=postgres_url, policy=NEVER) as memory:
        seq, _fork = fill(memory)
    place = ["--archive", postgres_url, "--model", filled.model]
    cli("snapshots", "forget", "one", "--message", seq, "--cascade", "--yes", *place)
    assert SECRET not in [text for texts in said(postgres_url).values() for text in texts]
    cli("snapshots", "forget", "--everything", "--yes", *place)
    assert said(postgres_url) == {}
