"""``agentsleep snapshots export`` and ``import``: a thread out of one archive and into another."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

import agentsleep.cli.transfer  # noqa: F401  # puts the commands on the app
from agentsleep.archive import Archive
from agentsleep.memory import SleepMemory
from agentsleep.policy import SleepPolicy
from tests.spoken import save_tiny


@dataclass
class World:
    """ada's thread "rota" in an archive, and the same exported with and without its texts."""

    path: Path
    model: Path
    snapshots: int
    events: int


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    path, model = folder / "memory.db", save_tiny(folder / "model")
    with (
        SleepMemory(model, archive=path, policy=SleepPolicy(trigger=None, passes=2)) as memory,
        memory.session("rota", user="ada", system="you watch the rota .") as session,
    ):
        session.add("tool", "bob hands over to alice .")
        session.sleep()
        session.add("user", "the build is late today .")
        session.sleep()
        session.add("tool", "carol hands over to dave .")
        return World(path, model, len(session.history()), len(session.messages()) + 3)


def ada(world: World) -> list[object]:
    return ["--archive", world.path, "--user", "ada"]


def exported(cli, world: World, file: Path, *options: object) -> dict[str, object]:
    document: dict[str, object] = json.loads(
        cli("snapshots", "export", "rota", file, *ada(world), *options, "--json").stdout
    )
    return document


def test_there_and_back(cli, world, tmp_path) -> None:
    file, other = tmp_path / "rota.zip", tmp_path / "new" / "other.db"
    document = exported(cli, world, file)
    assert document == {
        "archive": str(world.path),
        "tenant": "default",
        "user": "ada",
        "thread": "rota",
        "file": str(file),
        "text": True,
        "events": world.events,
        "snapshots": world.snapshots,
        "states": world.snapshots,
        "bytes": file.stat().st_size,
        "left_out": 0,
    }
    arguments = ["snapshots", "import", file, "--archive", other, "--user", "ada"]
    document = json.loads(cli(*arguments, "--json").stdout)
    with Archive(world.path) as one, Archive(other) as two:
        mine, theirs = one.user("default", "ada"), two.user("default", "ada")
        record, original = theirs.find("rota"), mine.find("rota")
        assert record is not None
        assert original is not None
        assert theirs.events(record.id) == mine.events(original.id)
        assert record.head == original.head == document["head"]
    assert document["events"] == world.events
    assert (document["snapshots"], document["states"]) == (world.snapshots, world.snapshots)
    assert (document["text"], document["probed"]) == (True, False)
    assert "already" in cli.complaint(*arguments)
    shown = cli(*arguments, "--thread", "again", "--model", world.model).stdout
    assert "thread 'again' of user 'ada'" in shown
    assert "its newest state speaks as it did" in shown
    with SleepMemory(world.model, archive=other) as memory, memory.session("again", user="ada") as session:
        assert session.messages()[0].text == "bob hands over to alice ."
        assert max(session.replay().diff(session.state).values()) == 0


def test_export_for_a_reader(cli, world, tmp_path) -> None:
    arguments = ["snapshots", "export", "rota", tmp_path / "rota.zip", *ada(world)]
    shown = cli(*arguments).stdout
    assert f"thread 'rota': {world.events} events and {world.snapshots} snapshots" in shown
    assert "in plain" in shown
    assert "is there already" in cli.complaint(*arguments)
    cli(*arguments, "--force")


def test_without_texts(cli, world, tmp_path) -> None:
    file, other = tmp_path / "bare.zip", tmp_path / "other.db"
    shown = cli("snapshots", "export", "rota", file, *ada(world), "--no-text").stdout
    assert "no text and no token" in shown
    assert "tokens were said since the newest sleep" in shown
    with zipfile.ZipFile(file) as zipped:
        assert b"bob" not in zipped.read("log.jsonl")
    document = exported(cli, world, tmp_path / "head.zip", "--no-text", "--head-only")
    assert (document["text"], document["states"], document["events"]) == (False, 1, world.snapshots)
    assert document["left_out"]
    shown = cli("snapshots", "import", file, "--archive", other, "--user", "ada").stdout
    assert "cannot be read, searched, replayed or forgotten" in shown
    assert "--probe asks now" in shown
    shown = cli("snapshots", "list", "--archive", other, "--user", "ada").stdout
    assert "imported" in shown
    with Archive(other) as archive:
        snapshot = archive.user("default", "ada").all_snapshots()[0]
    assert "sleep on tokens 0 to 0" in cli("snapshots", "show", snapshot.id, "--archive", other, "--user", "ada").stdout


def test_another_users_file_must_be_meant(cli, world, tmp_path) -> None:
    file, other = tmp_path / "rota.zip", tmp_path / "other.db"
    exported(cli, world, file)
    said = cli.complaint("snapshots", "import", file, "--archive", other)
    assert "is of user 'ada', not of 'default'" in said
    assert "--into-user" in said
    arguments = ["snapshots", "import", file, "--archive", other, "--user", "ada", "--into-tenant", "acme", "--json"]
    document = json.loads(cli(*arguments).stdout)
    assert (document["tenant"], document["user"]) == ("acme", "ada")
    arguments = ["snapshots", "import", file, "--archive", other, "--into-user", "bob", "--json"]
    document = json.loads(cli(*arguments).stdout)
    assert (document["tenant"], document["user"]) == ("default", "bob")
    with Archive(other) as archive:
        assert list(archive.users()) == [("acme", "ada"), ("default", "bob")]


def test_another_model_is_refused(cli, world, tmp_path) -> None:
    import torch

    from agentsleep.models.nap import NapForCausalLM

    file, other, strange = tmp_path / "rota.zip", tmp_path / "other.db", tmp_path / "strange"
    exported(cli, world, file)
    shutil.copytree(world.model, strange)
    model = NapForCausalLM.from_pretrained(world.model)
    with torch.no_grad():
        model.get_output_embeddings().weight[0] += 1
    model.save_pretrained(strange)
    said = cli.complaint("snapshots", "import", file, "--archive", other, "--user", "ada", "--model", strange)
    assert "the model at hand is" in said
    with Archive(other) as archive:
        assert list(archive.users()) == []


def test_what_is_no_file_makes_no_archive(cli, tmp_path) -> None:
    other = tmp_path / "other.db"
    (tmp_path / "notes.txt").write_text("no zip")
    assert "is no zip" in cli.complaint("snapshots", "import", tmp_path / "notes.txt", "--archive", other)
    assert "there is no file" in cli.complaint("snapshots", "import", tmp_path / "none.zip", "--archive", other)
    assert not other.exists()


def test_what_cannot_be_exported(cli, world, tmp_path) -> None:
    file = tmp_path / "x.zip"
    assert "there are: 'rota'" in cli.complaint("snapshots", "export", "nobody", file, *ada(world))
    assert "there are: none" in cli.complaint("snapshots", "export", "rota", file, "--archive", world.path)
    assert "there is no archive" in cli.complaint(
        "snapshots", "export", "rota", file, "--archive", tmp_path / "none.db"
    )
    assert "is no folder" in cli.complaint("snapshots", "export", "rota", tmp_path / "no" / "x.zip", *ada(world))
    assert not file.exists()
