"""Lexicon, judged by a reader of the spelled text that knows English and nothing of the generator."""

from __future__ import annotations

import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from agentsleep.errors import InputError, SettingsError
from agentsleep.tasks import IGNORE, Batch, Difficulty
from agentsleep.tasks.lexicon import KNOWN, SYLLABLES, Lexicon, spellings
from tests.tasks.helpers import check_form, check_seeds, real, windows_of

ENGLISH = {"hot": "cold", "big": "small", "wet": "dry", "fast": "slow", "light": "dark", "loud": "quiet"}
ENGLISH |= {b: a for a, b in ENGLISH.items()}
SENTENCE = re.compile(r"(\w+) (is|is the opposite of) (\w+) \.(?: |$)")
QUESTION = re.compile(r"(\w+) \?(?: |$)")
Definitions = dict[str, tuple[str, str]]


def read_all(pattern: re.Pattern[str], text: str) -> list[tuple[str, ...]]:
    """What a text says; nothing in it may be left over."""
    assert pattern.sub("", text) == ""
    found = pattern.findall(text)
    return [sentence if isinstance(sentence, tuple) else (sentence,) for sentence in found]


def told(task: Lexicon, batch: Batch, row: int) -> list[tuple[str, ...]]:
    """The definitions of a row as (word, relation, target), in the order of the text."""
    texts = [task.spell(real(window, row)) for window in batch.context]
    return [sentence for text in texts for sentence in read_all(SENTENCE, text)]


def asked(task: Lexicon, batch: Batch, row: int) -> list[tuple[str, str, int]]:
    """The questions of a row as (word, answer, depth)."""
    (window,) = batch.questions
    ids = real(window, row)
    words = [word for (word,) in read_all(QUESTION, task.spell(ids))]
    places = [i for i in range(len(ids)) if int(window.labels[row, i]) != IGNORE]
    assert places == [i for i, token in enumerate(ids) if task.spell([token]) == "?"]
    answers = [(task.spell([int(window.labels[row, i])]), int(window.depth[row, i])) for i in places]
    return [(word, *answer) for word, answer in zip(words, answers, strict=True)]


def solve(definitions: Definitions, word: str) -> tuple[str, int]:
    """What a word means, and how many definitions that takes."""
    if word in ENGLISH:
        return word, 0
    relation, target = definitions[word]
    meaning, chain = solve(definitions, target)
    return (meaning if relation == "is" else ENGLISH[meaning]), chain + 1


@pytest.mark.parametrize("held_out", [False, True])
@pytest.mark.parametrize(("windows", "depth"), [(1, 4), (3, 4), (5, 2), (12, 1)])
def test_answers_follow_from_the_definitions(held_out: bool, windows: int, depth: int) -> None:
    task = Lexicon(held_out=held_out)
    batch = task.batch(np.random.default_rng(0), 20, Difficulty(windows=windows, depth=depth))
    check_form(task, batch, 20)
    assert len(batch.context) == windows
    assert all((window.labels == IGNORE).all() for window in batch.context)
    for row in range(20):
        counts = [task.spell(real(window, row)).count(".") for window in batch.context]
        assert sum(counts) == 12
        assert max(counts) - min(counts) <= 1
        definitions = {word: (relation, target) for word, relation, target in told(task, batch, row)}
        questions = asked(task, batch, row)
        assert sorted(word for word, _, _ in questions) == sorted(definitions)
        assert len(definitions) == 12  # distinct words, one definition and one question each
        assert not ENGLISH.keys() & definitions.keys()
        for word, answer, chain in questions:
            assert solve(definitions, word) == (answer, chain)


@pytest.mark.parametrize(("words", "depth"), [(12, 4), (12, 3), (14, 4), (10, 4), (4, 4), (5, 1)])
def test_depths_are_asked_equally_often(words: int, depth: int) -> None:
    task = Lexicon(words=words)
    batch = task.batch(np.random.default_rng(0), 60, Difficulty(windows=1, depth=depth))
    total: Counter[int] = Counter()
    for row in range(60):
        chains = Counter(chain for _, _, chain in asked(task, batch, row))
        assert sorted(chains) == list(range(1, depth + 1))
        assert max(chains.values()) - min(chains.values()) <= 1
        total += chains
    assert max(total.values()) < 1.2 * min(total.values())  # what does not divide evenly goes to random depths


def test_relations_and_meanings_are_balanced() -> None:
    task = Lexicon()
    batch = task.batch(np.random.default_rng(0), 200, Difficulty(windows=1, depth=4))
    relations, meanings = Counter[str](), Counter[str]()
    for row in range(200):
        relations.update(relation for _, relation, _ in told(task, batch, row))
        meanings.update(answer for _, answer, _ in asked(task, batch, row))
    assert 0.45 < relations["is"] / 2400 < 0.55
    assert sorted(meanings) == sorted(ENGLISH)
    assert all(100 < n < 320 for n in meanings.values())  # 200 by chance; the words of a tree share theirs


def test_order_says_nothing() -> None:
    """Neither in the context nor in the questions does a place tell how deep a word lies, or which word it was."""
    task = Lexicon()
    batch = task.batch(np.random.default_rng(0), 200, Difficulty(windows=1, depth=4))
    before = after = same = 0
    place_of_depth: dict[int, list[int]] = {1: [], 2: [], 3: [], 4: []}
    for row in range(200):
        definitions, questions = told(task, batch, row), asked(task, batch, row)
        place = {word: i for i, (word, _, _) in enumerate(definitions)}
        for word, _, target in definitions:
            if target in place:
                before += place[target] < place[word]
                after += place[target] > place[word]
        for i, (word, _, chain) in enumerate(questions):
            place_of_depth[chain].append(i)
            same += place[word] == i
    assert 0.45 < before / (before + after) < 0.55
    assert all(5 < sum(places) / len(places) < 6 for places in place_of_depth.values())  # 5.5 is the middle
    assert same < 2400 * 0.12  # 1 in 12 by chance


def test_a_fifth_of_the_spellings_is_held_out() -> None:
    trained, held = spellings(24, False), spellings(24, True)
    assert len(held) == 24 * 23 // 5 == 110
    assert sorted(trained + held) == [(a, b) for a in range(24) for b in range(24) if a != b]
    # The split is part of every trained model: it must never change.
    assert held[:3] == ((15, 20), (2, 0), (2, 22))
    for place in (0, 1):  # no syllable is new to a model in either place
        assert {pair[place] for pair in trained} == set(range(24))


@pytest.mark.parametrize("held_out", [False, True])
def test_words_come_from_their_own_part(held_out: bool) -> None:
    """Any two syllables side by side make a word, in the context and in the questions."""
    task = Lexicon(held_out=held_out)
    seen: set[tuple[int, int]] = set()
    for seed in range(3):
        batch = task.batch(np.random.default_rng(seed), 32, Difficulty(windows=2, depth=4))
        for window in windows_of(batch):
            for row in range(32):
                seen |= {(a, b) for a, b in pairwise(real(window, row)) if a < 24 and b < 24}
    assert seen <= set(spellings(24, held_out))
    assert len(seen) > 0.8 * len(spellings(24, held_out))
    assert not seen & set(spellings(24, not held_out))


def test_spelling() -> None:
    task = Lexicon()
    hot, cold, is_, opposite, stop, ask = 24, 25, 36, 37, 38, 39
    assert task.spell([0, 1, opposite, 5, 7, stop, 5, 7, is_, cold, stop]) == (
        "dawu is the opposite of mapo . mapo is cold ."
    )
    assert task.spell([0, 1, ask, hot]) == "dawu ? hot"
    assert task.spell([]) == ""
    assert task.spell(range(24, 36)) == " ".join(KNOWN[:12])
    assert len(set(SYLLABLES)) == len(SYLLABLES) == 80
    assert len(set(KNOWN)) == len(KNOWN) == 28
    two = {a + b for a in SYLLABLES for b in SYLLABLES}
    assert not two & {*KNOWN, "is", "the", "opposite", "of"}  # a new word is never a known one


@pytest.mark.parametrize("token", [-100, -1, 40])
def test_tokens_that_cannot_be_spelled(token: int) -> None:
    with pytest.raises(InputError, match=rf"token {token} is outside of the vocabulary, 0\.\.39"):
        Lexicon().spell([0, token])


@pytest.mark.parametrize("held_out", [False, True])
def test_seeds(held_out: bool) -> None:
    check_seeds(Lexicon(held_out=held_out), Difficulty(windows=3, depth=4))


@pytest.mark.parametrize(("words", "max_depth", "window"), [(12, 4, 69), (12, 1, 60), (7, 3, 40)])
def test_sizes(words: int, max_depth: int, window: int) -> None:
    task = Lexicon(words=words, max_depth=max_depth)
    assert task.vocab_size == 24 + 12 + 4
    assert task.window == window
    assert task.chance() == 1 / 12
    assert list(task.depths) == list(range(1, max_depth + 1))
    batch = task.batch(np.random.default_rng(0), 30, Difficulty(windows=1, depth=max_depth))
    assert max(one.ids.shape[1] for one in windows_of(batch)) == window


def test_the_largest_lexicon() -> None:
    task = Lexicon(words=80, known=28, syllables=80, max_depth=8)
    batch = task.batch(np.random.default_rng(0), 4, Difficulty(windows=4, depth=8))
    check_form(task, batch, 4)
    assert {chain for _, _, chain in asked(task, batch, 0)} == set(range(1, 9))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"known": 11}, "known is 11; opposites come in pairs"),
        ({"known": 0}, "known is 0"),
        ({"known": 30}, r"known is 30.*2\.\.28"),
        ({"syllables": 1}, r"syllables is 1; it must lie in 2\.\.80"),
        ({"syllables": 81}, "syllables is 81"),
        ({"max_depth": 0}, r"max_depth 0 must lie in 1\.\.12"),
        ({"max_depth": 13}, "max_depth 13 .* the number of words"),
        ({"words": 0}, r"max_depth 4 must lie in 1\.\.0, the number of words"),
        ({"words": 443}, "words is 443, but 24 syllables give 442 training words; use more syllables"),
        ({"syllables": 7, "held_out": True}, "words is 12, but 7 syllables give 8 held-out words"),
    ],
)
def test_settings_that_make_no_task(settings: dict[str, int], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Lexicon(**settings)  # type: ignore[arg-type]


def test_all_the_words_there_are() -> None:
    task = Lexicon(words=110, held_out=True)
    batch = task.batch(np.random.default_rng(0), 1, Difficulty(windows=1, depth=4))
    assert len(asked(task, batch, 0)) == 110


@pytest.mark.parametrize(
    ("difficulty", "words"),
    [
        (Difficulty(windows=13, depth=1), "13 windows cannot share 12 definitions"),
        (Difficulty(windows=0, depth=1), "0 windows"),
        (Difficulty(windows=1, depth=5), r"depth 5 is outside of 1\.\.4"),
        (Difficulty(windows=1, depth=0), "depth 0"),
    ],
)
def test_difficulties_it_does_not_have(difficulty: Difficulty, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Lexicon().batch(np.random.default_rng(0), 1, difficulty)
