"""``agentsleep snapshots``: what an archive holds, whose it is, and whether a state comes back."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from agentsleep.archive import Archive, Snapshot, TensorBytes, UserArchive
from agentsleep.cli import probe
from agentsleep.cli.archives import archive_path, find_snapshot
from agentsleep.errors import InputError, SnapshotDamaged, SnapshotNotFound
from agentsleep.memory import SleepMemory, restoring
from agentsleep.policy import SleepPolicy
from agentsleep.state import FastWeights
from tests.spoken import save_tiny

ROOT = Path(__file__).resolve().parents[2]
LONG = "the coffee is cold today . " * 20  # more than a window


@dataclass
class World:
    """An archive in which ada has two threads, and bob of another tenant has one."""

    path: Path
    model: Path
    one: list[Snapshot]
    fork: list[Snapshot]
    other: list[Snapshot]


@pytest.fixture(scope="module")
def filled(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("world")
    path, model = folder / "memory.db", save_tiny(folder / "model")
    policy = SleepPolicy(trigger=None, passes=2)
    with SleepMemory(model, archive=path, policy=policy) as memory:
        with memory.session("one", user="ada", system="you watch the rota .") as session:
            session.add("tool", "bob hands over to alice .")
            session.sleep()
            session.add("user", "the build is late today .")
            session.add("user", LONG)
            session.sleep(deep=True, rounds=1)
            one = session.history()
        with memory.fork(one[0], "two") as session:
            session.add("tool", "carol hands over to [bold]dave[/bold] .")
            fork_head = session.sleep()
            fork = session.history()
        assert fork_head is not None
        memory.archive.user("default", "ada").tag(fork_head.id, "after [red]carol[/red]")
        with memory.session("secret", user="bob", tenant="acme") as session:
            session.add("tool", "eve hands over to mallory .")
            session.sleep()
            other = session.history()
    return World(path, model, one, fork, other)


@pytest.fixture
def world(filled, tmp_path) -> World:
    """A copy that a test may change."""
    with closing(sqlite3.connect(filled.path)) as source, closing(sqlite3.connect(tmp_path / "memory.db")) as target:
        source.backup(target)
    return World(tmp_path / "memory.db", filled.model, filled.one, filled.fork, filled.other)


def ada(filled: World) -> list[object]:
    return ["--archive", filled.path, "--user", "ada"]


# list


def test_list_shows_every_snapshot_of_a_user_once(cli, filled) -> None:
    document = json.loads(cli("snapshots", "list", *ada(filled), "--json").stdout)
    rows = document["snapshots"]
    assert [row["id"] for row in rows] == [s.id for s in [*filled.one, filled.fork[-1]]]
    assert [row["parent"] for row in rows] == [None, *[s.id for s in filled.one[:-1]], filled.one[0].id]
    assert [row["thread"] for row in rows] == ["one"] * len(filled.one) + ["two"]
    assert [row["head_of"] for row in rows if row["head_of"]] == [["one"], ["two"]]
    assert [row["mode"] for row in rows] == ["light"] * (len(filled.one) - 1) + ["deep", "light"]
    assert {(row["passes"], row["rounds"]) for row in rows} == {(2, 1)}
    assert [row["tokens"] for row in rows] == [s.tokens for s in [*filled.one, filled.fork[-1]]]
    assert all(row["state_bytes"] == filled.one[0].state_bytes for row in rows)
    assert {row["status"] for row in rows} == {"stored"}
    assert rows[-1]["tag"] == "after [red]carol[/red]"
    assert document["archive"] == str(filled.path)


def test_list_of_a_thread_is_its_line_of_parents(cli, filled) -> None:
    document = json.loads(cli("snapshots", "list", *ada(filled), "--thread", "two", "--json").stdout)
    assert [row["id"] for row in document["snapshots"]] == [s.id for s in filled.fork]
    assert [row["thread"] for row in document["snapshots"]] == ["one", "two"]


def test_list_as_a_table(cli, filled) -> None:
    shown = cli("snapshots", "list", *ada(filled)).stdout
    for snapshot in [*filled.one, filled.fork[-1]]:
        assert snapshot.id[:8] in shown
    assert "after [red]carol[/red]" in shown  # no markup in what users wrote
    assert "two ←" in shown
    assert filled.other[0].id[:8] not in shown


def test_a_narrow_list_keeps_what_is_needed_to_go_on(cli, filled, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = cli("snapshots", "list", *ada(filled)).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert all(snapshot.id[:8] in shown for snapshot in filled.one)
    assert "trigger" not in shown


def test_another_users_memory_is_not_there(cli, filled) -> None:
    theirs = filled.other[0].id
    for scope in ([], ["--user", "ada"], ["--user", "bob"], ["--tenant", "acme"]):
        listed = json.loads(cli("snapshots", "list", "--archive", filled.path, *scope, "--json").stdout)
        assert theirs not in [row["id"] for row in listed["snapshots"]]
        for command in (["show", theirs], ["restore", theirs, "--thread", "stolen"]):
            said = cli.complaint("snapshots", *command, "--archive", filled.path, *scope)
            assert "no snapshot of user" in said
            assert "mallory" not in said
    own = cli("snapshots", "list", "--archive", filled.path, "--user", "bob", "--tenant", "acme", "--json").stdout
    assert [row["id"] for row in json.loads(own)["snapshots"]] == [theirs]


def test_nobody_has_no_snapshots(cli, filled) -> None:
    arguments = ["snapshots", "list", "--archive", filled.path, "--user", "nobody"]
    assert json.loads(cli(*arguments, "--json").stdout)["snapshots"] == []
    assert "no snapshots of user 'nobody'" in cli(*arguments).stdout


# show


def test_show_tells_all_about_one(cli, filled) -> None:
    snapshot = filled.one[0]
    document = json.loads(cli("snapshots", "show", snapshot.id, *ada(filled), "--json").stdout)
    assert document["id"] == snapshot.id
    assert document["fingerprint"] == snapshot.fingerprint
    assert document["state_digest"] == snapshot.state_digest
    assert document["metrics"] == dict(snapshot.metrics)
    assert document["environment"]["torch"] == torch.__version__
    assert document["span"] == list(snapshot.span)
    assert [event["kind"] for event in document["events"]] == ["tokens", "tokens", "sleep"]
    assert document["events"][1]["text"] == "bob hands over to alice ."
    assert document["events"][1]["consolidated"] == document["events"][1]["tokens"] == snapshot.tokens
    shown = cli("snapshots", "show", snapshot.id, *ada(filled)).stdout
    assert "tool: bob hands over to alice ." in shown
    assert "pinned: system 'you watch the rota .', tools: none" in shown
    assert "metrics.norm" in shown
    assert "environment.threads" in shown


def test_a_message_that_sleeps_cut_is_shown_with_its_parts(cli, filled) -> None:
    light = [s for s in filled.one if s.mode == "light"]
    assert len(light) >= 3  # the long message fell into several windows
    parts, whole = [], 0
    for snapshot in light[1:]:
        document = json.loads(cli("snapshots", "show", snapshot.id, *ada(filled), "--json").stdout)
        mark = document["events"][-1]["data"]
        tokens = [event for event in document["events"] if event["kind"] == "tokens"]
        assert sum(event["consolidated"] for event in tokens) == mark["stop"] - mark["start"]
        long = next(event for event in tokens if event["text"] == LONG)
        parts.append(long["consolidated"])
        whole = long["tokens"]
    assert sum(parts) == whole
    assert all(0 < part < whole for part in parts)
    shown = cli("snapshots", "show", light[-1].id, *ada(filled)).stdout
    assert f"[{parts[-1]} of {whole} tokens lay in this window]" in shown


def test_show_of_a_deep_sleep(cli, filled) -> None:
    deep = filled.one[-1]
    document = json.loads(cli("snapshots", "show", deep.id, *ada(filled), "--json").stdout)
    assert [event["kind"] for event in document["events"]] == ["deep_sleep"]
    assert "deep sleep: " in cli("snapshots", "show", deep.id, *ada(filled)).stdout


def test_show_of_a_fork_has_its_own_part(cli, filled) -> None:
    shown = cli("snapshots", "show", filled.fork[-1].id, *ada(filled)).stdout
    assert "carol hands over to [bold]dave[/bold] ." in shown
    assert "bob hands over" not in shown


def test_a_prefix_will_do_while_it_is_unique(cli, filled) -> None:
    snapshot = filled.one[1]
    others = [s.id for s in [*filled.one, *filled.fork] if s.id != snapshot.id]
    length = next(n for n in range(1, 33) if not any(o.startswith(snapshot.id[:n]) for o in others))
    for prefix in (snapshot.id[:length], snapshot.id[:length].upper(), f" {snapshot.id} "):
        assert json.loads(cli("snapshots", "show", prefix, *ada(filled), "--json").stdout)["id"] == snapshot.id


def test_what_is_no_id(cli, filled, monkeypatch) -> None:
    assert "id is empty" in cli.complaint("snapshots", "show", " ", *ada(filled))
    assert "begins with 'xyz'" in cli.complaint("snapshots", "show", "xyz", *ada(filled))
    assert "begins with '%'" in cli.complaint("snapshots", "show", "%", *ada(filled))
    assert "Missing argument" in cli.complaint("snapshots", "show", *ada(filled))
    same = [s.id for s in filled.one[:2]]
    monkeypatch.setattr(UserArchive, "all_snapshots", lambda self: [_Named("ab12" + i) for i in same])
    with Archive(filled.path) as archive:
        theirs = archive.user("default", "ada")
        with pytest.raises(InputError, match=r"2 snapshots have ids that begin with 'ab1' \(ab12"):
            find_snapshot(theirs, "ab1")
        with pytest.raises(SnapshotNotFound):
            find_snapshot(theirs, "b12")


def test_a_tag_will_do_as_well(cli, filled) -> None:
    shown = cli("snapshots", "show", "after [red]carol[/red]", *ada(filled), "--json").stdout
    assert json.loads(shown)["id"] == filled.fork[-1].id


@dataclass
class _Named:
    id: str
    tag: str | None = None


# restore


def test_restore_forks_and_says_how_to_go_on(cli, world) -> None:
    snapshot = world.one[0]
    arguments = ["snapshots", "restore", snapshot.id[:12], "--thread", "again", *ada(world), "--model", world.model]
    document = json.loads(cli(*arguments, "--json").stdout)
    assert document["thread"] == "again"
    assert document["snapshot"] == snapshot.id
    assert document["tokens"] == snapshot.tokens
    assert document["probe"]["difference"] > 0
    with Archive(world.path) as archive:
        theirs = archive.user("default", "ada")
        record = theirs.find("again")
        assert record.head == record.forked_from == snapshot.id
        assert [s.id for s in theirs.snapshots(record.id)] == [snapshot.id]
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", document["python"]], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n")


def test_restore_for_a_reader_takes_a_free_name(cli, world) -> None:
    snapshot = world.one[0]
    shown = cli("snapshots", "restore", snapshot.id, *ada(world), "--model", world.model).stdout
    assert f"thread 'one@{snapshot.id[:8]}' goes on from snapshot {snapshot.id[:8]}" in shown
    assert "from agentsleep import SleepMemory" in shown
    assert "user='ada'" in shown


def test_restore_into_a_thread_that_exists_changes_nothing(cli, world) -> None:
    before = _sessions(world)
    arguments = ["snapshots", "restore", world.one[0].id, "--thread", "two", *ada(world), "--model", world.model]
    assert "user 'ada' has a thread 'two' already" in cli.complaint(*arguments)
    assert _sessions(world) == before


def test_restore_needs_the_model_that_wrote_it(cli, world, tmp_path) -> None:
    from agentsleep.models.nap import NapForCausalLM

    model = NapForCausalLM.from_pretrained(world.model)
    with torch.no_grad():
        model.get_output_embeddings().weight[0] += 1
    model.save_pretrained(tmp_path / "other")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "other" / name).write_bytes((world.model / name).read_bytes())
    before = _sessions(world)
    said = cli.complaint("snapshots", "restore", world.one[0].id, *ada(world), "--model", tmp_path / "other")
    assert f"belongs to model {world.one[0].fingerprint[:12]}" in said
    assert "--model" in said
    assert "no checkpoint at" in cli.complaint(
        "snapshots", "restore", world.one[0].id, *ada(world), "--model", tmp_path / "none"
    )
    assert _sessions(world) == before


def test_restore_of_a_damaged_state_makes_no_thread(cli, world) -> None:
    snapshot = world.one[0]
    with closing(sqlite3.connect(world.path)) as database, database:
        database.execute("UPDATE chunks SET data = zeroblob(length(data))")
    before = _sessions(world)
    said = cli.complaint("snapshots", "restore", snapshot.id, *ada(world), "--model", world.model)
    assert snapshot.id in said
    assert "digest" in said
    assert _sessions(world) == before


@pytest.mark.parametrize(("value", "named"), [(float("nan"), "not finite"), (0.0, "does not speak as it did")])
def test_a_state_that_does_not_speak_is_not_restored(world, monkeypatch, value, named) -> None:
    real = restoring.from_bytes

    def broken(tensors: list[TensorBytes]) -> FastWeights:
        return FastWeights({name: torch.full_like(tensor, value) for name, tensor in real(tensors).items()})

    monkeypatch.setattr(restoring, "from_bytes", broken)
    before = _sessions(world)
    with pytest.raises(SnapshotDamaged, match=named):
        probe.restored(world.path, world.model, world.one[0], "x")
    assert _sessions(world) == before


def _sessions(world: World) -> list[object]:
    with Archive(world.path) as archive:
        return [archive.user("default", "ada").sessions(), archive.user("acme", "bob").sessions()]


# all of them


@pytest.mark.parametrize("command", [["list"], ["show", "ab"], ["restore", "ab"]])
def test_a_missing_archive_is_not_made(cli, tmp_path, command) -> None:
    said = cli.complaint("snapshots", *command, "--archive", tmp_path / "none.db")
    assert f"there is no archive at {tmp_path / 'none.db'}" in said
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_archive(cli, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("not a database at all " * 100)
    assert "cannot be read" in cli.complaint("snapshots", "list", "--archive", tmp_path / "notes.txt")


def test_an_unknown_thread_names_those_that_there_are(cli, filled) -> None:
    said = cli.complaint("snapshots", "list", *ada(filled), "--thread", "three")
    assert "no thread 'three'" in said
    assert "'one', 'two'" in said
    assert "secret" not in said


def test_where_the_archive_lies(agentsleep_home, monkeypatch) -> None:
    assert archive_path(None) == agentsleep_home / "memory.db"
    assert archive_path("sqlite:////data/x.db") == Path("/data/x.db")
    assert archive_path("sqlite:///x.db") == Path("x.db")
    monkeypatch.setenv("HOME", "/home/ada")
    assert archive_path("~/x.db") == Path("/home/ada/x.db")


def test_reading_needs_no_torch(filled) -> None:
    code = (
        "import sys\nfrom agentsleep.cli import main\n"
        "try:\n    main()\nexcept SystemExit as done:\n    assert not done.code, done.code\n"
        "print(sorted({'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    arguments = ["--archive", str(filled.path), "--user", "ada", "--json"]
    for command in (["list"], ["show", filled.one[0].id]):
        done = subprocess.run(
            [sys.executable, "-c", code, "snapshots", *command, *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"AGENTSLEEP_DEBUG": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == "[]\n"
        json.loads(done.stdout)
