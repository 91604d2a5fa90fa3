"""One user's memory is never shown to another, through whatever is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentsleep.errors import AgentsleepError, InputError, SessionNotFound, SnapshotNotFound
from agentsleep.memory import Session, SleepMemory
from agentsleep.policy import SleepPolicy
from tests.memory.conftest import Open
from tests.memory.helpers import FACT, assert_whole, events, fill

SECRET = "the vault opens with quince ."


@pytest.fixture
def adas(opened: Open) -> Session:
    memory = opened(SleepPolicy(trigger=("messages", 3)))
    session = memory.session("t", user="ada", tenant="acme")
    fill(session, 3)
    session.add("user", SECRET)
    fill(session, 3)
    return session


@pytest.mark.parametrize(
    ("tenant", "user", "thread"),
    [("acme", "bob", "t"), ("acme/ada", "t", "t"), ("acme", "ada/t", "x"), ("other", "ada", "t"), ("acme", "Ada", "t")],
)
def test_a_neighbour_sees_nothing(opened: Open, adas: Session, tenant: str, user: str, thread: str) -> None:
    memory = opened(SleepPolicy(trigger=("messages", 3)))
    whose = {"user": user, "tenant": tenant}
    before = events(adas)
    with memory.session(thread, **whose) as session:
        assert session.messages() == []
        assert session.search("vault quince", any_word=True) == []
        assert session.archive.search("vault quince", any_word=True) == []
        session.add("user", "what opens the vault ?")
        answer = session.ask("what opens the vault ?", remember=False, max_new_tokens=3)
        assert SECRET not in [hit.text for hit in answer.sources]
        foreign: dict[str, Callable[[], Any]] = {
            "replay": lambda: session.replay(adas.history()[0]),
            "state_of": lambda: session.state_of(adas.history()[0]),
            "diff": lambda: session.diff(adas.history()[0]),
            "tag": lambda: session.tag("mine", adas.history()[0]),
            "events": lambda: session.archive.events(adas.id),
            "snapshots": lambda: session.archive.snapshots(adas.id),
            "load_state": lambda: session.archive.load_state(adas.history()[0].id),
            "fork": lambda: session.archive.fork(adas.history()[0].id, "mine"),
            "rollback": lambda: session.archive.rollback(session.id, adas.history()[0].id, "x"),
        }
        for name, call in foreign.items():
            with pytest.raises((InputError, SessionNotFound, SnapshotNotFound)) as caught:
                call()
            assert SECRET not in str(caught.value), name
        report = memory.forget(session, phrases=[SECRET], cascade=True)
        assert report.repeats == ()
    assert events(adas) == before
    memory.forget(None, **whose)
    assert memory.archive.user(tenant, user).audit() == []
    assert events(adas) == before
    assert_whole(adas)
    adas.close()


def test_forgetting_one_user_leaves_equal_states_of_another(opened: Open) -> None:
    """They have said the same, so their chunks have the same digests."""
    memory = opened(SleepPolicy(trigger=("messages", 3)))
    sessions = [memory.session("t", user=user) for user in ("ada", "bob")]
    for session in sessions:
        fill(session, 7)
    assert sessions[0].history()[0].state_digest == sessions[1].history()[0].state_digest
    sessions[0].close()
    memory.forget(None, user="ada")
    assert_whole(sessions[1])
    assert sessions[1].archive.verify().findings == ()
    sessions[1].close()


def test_a_session_on_postgres(nap: Path, postgres_url: str) -> None:
    """The same life on the other database: sleep, come back, fork, forget, recover."""
    with SleepMemory(nap, archive=postgres_url, policy=SleepPolicy(trigger=("messages", 4))) as memory:
        with memory.session("t", user="ada") as session:
            fill(session, 9)
            session.add("user", SECRET)
            fill(session, 4)
            session.sleep(deep=True, passes=1, rounds=1)
            assert_whole(session)
            with pytest.raises(AgentsleepError, match="being written"):
                memory.session("t", user="ada")
        with memory.session("t", user="ada") as session:
            branch = memory.fork(session.history()[-1], "branch")
            branch.add("user", FACT)
            branch.close()
            assert [hit.thread for hit in session.archive.search("quince")] == ["t"]
            report = memory.forget(session, [session.search("quince")[0].seq])
            assert {*report.rebuilt} == {"t", "branch"}
            assert any("backups" in said for said in report.out_of_reach)
            assert session.archive.search("quince") == []
            assert_whole(session)
            assert session.recover().mended == ()
        with memory.session("branch", user="ada") as branch:
            assert_whole(branch)
        assert memory.forget(None, user="ada").threads == ("t", "branch")
        assert memory.archive.users() == []
