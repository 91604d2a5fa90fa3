"""What the agents live through is the task's own, and the same in every run."""

from __future__ import annotations

from collections import Counter

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from agentsleep.tasks import rota
from langchain_agentsleep.bench.dialogues import BLOCK, Dialogue, draw, long_run


def drawn(index: int = 0, seed: int = 5) -> Dialogue:
    return draw(seed, index, people=12, depths=(1, 3), per_depth=4, window=40, length=lambda text: len(text.split()))


def test_a_dialogue_tells_every_fact_once_by_the_right_call() -> None:
    made = drawn()
    told = made.messages()
    results = [one for one in told if isinstance(one, ToolMessage)]
    assert [one.content for one in results] == made.facts()
    assert len(set(made.facts())) == 12
    calls = [call for one in told if isinstance(one, AIMessage) for call in one.tool_calls]
    assert [call["args"] for call in calls] == [{"person": person} for person in made.episode.order]
    assert [call["id"] for call in calls] == [one.tool_call_id for one in results]
    said = [one.content for one in told if isinstance(one, HumanMessage)]
    assert said[-len(made.fillers) :] == list(made.fillers)
    assert isinstance(told[-1], AIMessage)


def test_small_talk_goes_on_for_a_window() -> None:
    fillers = drawn().fillers
    assert sum(len(text.split()) for text in fillers) >= 40
    assert sum(len(text.split()) for text in fillers[:-1]) < 40
    assert set(fillers) <= set(rota.SMALL_TALK)


def test_questions_are_about_the_same_people_at_every_depth() -> None:
    made = drawn()
    people = {depth: [q.chain[0] for q in made.questions if q.depth == depth] for depth in (1, 3)}
    assert people[1] == people[3]
    assert len(set(people[1])) == 4
    assert all(q.answer == made.episode.successor(q.chain[0], q.depth) for q in made.questions)


def test_draws_repeat() -> None:
    assert drawn() == drawn()
    assert drawn() != drawn(1)
    assert drawn() != drawn(seed=6)


def test_every_block_of_the_long_run_has_the_same_kinds_in_the_same_order() -> None:
    steps = long_run(1, 145)
    kinds = [step.kind for step in steps]
    assert Counter(kinds[:20]) == Counter(BLOCK)
    assert kinds == (kinds[:20] * 8)[:145]
    assert [step.number for step in steps] == list(range(145))
    assert long_run(1, 145) == steps


def test_the_long_run_explores_one_rota_before_it_begins_another() -> None:
    asked = [step for step in long_run(1, 145) if step.kind == "look-up"]
    first, second = asked[0].episode, asked[12].episode
    assert [step.text for step in asked[:12]] == [rota.request(person) for person in first.order]
    assert [step.text for step in asked[12:]] == [rota.request(person) for person in second.order[: len(asked) - 12]]
    assert first != second
