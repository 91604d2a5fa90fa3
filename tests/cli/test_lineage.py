"""``agentsleep snapshots tree``, ``diff``, ``tag``, ``fork``, ``rollback``, ``replay``, ``bisect``, ``recover``,
``rebuild`` and ``search``: what they show, what they change, and what they refuse."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from agentsleep.archive import Archive, Retention, Snapshot
from agentsleep.cli import probe
from agentsleep.memory import SleepMemory
from tests.memory.helpers import NEVER, make_nap

SAID = ["alice", "carol", "dave", "erin", "frank"]


@dataclass
class World:
    """Thread one with five sleeps, and thread two, a fork of its second with one of its own."""

    path: Path
    model: Path
    other: Path
    one: list[Snapshot]
    two: list[Snapshot]

    @property
    def place(self) -> list[object]:
        """Options that name the archive."""
        return ["--archive", self.path]

    @property
    def loaded(self) -> list[object]:
        """And the model."""
        return [*self.place, "--model", self.model]


def fill(memory: SleepMemory) -> tuple[list[Snapshot], list[Snapshot]]:
    with memory.session("one") as session:
        for name in SAID:
            session.add("tool", f"bob hands over to {name} .")
            session.sleep()
        one = session.history()
    with memory.fork(one[1], "two") as session:
        session.add("tool", "carol hands over to bob .")
        session.sleep()
        two = session.history()
    return one, two


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("lineage")
    model, other = make_nap(folder / "model"), make_nap(folder / "other", hidden_size=48)
    with SleepMemory(model, archive=folder / "memory.db", policy=NEVER) as memory:
        one, two = fill(memory)
    return World(folder / "memory.db", model, other, one, two)


@pytest.fixture
def world(filled, tmp_path) -> World:
    """A copy that a test may change."""
    with closing(sqlite3.connect(filled.path)) as source, closing(sqlite3.connect(tmp_path / "memory.db")) as target:
        source.backup(target)
    return World(tmp_path / "memory.db", filled.model, filled.other, filled.one, filled.two)


def threads(path: object) -> dict[str, str | None]:
    with Archive(path) as archive:
        return {one.scope.thread: one.head for one in archive.user("default", "default").sessions()}


# tree


def test_the_tree_shows_lines_forks_and_heads(cli, filled) -> None:
    shown = cli("snapshots", "tree", *filled.place).stdout
    assert all(snapshot.id[:8] in shown for snapshot in [*filled.one, *filled.two])
    assert "← one" in shown
    assert "← two" in shown
    document = json.loads(cli("snapshots", "tree", *filled.place, "--json").stdout)
    line = document["lines"][0]["snapshots"]
    assert [one["id"] for one in line] == [one.id for one in filled.one]
    assert [fork["thread"] for fork in line[1]["forks"]] == ["two"]


def test_the_tree_of_a_thread_leaves_out_strangers(cli, world) -> None:
    with SleepMemory(world.model, archive=world.path, policy=NEVER) as memory, memory.session("apart") as session:
        session.add("user", "the build is late .")
        stranger = session.sleep()
    assert stranger is not None
    shown = cli("snapshots", "tree", *world.place, "--thread", "two").stdout
    assert all(one.id[:8] in shown for one in [*world.one, *world.two])
    assert stranger.id[:8] not in shown
    assert "apart" not in shown
    assert "no thread 'none'" in cli.complaint("snapshots", "tree", *world.place, "--thread", "none")
    assert "no threads of user 'nobody'" in cli("snapshots", "tree", *world.place, "--user", "nobody").stdout


# diff


def test_diff_by_layer_and_head(cli, filled, tmp_path) -> None:
    old, new = filled.one[0], filled.one[-1]
    png = tmp_path / "diff.png"
    document = json.loads(
        cli("snapshots", "diff", old.id[:12], new.id[:12], *filled.place, "--png", png, "--json").stdout
    )
    assert (document["old"], document["new"], document["same"]) == (old.id, new.id, False)
    assert document["total"]["norm_change"] > 0
    assert png.read_bytes().startswith(b"\x89PNG")
    shown = cli("snapshots", "diff", old.id, new.id, *filled.place).stdout
    assert "relative" in shown
    assert "equal in every number" in cli("snapshots", "diff", old.id, old.id, *filled.place).stdout


def test_diff_of_a_pruned_state_needs_the_model(cli, world) -> None:
    with Archive(world.path) as archive:
        archive.user("default", "default").prune(Retention(keep_last=2))
    gone, head = world.one[0].id, world.one[-1].id
    said = cli.complaint("snapshots", "diff", gone, head, *world.place)
    assert "was pruned" in said
    assert "--replay" in said
    again = json.loads(cli("snapshots", "diff", gone, head, *world.loaded, "--replay", "--json").stdout)
    assert again["total"]["norm_change"] > 0
    assert "--model" in cli.complaint("snapshots", "diff", gone, head, *world.place, "--replay", "--model", world.other)


# tag, fork, rollback


def test_a_tag_comes_and_goes(cli, world) -> None:
    cli("snapshots", "tag", world.one[1].id, "good", *world.place)
    assert json.loads(cli("snapshots", "show", "good", *world.place, "--json").stdout)["id"] == world.one[1].id
    assert "has the tag 'good' already" in cli.complaint("snapshots", "tag", world.one[2].id, "good", *world.place)
    document = json.loads(cli("snapshots", "tag", "good", "--remove", *world.place, "--json").stdout)
    assert (document["tag"], document["tag_before"]) == (None, "good")
    assert "has no tag" in cli.complaint("snapshots", "tag", world.one[1].id, "--remove", *world.place)


@pytest.mark.parametrize("words", [[], ["name", "--remove"]])
def test_a_tag_is_given_or_taken(cli, filled, words) -> None:
    assert "either a name" in cli.complaint("snapshots", "tag", filled.one[0].id, *words, *filled.place)


def test_a_fork_needs_no_model(cli, world) -> None:
    cli("snapshots", "fork", world.one[0].id, "three", *world.place)
    assert threads(world.path)["three"] == world.one[0].id
    assert "already" in cli.complaint("snapshots", "fork", world.one[0].id, "three", *world.place)


def test_a_rollback_keeps_what_came_after(cli, world) -> None:
    head, base = world.one[-1].id, world.one[2].id
    document = json.loads(cli("snapshots", "rollback", "one", base, *world.place, "--json").stdout)
    assert document["aside"] == f"one~{head[:8]}"
    assert document["sleeps_aside"] == [one.id for one in world.one[3:]]
    assert threads(world.path) == {"one": base, f"one~{head[:8]}": head, "two": world.two[-1].id}


def test_a_rollback_that_cannot_be_changes_nothing(cli, world) -> None:
    before = threads(world.path)
    assert "does not descend" in cli.complaint("snapshots", "rollback", "one", world.two[-1].id, *world.place)
    said = cli.complaint("snapshots", "rollback", "one", world.one[0].id, "--aside", "two", *world.place)
    assert "--aside" in said
    with SleepMemory(world.model, archive=world.path) as memory, memory.session("one", create=False):
        assert "is being written" in cli.complaint("snapshots", "rollback", "one", world.one[0].id, *world.place)
    assert threads(world.path) == before


# replay, recover, rebuild


def test_replay_is_bit_equal_from_the_beginning_and_from_a_snapshot(cli, filled) -> None:
    document = json.loads(cli("snapshots", "replay", "one", *filled.loaded, "--json").stdout)
    assert document["equal"] is True
    assert document["difference"] == 0
    assert (document["to"], document["sleeps"]) == (filled.one[-1].id, 5)
    arguments = ["--from", filled.one[0].id, "--to", filled.one[2].id]
    assert "2 sleeps computed again: bit-equal" in cli("snapshots", "replay", "one", *arguments, *filled.loaded).stdout


def test_replay_tells_how_far_it_is_away(cli, filled) -> None:
    document = json.loads(cli("snapshots", "replay", "one", "--passes", 3, *filled.loaded, "--json").stdout)
    assert document["equal"] is False
    assert document["difference"] > 0
    assert document["where"].startswith("layers.")
    assert "largest difference" in cli("snapshots", "replay", "one", "--passes", 3, *filled.loaded).stdout


def test_replay_shows_another_environment(cli, world) -> None:
    with closing(sqlite3.connect(world.path)) as database, database:
        database.execute("UPDATE snapshots SET environment = json_set(environment, '$.threads', 99)")
    shown = cli("snapshots", "replay", "one", *world.loaded).stdout
    assert "threads" in shown
    assert "99" in shown


def test_replay_that_cannot_be(cli, filled) -> None:
    first, last = filled.one[0].id, filled.one[-1].id
    said = cli.complaint("snapshots", "replay", "one", "--from", last, "--to", first, *filled.place)
    assert "exchange --from and --to" in said
    assert "passes" in cli.complaint("snapshots", "replay", "one", "--passes", 0, *filled.loaded)
    assert "name the one that wrote it" in cli.complaint(
        "snapshots", "replay", "one", *filled.place, "--model", filled.other
    )


def test_an_interrupted_replay_says_so(cli, filled, monkeypatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(probe, "replayed", interrupted)
    assert "the archive is as it was" in cli.complaint("snapshots", "replay", "one", *filled.loaded, code=130)


def test_recover_mends_a_damaged_head(cli, world) -> None:
    assert "nothing was changed" in cli("snapshots", "recover", "one", *world.loaded).stdout
    with closing(sqlite3.connect(world.path)) as database, database:
        database.execute(
            "UPDATE chunks SET data = zeroblob(length(data)) WHERE digest IN "
            "(SELECT digest FROM pieces WHERE snapshot_id = ?)",
            (world.one[-1].id,),
        )
    document = json.loads(cli("snapshots", "recover", "one", *world.loaded, "--json").stdout)
    assert world.one[-1].id in document["mended"]
    assert document["exact"] is True
    assert "name the one that wrote it" in cli.complaint(
        "snapshots", "recover", "one", *world.place, "--model", world.other
    )


def test_rebuild_reads_a_thread_under_another_model(cli, world) -> None:
    arguments = ["snapshots", "rebuild", "one", "--into", "new", *world.place, "--model", world.other, "--json"]
    document = json.loads(cli(*arguments).stdout)
    assert document["into"] == "new"
    assert document["fingerprint"] != document["fingerprint_before"]
    assert document["sleeps"] == 5
    assert threads(world.path)["one"] == world.one[-1].id
    assert "no thread 'none'" in cli.complaint("snapshots", "rebuild", "none", *world.place)


def test_an_interrupted_rebuild_goes_on(cli, world, monkeypatch) -> None:
    real = SleepMemory.rebuild

    def rebuild(self: SleepMemory, thread: str, *, progress, **options) -> object:
        def stop(now: int, of: int) -> None:
            progress(now, of)
            if now == 3:
                raise KeyboardInterrupt

        return real(self, thread, progress=stop, **options)

    arguments = ["snapshots", "rebuild", "one", "--into", "new", *world.place, "--model", world.other]
    with monkeypatch.context() as patch:
        patch.setattr(SleepMemory, "rebuild", rebuild)
        assert "3 of 10 steps were read again" in cli.complaint(*arguments, code=130)
    assert json.loads(cli(*arguments, "--json").stdout)["sleeps"] == 5


# bisect


def test_bisect_by_a_command(cli, world, tmp_path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("\n".join(one.id for one in world.one[2:]))
    command = f'test "$AGENTSLEEP_THREAD" = one || exit 99; ! grep -q "$AGENTSLEEP_SNAPSHOT" {bad}'
    result = cli("snapshots", "bisect", "one", "--run", command, *world.place, "--json")
    document = json.loads(result.stdout)
    assert (document["first_bad"], document["last_good"]) == (world.one[2].id, world.one[1].id)
    assert "step 1" in result.stderr
    assert document["took_in"][0]["text"] == "bob hands over to dave ."
    assert document["rollback"].startswith(f"agentsleep snapshots rollback one {world.one[1].id} --archive ")
    shown = cli("snapshots", "bisect", "one", "--run", command, *world.place).stdout
    assert "bob hands over to dave ." in shown


def test_bisect_by_a_question(cli, world, monkeypatch) -> None:
    from agentsleep.memory import Answer, Session

    right = {one.id for one in world.one[:3]}

    def ask(self: Session, text: str, **_: object) -> Answer:
        assert self.head is not None
        return Answer(text="It is  ALICE ." if self.head.id in right else "bob", snapshot=None, tokens=1)

    monkeypatch.setattr(Session, "ask", ask)
    before = threads(world.path)
    arguments = ["--ask", "who comes 1 after bob ?", "--expect", "is alice"]
    document = json.loads(cli("snapshots", "bisect", "one", *arguments, *world.loaded, "--json").stdout)
    assert document["first_bad"] == world.one[3].id
    assert threads(world.path) == before


def test_bisect_asks_the_model_itself(cli, filled) -> None:
    arguments = ["--ask", "who comes 1 after bob ?", "--expect", "no such answer", "--max-tokens", 4]
    said = cli("snapshots", "bisect", "one", *arguments, "--good-before", *filled.loaded).stdout
    assert f"the first bad one is snapshot {filled.one[0].id[:8]}" in said
    assert "no good snapshot before it" in said


def test_bisect_that_cannot_tell(cli, world) -> None:
    ends = f'case "$AGENTSLEEP_SNAPSHOT" in {world.one[0].id}) exit 0;; {world.one[-1].id}) exit 1;; esac; exit 125'
    document = json.loads(cli("snapshots", "bisect", "one", "--run", ends, *world.place, "--json").stdout)
    assert document["first_bad"] is None
    assert document["candidates"] == [one.id for one in world.one[1:]]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ([], "give --ask"),
        (["--ask", "who ?"], "give --ask"),
        (["--ask", "who ?", "--expect", " "], "--expect is empty"),
        (["--run", "true", "--ask", "who ?", "--expect", "x"], "give --ask"),
        (["--run", "no-such-command-anywhere 2>/dev/null"], "could not be run"),
    ],
)
def test_bisect_refuses(cli, filled, words, named) -> None:
    assert named in cli.complaint("snapshots", "bisect", "one", *words, *filled.place)


def test_bisect_with_wrong_ends(cli, filled) -> None:
    result = cli("snapshots", "bisect", "one", "--run", "true", *filled.place, code=2)
    assert "is good: there is nothing to find" in result.stderr
    assert "--from and --to" in result.stderr


def test_an_interrupted_bisect_tells_what_is_known(cli, filled, monkeypatch) -> None:
    from agentsleep.cli import bisect

    def judge(snapshot: Snapshot) -> bool:
        if snapshot.id == filled.one[0].id:
            raise KeyboardInterrupt
        return False

    monkeypatch.setattr(bisect, "_command", lambda *_: judge)
    result = cli("snapshots", "bisect", "one", "--run", "x", *filled.place, code=130)
    assert f"interrupted: {filled.one[-1].id[:8]} bad" in result.stderr


# search


def test_search(cli, filled) -> None:
    document = json.loads(cli("snapshots", "search", "dave", *filled.place, "--json").stdout)
    assert [hit["text"] for hit in document["hits"]] == ["bob hands over to dave ."]
    both = cli("snapshots", "search", "dave", "erin", "--any", *filled.place).stdout
    assert "[dave]" in both
    assert "[erin]" in both
    assert "no message" in cli("snapshots", "search", "dave", "erin", *filled.place).stdout
    assert "no thread 'x'" in cli.complaint("snapshots", "search", "dave", "--thread", "x", *filled.place)


# PostgreSQL


def test_lineage_on_a_server(cli, filled, postgres_url, tmp_path) -> None:
    with SleepMemory(filled.model, archive=postgres_url, policy=NEVER) as memory:
        one, two = fill(memory)
    place = ["--archive", postgres_url]
    assert "← two" in cli("snapshots", "tree", *place).stdout
    assert json.loads(cli("snapshots", "list", *place, "--json").stdout)["snapshots"][0]["id"] == one[0].id
    assert "relative" in cli("snapshots", "diff", one[0].id, two[-1].id, *place).stdout
    cli("snapshots", "tag", one[1].id, "good", *place)
    replayed = json.loads(cli("snapshots", "replay", "one", *place, "--model", filled.model, "--json").stdout)
    assert replayed["equal"] is True
    arguments = ["--run", f'test "$AGENTSLEEP_SNAPSHOT" = {one[0].id}', *place, "--json"]
    found = json.loads(cli("snapshots", "bisect", "one", *arguments).stdout)
    assert found["first_bad"] == one[1].id
    assert "***" in found["rollback"]
    cli("snapshots", "fork", "good", "three", *place)
    cli("snapshots", "rollback", "one", "good", *place)
    assert threads(postgres_url)["one"] == one[1].id
    assert "[dave]" in cli("snapshots", "search", "dave", *place).stdout
