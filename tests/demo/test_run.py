"""The whole demonstration, with a model that has learned nothing: shape and bookkeeping, not accuracy."""

from __future__ import annotations

import json
import os

import pytest

from agentsleep.backends.loading import shipped_model
from agentsleep.demo.conversation import converse
from agentsleep.demo.run import Demo, DemoSettings
from agentsleep.demo.table import RotaTable
from agentsleep.demo.watching import Nobody
from agentsleep.errors import SettingsError, SnapshotNotFound
from agentsleep.memory import SleepMemory
from agentsleep.tasks import rota
from tests.spoken import Puppet

THREADS = ["demo-1-passes-1", "demo-1-passes-2", "demo-1-deep-2"]


def test_the_document_is_whole(small, tiny_model) -> None:
    document, _, out = small
    assert json.loads((out / "demo.json").read_text()) == document
    assert (out / "accuracy.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert list(out.glob("*.part")) == []
    assert document["model"] == str(tiny_model)
    assert document["chance"] == pytest.approx(1 / 8)
    assert sorted(document["episode"]["cycle"]) == sorted(document["episode"]["order"])
    assert [c["thread"] for c in document["conversations"]] == THREADS[:2]
    assert [c["passes"] for c in document["conversations"]] == [1, 2]
    for conversation in document["conversations"]:
        assert conversation["tool_calls"]["wanted"] == 9
        assert conversation["tool_calls"]["right"] + len(conversation["handed"]) == 9
        parents = [snapshot["parent"] for snapshot in conversation["snapshots"]]
        assert parents == [None, *(snapshot["id"] for snapshot in conversation["snapshots"][:-1])]
    assert document["seconds"] > 0


def test_accuracy_is_that_of_the_answers(small) -> None:
    document, _, _ = small
    conditions = [(1, 1), (2, 1), (2, 2)]
    assert [(row["passes"], row["rounds"], row["depth"]) for row in document["results"]] == [
        (*condition, depth) for condition in conditions for depth in (1, 2)
    ]
    assert len(document["answers"]) == 12
    for row in document["results"]:
        answers = [a for a in document["answers"] if (a["thread"], a["depth"]) == (row["thread"], row["depth"])]
        assert len(answers) == row["questions"] == 2
        assert row["accuracy"] == sum(a["answer"] == a["expected"] for a in answers) / 2
        assert row["interval"][0] <= row["accuracy"] <= row["interval"][1]


def test_questions_have_the_right_answers(small) -> None:
    document, _, _ = small
    cycle = document["episode"]["cycle"]
    for asked in document["answers"]:
        words = asked["text"].split()
        depth, person = int(words[2]), words[4]
        assert asked["depth"] == depth
        assert asked["expected"] == cycle[(cycle.index(person) + depth) % len(cycle)]
        assert asked["right"] == (asked["answer"] == asked["expected"])


def test_the_new_process_said_the_same(small) -> None:
    again = small[0]["again"]
    assert again["pid"] != os.getpid()
    assert again["threads"] == 3
    assert again["same_answers"] == again["questions"] == 12
    assert again["largest_logit_difference"] <= again["tolerance"] == 1e-5
    assert again["equal"] is True


def test_the_archive_holds_it_all(small, tiny_model) -> None:
    document, _, out = small
    assert document["archive"] == str((out / "memory.db").resolve())
    with SleepMemory(tiny_model, archive=out / "memory.db") as memory:
        assert [record.scope.thread for record in memory.sessions()] == [*THREADS, "demo-1-earlier"]
        with memory.session("demo-1-deep-2") as session:
            light, deep = session.history()[-2:]
            assert (deep.mode, deep.passes, deep.rounds, deep.parent) == ("deep", 2, 1, light.id)
            assert light.id == document["conversations"][1]["snapshots"][-1]["id"]
        with memory.session("demo-1-earlier") as session:
            known = {event.text for event in session.messages() if event.role == "tool"}
            for person in document["fork"]["people"]:
                fact = rota.fact(person["person"], next(iter(successors(document, person["person"]))))
                assert (fact in known) == person["told"]


def successors(document, person):
    cycle = document["episode"]["cycle"]
    yield cycle[(cycle.index(person) + 1) % len(cycle)]


def test_the_fork_is_of_an_early_snapshot(small) -> None:
    document, _, _ = small
    fork = document["fork"]
    history = [snapshot["id"] for snapshot in document["conversations"][-1]["snapshots"]]
    assert fork["of"] == "demo-1-passes-2"
    assert fork["snapshot"]["id"] in history[:2]
    assert [p["person"] for p in fork["people"]] == document["episode"]["order"]
    told = [p["person"] for p in fork["people"] if p["told"]]
    assert told == document["episode"]["order"][: len(told)]
    assert fork["told_before"]["questions"] == len(told)
    assert fork["told_later"]["questions"] == 9 - len(told) > 0
    for p in fork["people"]:
        assert p["expected"] == (next(successors(document, p["person"])) if p["told"] else rota.UNKNOWN)


def test_the_watcher_hears_of_every_part(small) -> None:
    _, notes, _ = small
    assert [title.split(";")[0].split("(")[0].strip() for title in notes.chapters] == [
        "The agent looks everybody up",
        "The agent looks everybody up",
        "A new process opens the archive and is asked again",
        "A fork of an early snapshot",
    ]
    assert sum("questions answered right" in line for line in notes.remarks) == 3
    assert {state.title.split(":")[0] for state in notes.states} == set(THREADS[:2])


def test_a_seed_is_one_rota_and_another_seed_another(tmp_path) -> None:
    def made(seed):
        return Demo(DemoSettings(out=tmp_path, seed=seed), Nobody())

    assert made(1).episode == made(1).episode != made(2).episode
    assert made(1).questions == made(1).questions
    assert len({q.text for q in made(1).questions}) == 72


def test_a_folder_may_hold_several_demonstrations(tiny_model, tmp_path, monkeypatch) -> None:
    demo = Demo(DemoSettings(out=tmp_path, model=tiny_model, people=9), Nobody())
    with SleepMemory(tiny_model, archive=demo.archive) as memory:
        for thread in ("demo-1-passes-1", "demo-3-passes-1", "other"):
            memory.session(thread).close()
        monkeypatch.setattr(Demo, "_light", lambda self, *rest: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            demo.run()
    assert demo.name == "demo-2"


def test_a_fork_with_a_fluent_agent(tiny_model, tmp_path, monkeypatch) -> None:
    """One that answers from what the fork was told is right before the snapshot and says 'unknown' after it."""
    settings = DemoSettings(out=tmp_path, model=tiny_model, people=9, light=(2,), deep=())
    demo = Demo(settings, Nobody())
    puppet = Puppet(monkeypatch)
    demo.name = "demo-1"
    table = RotaTable(tmp_path / "rota.db", demo.episode)
    with SleepMemory(tiny_model, archive=demo.archive) as memory:
        demo.conversations.append(converse(memory, "t", 2, demo.episode, table, Nobody()))
    early = list(demo.episode.order[:4])

    def knows(text: str) -> str:
        person = text.split()[4]
        return demo.episode.successor(person) if person in early else rota.UNKNOWN

    puppet.answer = knows
    fork = demo._fork()
    told = fork["told_before"]["questions"]
    assert 1 <= told < 9
    assert fork["told_before"]["knows"] == min(told, 4)
    assert fork["told_later"] == {"questions": 9 - told, "knows": max(0, 4 - told), "unknown": 9 - max(told, 4)}


def test_a_snapshot_of_another_archive_cannot_be_forked(small, tiny_model, tmp_path) -> None:
    document, _, _ = small
    with SleepMemory(tiny_model, archive=tmp_path / "other.db") as memory, pytest.raises(SnapshotNotFound):
        memory.archive.user("default", "default").snapshot(document["fork"]["snapshot"]["id"])


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"depths": 0}, "depths is 0"),
        ({"depths": 9}, "depths is 9"),
        ({"starts": 0}, "starts is 0"),
        ({"starts": 13}, "starts is 13"),
        ({"seed": -1}, "seed is -1"),
        ({"light": ()}, "deep sleeps"),
        ({"light": (1,), "deep": (4,)}, "deep sleeps"),
    ],
)
def test_settings_out_of_range(tmp_path, wrong, named) -> None:
    with pytest.raises(SettingsError, match=named):
        DemoSettings(out=tmp_path, **wrong)


def test_too_few_people(tmp_path) -> None:
    with pytest.raises(SettingsError, match="people is 8"):
        Demo(DemoSettings(out=tmp_path / "out", people=8, starts=2), Nobody())
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not (shipped_model() / "config.json").is_file(), reason="no model is shipped yet")
def test_the_shipped_model_gets_through(tmp_path) -> None:
    settings = DemoSettings(out=tmp_path, depths=2, starts=2, light=(2,), deep=())
    document = Demo(settings, Nobody()).run()
    assert document["model"] == "nap-mini"
    assert document["again"]["equal"]


@pytest.mark.slow
@pytest.mark.skipif(not (shipped_model() / "config.json").is_file(), reason="no model is shipped yet")
def test_the_shipped_model_shows_what_it_should(tmp_path) -> None:
    document = Demo(DemoSettings(out=tmp_path, seed=5), Nobody()).run()
    assert document["seconds"] < 180
    assert document["again"]["equal"]
    for conversation in document["conversations"]:
        assert conversation["tool_calls"] == {"wanted": 12, "right": 12}
    rows = {(row["passes"], row["rounds"], row["depth"]): row["accuracy"] for row in document["results"]}
    assert rows[4, 1, 1] >= 0.9
    assert max(rows[2, 2, 2], rows[4, 2, 2]) >= 0.9
    fork = document["fork"]
    assert fork["told_before"]["knows"] >= 0.9 * fork["told_before"]["questions"] > 0
    assert fork["told_later"]["knows"] <= 0.4 * fork["told_later"]["questions"]
