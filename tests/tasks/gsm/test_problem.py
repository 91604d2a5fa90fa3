from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.errors import InputError, SettingsError
from agentsleep.tasks.gsm import Problem, Quantity, grow, problem, solve
from agentsleep.tasks.gsm.problem import DERIVED, FROM_ONE, MOST_QUANTITIES
from agentsleep.tasks.gsm.text import problem_text, question_text, sentence_pieces
from agentsleep.tasks.gsm.words import KINDS, PLACES, TEMPLATES

PROBLEMS = [grow(Random(seed), quantities=12, depth=8, max_value=20) for seed in range(60)]


@given(st.data())
def test_generator_and_solver_agree(data: st.DataObject) -> None:
    quantities = data.draw(st.integers(2, MOST_QUANTITIES))
    depth = data.draw(st.integers(1, quantities - 1))
    max_value = data.draw(st.integers(4, 60))
    grown = grow(Random(data.draw(st.integers())), quantities=quantities, depth=depth, max_value=max_value)
    assert len(grown.sentences) == len(grown.values) == len(grown.ops) == quantities
    assert {sentence.quantity for sentence in grown.sentences} == set(grown.values) == set(grown.ops)
    assert set(grown.ops.values()) == set(range(1, depth + 1))
    assert all(0 <= value <= max_value for value in grown.values.values())
    english = problem_text(grown)
    for quantity in grown.values:
        solution = solve(english, question_text(grown, quantity))
        assert (solution.answer, solution.op) == (grown.values[quantity], grown.ops[quantity])


def test_no_step_is_superfluous() -> None:
    """Whatever an answer needs matters to it: one more of any of these changes it (or makes a number negative)."""
    checked = 0
    for grown in PROBLEMS[:15]:
        definitions = {sentence.quantity: sentence for sentence in grown.sentences}
        for asked in grown.values:
            for needed in closure(grown, asked):
                texts = {q: "".join(sentence_pieces(grown.template, s)) for q, s in definitions.items()}
                texts[needed] = texts[needed].split("equals")[0] + f"equals {grown.values[needed] + 1}."
                assert outcome("".join(texts.values()), question_text(grown, asked)) != grown.values[asked]
                checked += 1
    assert checked > 15 * 30


def outcome(text: str, question: str) -> int | None:
    """The answer; None where a number would be negative."""
    try:
        return solve(text, question).answer
    except InputError as error:
        if "must not be negative" not in str(error):
            raise
        return None


def closure(grown: Problem, asked: Quantity) -> set[Quantity]:
    refs = {sentence.quantity: sentence.refs for sentence in grown.sentences}
    needed, pending = set(), [asked]
    while pending:
        quantity = pending.pop()
        needed.add(quantity)
        pending += refs[quantity]
    return needed


def test_every_question_has_distractors_of_the_same_forms() -> None:
    forms: Counter[str] = Counter()
    for grown in PROBLEMS:
        for asked in grown.values:
            others = [s for s in grown.sentences if s.quantity not in closure(grown, asked)]
            assert others
            if grown.ops[asked] == 4:
                forms.update(sentence.form for sentence in others)
    assert set(forms) == {"number", *DERIVED}
    assert min(forms.values()) > 20


def test_every_op_is_frequent_and_comes_in_every_form_that_it_can_have() -> None:
    ops = Counter(op for grown in PROBLEMS for op in grown.ops.values())
    assert sorted(ops) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert min(ops.values()) >= 60
    assert 0.2 < ops[1] / ops.total() < 0.3
    deep = {s.form for grown in PROBLEMS for s in grown.sentences if grown.ops[s.quantity] >= 6}
    assert deep == set(DERIVED)


@given(st.data())
def test_forms_bound_the_sentences(data: st.DataObject) -> None:
    """With a copy or a sentence of more among them, no other is needed for a depth that max_value has room for."""
    forms = data.draw(st.sets(st.sampled_from(DERIVED))) | {data.draw(st.sampled_from(["copy", "more"]))}
    depth = data.draw(st.integers(1, 8))
    grown = grow(Random(data.draw(st.integers())), quantities=9, depth=depth, max_value=10, forms=forms)
    assert {sentence.form for sentence in grown.sentences} <= {"number", *forms}
    assert set(grown.ops.values()) == set(range(1, depth + 1))
    for quantity in grown.values:
        solution = solve(problem_text(grown), question_text(grown, quantity))
        assert (solution.answer, solution.op) == (grown.values[quantity], grown.ops[quantity])


@pytest.mark.parametrize("form", FROM_ONE)
def test_one_form_alone(form: str) -> None:
    grown = [grow(Random(seed), quantities=9, depth=4, max_value=20, forms=[form]) for seed in range(20)]
    assert {s.form for g in grown for s in g.sentences} == {"number", form}
    for g in grown:
        for s in g.sentences:
            if form == "copy" and s.form == "copy":
                assert g.values[s.quantity] == g.values[s.refs[0]]


def test_every_form_is_frequent() -> None:
    forms = Counter[str](s.form for g in PROBLEMS for s in g.sentences if s.form != "number")
    assert min(forms[form] for form in DERIVED) > 40
    chosen = [
        grow(Random(i), quantities=9, depth=5, max_value=12, forms=["copy", "more", "difference"]) for i in range(40)
    ]
    assert min(Counter(s.form for g in chosen for s in g.sentences).values()) > 20


def test_the_order_of_the_forms_says_nothing() -> None:
    one, other = (
        grow(Random(0), quantities=9, depth=5, max_value=12, forms=forms)
        for forms in (["more", "copy", "total"], ("total", "copy", "more", "copy"))
    )
    assert one == other


def test_op_counts_shared_steps_once_and_a_total_by_its_additions() -> None:
    sizes: Counter[int] = Counter()
    shared = 0
    for grown in (grow(Random(seed), quantities=14, depth=9, max_value=60) for seed in range(80)):
        additions = {s.quantity: max(1, len(s.refs) - 1) if s.form == "total" else 1 for s in grown.sentences}
        for sentence in grown.sentences:
            quantity = sentence.quantity
            assert grown.ops[quantity] == sum(additions[q] for q in closure(grown, quantity))
            shared += grown.ops[quantity] < additions[quantity] + sum(grown.ops[ref] for ref in sentence.refs)
            if sentence.form == "total":
                sizes[len(sentence.refs)] += 1
                (place,) = {ref.place for ref in sentence.refs}
                assert place != quantity.place
                assert set(sentence.refs) == {q for q in grown.values if q.place == place}
            if sentence.form == "number":
                assert grown.ops[quantity] == 1
    assert shared > 100
    assert sorted(sizes) == [2, 3]
    assert min(sizes.values()) > 20


def test_the_order_of_the_sentences_says_nothing() -> None:
    first = Counter(grown.ops[grown.sentences[0].quantity] for grown in PROBLEMS)
    assert len(first) > 5
    before = behind = 0
    for grown in PROBLEMS:
        at = {sentence.quantity: i for i, sentence in enumerate(grown.sentences)}
        for sentence in grown.sentences:
            before += sum(at[ref] < at[sentence.quantity] for ref in sentence.refs)
            behind += sum(at[ref] > at[sentence.quantity] for ref in sentence.refs)
    assert 0.42 < before / (before + behind) < 0.58


def test_all_templates_kinds_and_places_are_used() -> None:
    assert {grown.template.name for grown in PROBLEMS} == {template.name for template in TEMPLATES}
    assert {quantity for grown in PROBLEMS for quantity in grown.values} == {
        Quantity(kind, place) for kind in range(KINDS) for place in range(PLACES)
    }


def test_seeds() -> None:
    again, other = (grow(Random(seed), quantities=12, depth=8, max_value=20) for seed in (0, 1))
    assert again == PROBLEMS[0]
    assert other != again


def test_it_gives_up_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problem._Draft, "_define", lambda *_: False)
    with pytest.raises(SettingsError, match="max_value 20 is too small for questions of 3 steps; raise it"):
        grow(Random(0), quantities=5, depth=3, max_value=20)


def test_doubling_alone_soon_has_no_room() -> None:
    with pytest.raises(SettingsError, match=r"max_value 12 is too small for questions of 6 steps; .* allow more forms"):
        grow(Random(0), quantities=7, depth=6, max_value=12, forms=("times",))
