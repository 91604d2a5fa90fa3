"""Questions that leave no trace, and the same ones in a new process."""

from __future__ import annotations

import os

import pytest
import torch

from agentsleep.demo.again import answer, in_new_process
from agentsleep.demo.asking import ask_all
from agentsleep.errors import AgentsleepError, SessionNotFound
from agentsleep.memory import SleepMemory
from agentsleep.tasks import rota

TEXTS = [rota.question(1, "bob"), rota.question(2, "alice")]


@pytest.fixture
def archive(tiny_model, tmp_path):
    """Two threads that were told different things."""
    with SleepMemory(tiny_model, archive=tmp_path / "memory.db") as memory:
        for thread, successor in (("one", "alice"), ("two", "carol")):
            with memory.session(thread, system=rota.SYSTEM) as session:
                session.add("tool", rota.fact("bob", successor))
                session.sleep()
    return tmp_path / "memory.db"


def test_asking_leaves_no_trace(archive, tiny_model) -> None:
    with SleepMemory(tiny_model, archive=archive) as memory, memory.session("one") as session:
        before = session.messages(), session.window.ids, session.head, session.tokens
        answers, logits = ask_all(memory, session, TEXTS)
        assert (session.messages(), session.window.ids, session.head, session.tokens) == before
        assert answers == [session.ask(text, remember=False, max_new_tokens=12).text for text in TEXTS]
        assert logits.shape == (2, len(memory.chat.tokenizer))
        again, same = ask_all(memory, session, reversed(TEXTS))
        assert again == answers[::-1]
        assert torch.equal(same, logits.flip(0))


def test_no_question_is_no_error(archive, tiny_model) -> None:
    with SleepMemory(tiny_model, archive=archive) as memory, memory.session("one") as session:
        answers, logits = ask_all(memory, session, [])
    assert answers == []
    assert logits.shape[0] == 0


def test_a_new_process_says_the_same_of_each_thread(archive, tiny_model) -> None:
    here = {}
    with SleepMemory(tiny_model, archive=archive) as memory:
        for thread in ("one", "two"):
            with memory.session(thread) as session:
                here[thread] = ask_all(memory, session, TEXTS)
    there = in_new_process(archive, tiny_model, dict.fromkeys(here, TEXTS))
    assert there.pid != os.getpid()
    for thread, (answers, logits) in here.items():
        assert there.answers[thread] == answers
        assert (there.logits[thread] - logits).abs().max() <= 1e-5
    # The states matter: what the threads were told can be seen in the logits.
    assert (here["one"][1] - here["two"][1]).abs().max() > 1e-3


def test_a_failing_process_is_one_error_with_its_reason(archive, tiny_model) -> None:
    with pytest.raises(AgentsleepError, match=r"new process .* ended with 1: .*no session for .*'three'"):
        in_new_process(archive, tiny_model, {"three": TEXTS})


def test_a_thread_that_is_missing_is_not_made(archive, tiny_model, tmp_path) -> None:
    request = {"archive": str(archive), "model": str(tiny_model), "cpu_threads": 1, "logits": str(tmp_path / "l")}
    with pytest.raises(SessionNotFound):
        answer(request | {"questions": {"three": TEXTS}})
    with SleepMemory(tiny_model, archive=archive) as memory:
        assert [record.scope.thread for record in memory.sessions()] == ["one", "two"]


def test_a_process_that_hangs_is_given_up(archive, tiny_model, monkeypatch) -> None:
    monkeypatch.setattr("agentsleep.demo.again.LIMIT_S", 0.01)
    with pytest.raises(AgentsleepError, match=r"within 0\.01 s"):
        in_new_process(archive, tiny_model, {"one": TEXTS})
