from __future__ import annotations

from pathlib import Path

import pytest

from agentsleep.evals.baselines import (
    answers_without_memory,
    baseline_rows,
    last_mentioned,
    most_mentioned,
    one_hop,
)
from agentsleep.evals.live import Plan
from agentsleep.memory import SleepMemory
from agentsleep.tasks.rota import Episode

CYCLE = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan")
EPISODE = Episode(CYCLE, ("dave", "alice", "bob", "carol", "erin", "frank", "grace", "ivan", "heidi"))


def test_guesses_of_a_known_episode() -> None:
    about_alice, about_dave = EPISODE.ask(2, "alice"), EPISODE.ask(3, "dave")
    assert one_hop(EPISODE, about_alice) == "bob"
    assert one_hop(EPISODE, about_dave) == "erin"
    # everyone is mentioned four times: dave first
    assert most_mentioned(EPISODE, about_alice) == "dave"
    assert most_mentioned(EPISODE, about_dave) == "erin"
    # the last fact: heidi hands over to ivan
    assert last_mentioned(EPISODE, about_alice) == "ivan"
    assert last_mentioned(EPISODE, EPISODE.ask(1, "ivan")) == "heidi"


def test_no_guess_beats_chance_beyond_one_hop() -> None:
    plan = Plan(seed=0, people=12, depths=(1, 2, 6), per_depth=4, passes=(1,), rounds=(1,))
    drawn = [plan.draw(index) for index in range(250)]
    rows = {(row["name"], row["depth"]): row for row in baseline_rows(drawn, _Silent())}
    assert {name for name, _ in rows} == {"no-memory", "best-constant", "most-mentioned", "last-mentioned", "one-hop"}
    assert all(row["questions"] == 1000 for row in rows.values())
    assert rows["one-hop", 1]["accuracy"] == 1.0
    for (name, depth), row in rows.items():
        if depth >= 2:
            assert row["accuracy"] <= 1 / 11 + 0.03, (name, depth)
    for depth in (1, 2, 6):  # the constant is the best of forty
        assert 1 / 40 <= rows["best-constant", depth]["accuracy"] <= 0.06


def test_no_memory_is_right_where_its_answer_is() -> None:
    question = EPISODE.ask(2, "alice")
    other = EPISODE.ask(2, "bob")
    blank = {question.text: "carol", other.text: "carol"}
    rows = baseline_rows([(EPISODE, [question, other])], blank)
    (row,) = [row for row in rows if row["name"] == "no-memory"]
    assert (row["depth"], row["accuracy"], row["questions"]) == (2, 0.5, 2)


def test_the_blank_model_is_asked_each_question_once_and_remembers_none(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SleepMemory(untrained, archive=":memory:") as memory:
        texts = [EPISODE.ask(1, "bob").text, EPISODE.ask(2, "bob").text, EPISODE.ask(1, "bob").text]
        answers = answers_without_memory(memory, texts)
        assert answers.keys() == set(texts)
        assert answers_without_memory(memory, texts[::-1]) == answers
        (record,) = memory.sessions()
        assert (record.tokens, record.head) == (0, None)


class _Silent(dict[str, str]):
    def __missing__(self, text: str) -> str:
        return "unknown"
