"""``agentsleep doctor``: what is well passes, and everything that is broken on purpose is found."""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from agentsleep.backends import LiveWindow, loading
from agentsleep.backends.loading import shipped_model
from agentsleep.backends.report import Report, Verdict
from agentsleep.cli import checks
from agentsleep.cli import selftest as self_test
from agentsleep.cli.selftest import selftest
from agentsleep.conformance import save_model
from agentsleep.memory import Session, SleepMemory, states
from agentsleep.state import FastWeights
from tests.spoken import save_tiny

TESTS = ["load", "fingerprint", "sleep", "reading in pieces", "snapshot", "replay", "reopening"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def archive(model, tmp_path) -> Path:
    path = tmp_path / "memory.db"
    with SleepMemory(model, archive=path) as memory, memory.session("one") as session:
        session.add("tool", "bob hands over to alice .")
        session.sleep()
    return path


def found(made) -> dict[str, checks.Check]:
    return {check.name: check for check in made}


# The command


def test_all_is_well(cli, model, archive) -> None:
    document = json.loads(cli("doctor", "--json", "--model", model, "--archive", archive).stdout)
    assert document["ok"] is True
    assert document["failures"] == 0
    assert document["warnings"] == sum(check["status"] == "warn" for check in document["checks"])
    names = [check["name"] for check in document["checks"]]
    assert names[:6] == ["agentsleep", "python", "torch", "transformers", "sqlalchemy", "sqlite"]
    for name in ("path", "writable", "free space", "integrity", "content", "states", "threads", "cpu", *TESTS):
        assert name in names
    assert all(check["remedy"] for check in document["checks"] if check["status"] != "ok")
    versions = {check["name"]: check["value"] for check in document["checks"]}
    assert versions["torch"] == torch.__version__
    assert versions["python"].startswith(".".join(str(part) for part in sys.version_info[:3]))


def test_the_list_for_a_reader(cli, model, tmp_path) -> None:
    shown = cli("doctor", "--model", model, "--archive", tmp_path / "none.db").stdout
    assert "✓ torch" in shown
    assert "not there yet" in shown
    assert "all is well" in shown
    assert not (tmp_path / "none.db").exists()


def test_a_failure_ends_with_1_and_a_remedy(cli, tmp_path) -> None:
    result = cli("doctor", "--model", tmp_path / "none", "--archive", tmp_path / "none.db", code=1)
    assert "✗ load" in result.stdout
    assert "no checkpoint at" in result.stdout
    assert "→ copy the checkpoint again" in result.stdout
    assert "1 failed" in result.stdout
    document = json.loads(cli("doctor", "--model", tmp_path / "none", "--json", code=1).stdout)
    assert (document["ok"], document["failures"]) == (False, 1)


def test_without_torch_there_is_still_an_answer(cli, monkeypatch, tmp_path) -> None:
    real = checks.version

    def version(name: str) -> str:
        if name == "torch":
            raise PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(checks, "version", version)
    document = json.loads(cli("doctor", "--json", "--archive", tmp_path / "none.db", code=1).stdout)
    missing = next(check for check in document["checks"] if check["name"] == "torch")
    assert (missing["status"], missing["remedy"]) == ("fail", "pip install 'torch>=2.9'")
    assert "load" not in [check["name"] for check in document["checks"]]


# Versions


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 53, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_the_range_of_the_wal_reset_bug(version, affected) -> None:
    assert checks.has_wal_reset_bug(version) is affected
    check = next(checks.sqlite(version))
    expected = "warn" if affected else "fail" if version < (3, 7, 0) else "ok"
    assert check.status == expected
    assert ("WAL-reset" in check.value) is affected
    assert ("3.51.3" in check.remedy) is (expected != "ok")


@pytest.mark.parametrize(
    ("name", "version", "status"),
    [
        ("torch", "2.8.1", "fail"),
        ("torch", "2.9.0+cpu", "ok"),
        ("torch", "2.13.0", "ok"),
        ("transformers", "5.20.4", "fail"),
        ("transformers", "5.21.0", "ok"),
        ("transformers", "6.0.0", "fail"),
        ("sqlalchemy", "1.4.54", "fail"),
        ("sqlalchemy", "2.1.0b1", "ok"),
    ],
)
def test_versions_that_are_too_old_or_too_new(monkeypatch, name, version, status) -> None:
    real = checks.version
    monkeypatch.setattr(checks, "version", lambda asked: version if asked == name else real(asked))
    check = found(checks.versions())[name]
    assert check.status == status
    assert check.remedy.startswith(f"pip install '{name}>=") is (status == "fail")


# The archive


def test_looking_changes_nothing(archive) -> None:
    before = archive.read_bytes()
    assert {check.status for check in checks.archive(archive)} == {"ok"}
    assert archive.read_bytes() == before


def test_an_archive_that_is_in_use_can_be_looked_at(archive, model) -> None:
    with SleepMemory(model, archive=archive) as memory, memory.session("one") as session:
        session.add("user", "the build is late today .")
        assert {check.status for check in checks.archive(archive)} == {"ok"}


def test_folders_that_are_missing_are_not_made(tmp_path) -> None:
    seen = found(checks.archive(tmp_path / "a" / "b" / "memory.db"))
    assert seen["writable"].value == str(tmp_path)
    assert {check.status for check in seen.values()} == {"ok"}
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch) -> None:
    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(checks.tempfile, "TemporaryFile", refuse)
    check = found(checks.archive(tmp_path / "memory.db"))["writable"]
    assert check.status == "fail"
    assert "Permission denied" in check.value


def test_a_file_that_cannot_be_written(archive, monkeypatch) -> None:
    monkeypatch.setattr(checks.os, "access", lambda path, mode: False)
    check = found(checks.archive(archive))["writable"]
    assert check.status == "fail"
    assert "read-only" in check.value


@pytest.mark.parametrize(("free", "status"), [(2**19, "fail"), (2**27, "warn"), (2**30, "ok")])
def test_space(tmp_path, monkeypatch, free, status) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert found(checks.archive(tmp_path / "memory.db"))["free space"].status == status


def test_a_file_that_is_no_database(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("no database at all " * 100)
    check = found(checks.archive(tmp_path / "notes.txt"))["readable"]
    assert check.status == "fail"
    assert "not a database" in check.value
    assert ".recover" in check.remedy


def test_a_folder_in_its_place(tmp_path) -> None:
    assert found(checks.archive(tmp_path))["readable"].status == "fail"


def test_another_programs_database_is_left_alone(tmp_path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as database, database:
        database.execute("CREATE TABLE songs (title TEXT)")
    seen = found(checks.archive(tmp_path / "x.db"))
    assert seen["schema"].status == "fail"
    assert "songs" in seen["schema"].value
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("delete",)


def test_an_empty_file_is_fine(tmp_path) -> None:
    (tmp_path / "empty.db").touch()
    seen = found(checks.archive(tmp_path / "empty.db"))
    assert seen["schema"].status == "ok"
    assert "empty" in seen["schema"].value


def _execute(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(statement)


@pytest.mark.parametrize(
    ("value", "said"), [("'99'", "revision 99"), ("'one'", "no revision"), (None, "no revision (None)")]
)
def test_a_schema_that_is_not_ours(archive, value, said) -> None:
    change = "DELETE FROM alembic_version" if value is None else f"UPDATE alembic_version SET version_num = {value}"
    _execute(archive, change)
    check = found(checks.archive(archive))["schema"]
    assert check.status == "fail"
    assert said in check.value


@pytest.mark.parametrize("change", ["data = zeroblob(length(data))", "data = 'text'", "data = x''"])
def test_a_damaged_state_is_found(archive, change) -> None:
    _execute(archive, f"UPDATE chunks SET {change}")
    check = found(checks.archive(archive))["states"]
    assert check.status == "fail"
    assert "restore" in check.remedy


def test_a_missing_state_is_found(archive) -> None:
    _execute(archive, "DELETE FROM chunks")
    seen = found(checks.archive(archive))
    assert seen["states"].status == "fail"
    assert seen["integrity"].status == "fail"
    assert "pieces points to a missing row of chunks" in seen["integrity"].value


def test_damaged_pages_are_found(archive) -> None:
    whole = bytearray(archive.read_bytes())
    whole[16384 * 2 : 16384 * 3] = b"\xff" * 16384
    archive.write_bytes(bytes(whole))
    assert "fail" in {check.status for check in checks.archive(archive)}


# The machine


def test_more_threads_than_cores_are_a_warning(monkeypatch) -> None:
    assert found(checks.machine())["threads"].status == "ok"
    monkeypatch.setattr(checks.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    check = found(checks.machine())["threads"]
    assert (check.status, "OMP_NUM_THREADS to 2" in check.remedy) == ("warn", True)


# The model


def test_every_test_of_the_model_passes(model) -> None:
    made = list(selftest(model))
    assert [check.name for check in made] == TESTS
    assert {check.status for check in made} == {"ok"}


def test_a_damaged_checkpoint(model, tmp_path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    (broken / "model.safetensors").write_bytes(b"junk")
    (check,) = selftest(broken)
    assert (check.name, check.status) == ("load", "fail")
    assert "cannot be read" in check.value


def test_an_installation_that_raises_is_a_failure_and_no_traceback(model, monkeypatch) -> None:
    def broken(*_, **__):
        raise RuntimeError("mkl")

    monkeypatch.setattr("agentsleep.cli.selftest.Lent", broken)
    (check,) = selftest(model)
    assert check.value == "RuntimeError: mkl"


def broken_reading(monkeypatch) -> None:
    """A read that goes on from another one is a little off."""
    real = LiveWindow.read

    def read(self, ids):
        real(self, ids)
        if len(ids) < len(self.ids):
            self.logits = self.logits + 0.1

    monkeypatch.setattr(LiveWindow, "read", read)


def broken_loading(monkeypatch) -> None:
    def load(tensors):
        return FastWeights({n: t + 1e-7 for n, t in states.from_bytes(tensors).items()})

    monkeypatch.setattr(self_test, "from_bytes", load)


def broken_replay(monkeypatch) -> None:
    real = Session.replay
    monkeypatch.setattr(Session, "replay", lambda self: FastWeights({n: t + 1e-7 for n, t in real(self).items()}))


def raising_replay(monkeypatch) -> None:
    def replay(self):
        raise RuntimeError("no log")

    monkeypatch.setattr(Session, "replay", replay)


def broken_sleep(monkeypatch) -> None:
    real = LiveWindow.sleep
    monkeypatch.setattr(
        LiveWindow, "sleep", lambda self, passes: FastWeights({n: t / 0 for n, t in real(self, passes).items()})
    )


@pytest.mark.parametrize(
    ("breaking", "name"),
    [
        (broken_reading, "reading in pieces"),
        (broken_loading, "snapshot"),
        (broken_replay, "replay"),
        (raising_replay, "replay"),
        (broken_sleep, "sleep"),
    ],
)
def test_what_is_broken_is_found(model, monkeypatch, breaking, name) -> None:
    breaking(monkeypatch)
    check = found(selftest(model))[name]
    assert check.status == "fail"
    assert check.remedy


# A model of transformers


ABILITIES = ["fast weights", "continuation", "decoding", "round trip", "eviction", "passes"]


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Path:
    return save_model("falcon_mamba", tmp_path_factory.mktemp("stock"))


def test_a_model_of_transformers_shows_its_verdicts_and_repairs(stock) -> None:
    made = list(selftest(str(stock)))
    names = [check.name for check in made]
    assert names == ["load", "fingerprint", "training", "repaired", "repaired", *ABILITIES, *TESTS[2:]]
    assert {check.name: check.status for check in made if check.status != "ok"} == {"training": "warn"}
    seen = found(made)
    assert "agentsleep probe --model" in seen["training"].remedy
    assert "Mamba-1 mixers ignored their state" in seen["repaired"].value
    assert "no attention" in seen["eviction"].value
    assert "reading token by token is off by" in seen["decoding"].value


def test_a_verdict_that_fails_is_shown_and_no_session_is_tried(stock, monkeypatch) -> None:
    def examined(*_) -> Report:
        return Report((Verdict("decoding", "fail", 0.5, "reading token by token is off by 0.5"),))

    monkeypatch.setattr(loading, "examined", examined)
    made = list(selftest(stock))
    assert [check.name for check in made] == ["load", "fingerprint", "training", "repaired", "repaired", "decoding"]
    assert (made[-1].status, "agentsleep conformance --model" in made[-1].remedy) == ("fail", True)


def test_a_model_without_fast_weights(tmp_path) -> None:
    (check,) = selftest(save_model("llama", tmp_path / "llama"))
    assert (check.name, check.status) == ("load", "fail")
    assert "no fast weights" in check.value
    assert "docs/models.md" in check.remedy


def test_a_name_on_the_hub_that_is_none(cli, tmp_path) -> None:
    shown = cli("doctor", "--model", "nobody/nothing", "--archive", tmp_path / "none.db", code=1).stdout
    assert "✗ load" in shown
    assert "no model 'nobody/nothing'" in shown


@pytest.mark.skipif(not (shipped_model() / "config.json").is_file(), reason="no model is shipped yet")
def test_the_shipped_model_is_well(cli, tmp_path) -> None:
    document = json.loads(cli("doctor", "--json", "--archive", tmp_path / "none.db").stdout)
    assert document["ok"]
    assert next(check for check in document["checks"] if check["name"] == "load")["value"].startswith("nap-mini")
