"""One episode: what the agent is told, what it is asked, and what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentsleep.archive import Event
from agentsleep.errors import SettingsError, SleepFailed
from agentsleep.evals.live import MODES, Lived, Plan, explore, fact_windows, live
from agentsleep.memory import Session, SleepMemory, Tool
from agentsleep.policy import SleepPolicy
from agentsleep.tasks import rota
from tests.agent_model import save_agent_model
from tests.evals.oracle import Oracle

PLAN = Plan(seed=3, people=12, depths=(1, 2, 3), per_depth=2, passes=(1,), rounds=(1, 2))


def lives(model: Path, index: int = 0, plan: Plan = PLAN) -> Lived:
    episode, questions = plan.draw(index)
    with SleepMemory(model, archive=":memory:", policy=SleepPolicy(passes=1)) as memory:
        return live(memory, episode, questions, thread="t", passes=1, rounds=plan.rounds)


def test_a_drawn_episode_is_the_same_again_and_another_for_another_index_or_seed() -> None:
    assert PLAN.draw(5) == PLAN.draw(5)
    assert PLAN.draw(5) != PLAN.draw(6)
    other = Plan(seed=4, people=12, depths=(1, 2, 3), per_depth=2, passes=(1,), rounds=(1, 2))
    assert PLAN.draw(5) != other.draw(5)


def test_the_questions_are_of_every_depth_about_different_people_and_in_mixed_order() -> None:
    orders = set()
    for index in range(10):
        episode, questions = PLAN.draw(index)
        for depth in PLAN.depths:
            people = [q.chain[0] for q in questions if q.depth == depth]
            assert len(people) == len(set(people)) == PLAN.per_depth
        assert all(q.answer == episode.successor(q.chain[0], q.depth) for q in questions)
        orders.add(tuple(q.depth for q in questions))
    assert len(orders) > 5


def test_an_agent_that_knows_everything_is_right_everywhere(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Oracle().install(monkeypatch)
    lived = lives(untrained)
    assert (lived.requests, lived.called) == (12, 12)
    assert lived.windows >= 3
    assert all(one.right for one in lived.asked)
    assert [(one.rounds, one.mode) for one in lived.asked] == [
        (r, mode) for r in (1, 2) for mode in MODES for _ in range(6)
    ]
    assert {one.spread for one in lived.asked if one.depth == 1} == {1}
    assert all(1 <= one.spread <= one.depth for one in lived.asked)
    assert max(one.spread for one in lived.asked) >= 2
    assert len(oracle.seen) == len(lived.asked)


def test_every_question_finds_an_empty_window_and_no_tool(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oracle = Oracle().install(monkeypatch)
    lives(untrained)
    with SleepMemory(untrained, archive=":memory:") as memory:
        system = len(memory.chat.message("system", rota.SYSTEM))
    assert {(content, pinned) for _, _, content, pinned, _ in oracle.seen} == {(0, system)}


def test_forked_questions_rest_on_one_state_and_those_in_turn_on_one_more_each(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Oracle().install(monkeypatch)
    lives(untrained)
    light, deep = oracle.seen[:12], oracle.seen[12:]
    explored = len(light[0][-1])
    for half, deeper in ((light, 0), (deep, 1)):
        forked, in_turn = half[:6], half[6:]
        assert [remember for _, remember, *_ in half] == [False] * 6 + [True] * 6
        assert {len(modes) for *_, modes in forked} == {explored + deeper}
        assert [len(modes) for *_, modes in in_turn] == [explored + deeper + i for i in range(6)]
        assert all(modes.count("deep") == deeper for *_, modes in half)
        assert [text for text, *_ in forked] == [text for text, *_ in in_turn]


def test_every_sleep_has_the_passes_and_rounds_that_are_measured(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Oracle().install(monkeypatch)
    episode, questions = PLAN.draw(0)
    with SleepMemory(untrained, archive=":memory:", policy=SleepPolicy(passes=3)) as memory:
        live(memory, episode, questions, thread="t", passes=3, rounds=(1, 4))
        slept = [
            s for session in memory.sessions() for s in memory.archive.user("default", "default").snapshots(session.id)
        ]
    assert {(s.mode, s.passes, s.rounds) for s in slept} == {("light", 3, 1), ("deep", 3, 3)}


def test_errors_are_counted_where_they_are_made(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Oracle(slips=lambda depth, person, remember: depth == 2 and remember).install(monkeypatch)
    for one in lives(untrained).asked:
        assert one.right == (one.depth != 2 or one.mode == "fork")


@pytest.mark.parametrize(
    ("calls", "called"),
    [
        (lambda person: [], 0),  # it only says something
        (lambda person: ["nobody"], 0),  # someone who is not on the rota
        (lambda person: [person, person], 0),  # twice
        (lambda person: [person], 12),
    ],
)
def test_a_failed_call_counts_but_its_fact_is_told(
    untrained: Path, monkeypatch: pytest.MonkeyPatch, calls: object, called: int
) -> None:
    Oracle(calls=calls).install(monkeypatch)  # type: ignore[arg-type]
    lived = lives(untrained)
    assert (lived.requests, lived.called) == (12, called)
    assert all(one.right for one in lived.asked)


def test_looking_up_someone_else_is_no_right_call(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    episode, _ = PLAN.draw(0)
    Oracle(calls=lambda person: [episode.successor(person)]).install(monkeypatch)
    with SleepMemory(untrained, archive=":memory:") as memory, memory.session("t") as session:
        assert explore(session, episode) == 0
        told = [event.text for event in session.messages() if event.role == "tool"]
    assert set(told) == {rota.fact(person, episode.successor(person)) for person in episode.cycle}


def test_an_untrained_model_gets_through_and_knows_nothing(untrained: Path) -> None:
    plan = Plan(seed=0, people=9, depths=(1, 4), per_depth=1, passes=(1,), rounds=(1,))
    lived = lives(untrained, plan=plan)
    assert (lived.requests, lived.called) == (9, 0)
    assert len(lived.asked) == 4
    assert not any(one.right for one in lived.asked)


def test_facts_that_fit_into_fewer_than_three_windows_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Oracle().install(monkeypatch)
    with pytest.raises(SettingsError, match=r"12 people lie in 1 windows of 2048 tokens.*more people"):
        lives(save_agent_model(tmp_path, sleep_window=2048))


def test_a_question_is_never_asked_with_something_in_the_window(
    untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Oracle().install(monkeypatch)
    sleep = Session.sleep

    def awake(session: Session, *, deep: bool = False, **settings: object) -> object:
        done = sleep(session, deep=deep, **settings)  # type: ignore[arg-type]
        if deep:
            session.add("user", "hello")
        return done

    monkeypatch.setattr(Session, "sleep", awake)
    with pytest.raises(SleepFailed, match="tokens are still in the window"):
        lives(untrained)


def test_the_tool_is_the_one_that_the_model_was_trained_with(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[Tool] = []
    start = Tool.__init__

    def remember(tool: Tool, *arguments: object, **settings: object) -> None:
        start(tool, *arguments, **settings)  # type: ignore[arg-type]
        offered.append(tool)

    monkeypatch.setattr(Tool, "__init__", remember)
    Oracle().install(monkeypatch)
    lives(untrained)
    assert [tool.schema["function"] for tool in offered] == [rota.TOOL_SCHEMA["function"]]


def test_a_fact_lies_in_the_window_whose_sleep_read_it(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Oracle().install(monkeypatch)
    episode, _ = PLAN.draw(0)
    with SleepMemory(untrained, archive=":memory:") as memory, memory.session("t") as session:
        explore(session, episode)
        session.sleep()
        events = session.archive.events(session.id)
        spoken_by = memory.chat
    where = fact_windows(episode, events)
    windows = _windows(events)
    for person in episode.cycle:
        spoken = spoken_by.message("tool", rota.fact(person, episode.successor(person)))
        holding = [i for i, ids in enumerate(windows) if _holds(ids, spoken)]
        assert holding == [where[person]]


def _windows(events: list[Event]) -> list[list[int]]:
    """The tokens of every window that was slept on."""
    stream = [token for event in events for token in event.token_ids]
    marks = [event.data for event in events if event.kind == "sleep"]
    return [stream[mark["start"] : mark["stop"]] for mark in marks]  # type: ignore[misc]


def _holds(ids: list[int], part: list[int]) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids)))
