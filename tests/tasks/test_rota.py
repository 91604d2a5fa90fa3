"""The words of rota, its episodes, and the packed forms; the live form has a file of its own."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from agentsleep.errors import SettingsError
from agentsleep.tasks import IGNORE, Difficulty, Rota
from agentsleep.tasks import rota as words
from agentsleep.tasks.rota import MAX_DEPTH, NAMES, UNKNOWN, Episode, sample_episode
from agentsleep.tokens import ASSISTANT, decode_text
from tests.tasks.helpers import check_form, check_seeds, real

ROTA = Rota()
TOKENIZER = ROTA.chat.tokenizer
MARKER = TOKENIZER.convert_tokens_to_ids(ASSISTANT)
FACT = re.compile(r" ?(\w+) hands over to (\w+)")
QUESTION = re.compile(r" who comes (\d) after (\w+) \?")


def walk(follows: dict[str, str], person: str, steps: int) -> str:
    """Step by step over what was told."""
    for _ in range(steps):
        if person not in follows:
            return UNKNOWN
        person = follows[person]
    return person


def test_names() -> None:
    assert len(NAMES) == len(set(NAMES)) == 40
    assert NAMES[:3] == ("alice", "bob", "carol")  # the order is the order of the vocabulary: it must not change
    assert NAMES[-1] == "nora"
    spoken = {word for text in (*words.SMALL_TALK, words.SYSTEM, UNKNOWN) for word in text.split()}
    assert not spoken.intersection(NAMES)


def test_sentences() -> None:
    assert words.fact("bob", "alice") == "bob hands over to alice ."
    assert words.request("bob") == "look up bob ."
    assert words.question(3, "bob") == "who comes 3 after bob ?"
    assert len(words.SMALL_TALK) == len(set(words.SMALL_TALK)) == 6 * 6 * 3


@pytest.mark.parametrize("people", [9, 12, 40])
def test_an_episode_is_one_cycle_longer_than_any_question(people: int) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        episode = sample_episode(rng, people)
        assert len(episode.cycle) == len(set(episode.cycle)) == people > MAX_DEPTH
        assert set(episode.cycle) <= set(NAMES)
        assert sorted(episode.order) == sorted(episode.cycle)
        assert set(episode.talk) <= set(episode.cycle)
        follows = {person: episode.successor(person) for person in episode.cycle}
        assert sorted(follows.values()) == sorted(follows)
        for person in episode.cycle:
            seen = [walk(follows, person, steps) for steps in range(people)]
            assert len(set(seen)) == people
            assert episode.successor(person, people) == person


def test_episodes_are_drawn_evenly() -> None:
    rng = np.random.default_rng(0)
    episodes = [sample_episode(rng, 12) for _ in range(400)]
    drawn = Counter(person for episode in episodes for person in episode.cycle)
    assert len(drawn) == 40
    assert 80 < min(drawn.values()) <= max(drawn.values()) < 165  # 120 each
    in_order = sum(e.cycle.index(a) + 1 == e.cycle.index(b) for e in episodes for a, b in [e.order[:2]])
    assert in_order < 60  # 1 in 12 by chance: the order of the look-ups does not follow the cycle
    assert 0.35 < np.mean([len(episode.talk) / 12 for episode in episodes]) < 0.45


@pytest.mark.parametrize("people", [MAX_DEPTH, 0, -1, 41])
def test_numbers_of_people_that_make_no_rota(people: int) -> None:
    with pytest.raises(SettingsError, match=rf"people is {people}; it must lie in 9\.\.40"):
        sample_episode(np.random.default_rng(0), people)


def test_a_question_needs_every_fact_of_its_chain() -> None:
    episode = Episode(tuple(NAMES[:9]), tuple(NAMES[8::-1]))
    asked = episode.ask(3, "heidi")
    assert (asked.text, asked.answer, asked.depth) == ("who comes 3 after heidi ?", "bob", 3)
    assert asked.chain == ("heidi", "ivan", "alice")
    for told, answer in (
        (("heidi", "ivan", "alice"), "bob"),
        (("alice", "heidi", "ivan"), "bob"),
        (("heidi", "ivan"), UNKNOWN),
        (("ivan", "alice"), UNKNOWN),
        (("heidi", "alice", "bob"), UNKNOWN),
        ((), UNKNOWN),
    ):
        assert episode.ask(3, "heidi", told).answer == answer
    assert episode.ask(1, "zoe").answer == UNKNOWN  # not on the rota
    assert episode.ask(8, "alice").answer == "ivan"


@pytest.mark.parametrize("form", ["pairs", "facts"])
@pytest.mark.parametrize("windows", [1, 3, 5])
def test_packed_answers_follow_from_the_facts(form: str, windows: int) -> None:
    task = Rota(people=12, max_depth=6, questions=8)
    batch = task.batch(np.random.default_rng(0), 30, Difficulty(windows=windows, depth=6, form=form))
    check_form(task, batch, 30)
    assert len(batch.context) == windows
    assert len(batch.questions) == 1
    depths: Counter[int] = Counter()
    for row in range(30):
        told: dict[str, str] = {}
        for window in batch.context:
            assert (window.labels == IGNORE).all()
            text = decode_text(TOKENIZER, real(window, row))
            pairs = FACT.findall(text)
            if form == "pairs":
                assert text == "".join(f" {a} hands over to {b}" for a, b in pairs)
            else:
                assert text == "".join(f"<|tool|> {words.fact(a, b)}<|end|>" for a, b in pairs)
            assert len(pairs) in (12 // windows, -(-12 // windows))
            told.update(pairs)
        assert len(told) == 12
        assert walk(told, next(iter(told)), 12) == next(iter(told))
        (window,) = batch.questions
        ids = real(window, row)
        text = decode_text(TOKENIZER, ids)
        asked = [(int(steps), person) for steps, person in QUESTION.findall(text)]
        opened, closed = ("", "") if form == "pairs" else ("<|user|>", "<|end|>")
        assert text == "".join(f"{opened} {words.question(*q)}{closed}<|assistant|>" for q in asked)
        assert len({person for _, person in asked}) == len(asked) == 8
        places = [place for place, i in enumerate(ids) if i == MARKER]
        assert [place for place in range(len(ids)) if int(window.labels[row, place]) != IGNORE] == places
        for place, (steps, person) in zip(places, asked, strict=True):
            answer = decode_text(TOKENIZER, [int(window.labels[row, place])])
            assert answer == f" {walk(told, person, steps)}"
            assert int(window.depth[row, place]) == steps
            depths[steps] += 1
    assert sorted(depths) == [1, 2, 3, 4, 5, 6]
    assert depths[6] > 1.3 * depths[3]  # the newest depth is asked more often


@pytest.mark.parametrize("form", ["pairs", "facts", "live"])
def test_seeds(form: str) -> None:
    check_seeds(Rota(), Difficulty(windows=2, depth=3, form=form))


def test_batches_do_not_depend_on_what_was_drawn_before() -> None:
    """The renderings that a task remembers must come back unchanged."""
    fresh, used = Rota(), Rota()
    for form in ("live", "facts", "pairs"):
        used.batch(np.random.default_rng(1), 5, Difficulty(windows=2, depth=6, form=form))
    for form in ("pairs", "facts", "live"):
        difficulty = Difficulty(windows=2, depth=6, form=form)
        a = fresh.batch(np.random.default_rng(2), 5, difficulty)
        b = used.batch(np.random.default_rng(2), 5, difficulty)
        for x, y in zip((*a.context, *a.questions), (*b.context, *b.questions), strict=True):
            assert x.ids.tolist() == y.ids.tolist()
            assert x.labels.tolist() == y.labels.tolist()


def test_sizes() -> None:
    assert ROTA.vocab_size == len(TOKENIZER)
    assert ROTA.chance() == 1 / 11
    assert list(ROTA.depths) == [1, 2, 3, 4, 5, 6]
    assert list(Rota(max_depth=8).depths)[-1] == 8


@pytest.mark.parametrize("depth", [0, 9])
def test_depths_that_the_vocabulary_lacks(depth: int) -> None:
    with pytest.raises(SettingsError, match=rf"max_depth is {depth}; the vocabulary has 1\.\.8"):
        Rota(max_depth=depth)


@pytest.mark.parametrize(
    ("difficulty", "message"),
    [
        (Difficulty(windows=1, depth=1), "form 'plain' is not one of 'pairs', 'facts', 'live'"),
        (Difficulty(windows=0, depth=1, form="live"), "0 windows"),
        (Difficulty(windows=13, depth=1, form="pairs"), "13 windows cannot share what is told of 12 people"),
        (Difficulty(windows=1, depth=0, form="live"), "depth 0 is outside of 1..6"),
        (Difficulty(windows=1, depth=7, form="facts"), "depth 7 is outside of 1..6"),
    ],
)
def test_difficulties_it_does_not_have(difficulty: Difficulty, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ROTA.batch(np.random.default_rng(0), 1, difficulty)
