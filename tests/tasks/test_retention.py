from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from agentsleep.errors import SettingsError
from agentsleep.tasks import IGNORE, Batch, Difficulty
from agentsleep.tasks.retention import Retention
from tests.tasks.helpers import check_form, check_seeds, real, windows_of

Key = tuple[int, int]
SYMBOLS, VALUES, NOISE = range(32), range(32, 64), range(64, 80)
MARK = 80


def facts_of(batch: Batch, row: int) -> list[list[tuple[Key, int]]]:
    """The facts of a row, window by window, read token by token; a window of noise holds none."""
    windows = []
    for window in batch.context:
        assert (window.labels == IGNORE).all()
        facts, key = [], []
        noise = False
        for token in real(window, row):
            if token in SYMBOLS:
                key.append(token)
            elif token in VALUES:
                a, b = key
                facts.append(((a, b), token))
                key = []
            else:
                assert token in NOISE
                noise = True
        assert key == []
        assert not (noise and facts)  # one or the other
        windows.append(facts)
    return windows


def asked_of(batch: Batch, row: int) -> list[tuple[Key, int]]:
    """The questions of a row with their labels."""
    (window,) = batch.questions
    questions, key = [], []
    for place, token in enumerate(real(window, row)):
        label, depth = int(window.labels[row, place]), int(window.depth[row, place])
        if token == MARK:
            a, b = key
            questions.append(((a, b), label))
            assert depth == 1
            key = []
        else:
            assert token in SYMBOLS
            assert (label, depth) == (IGNORE, 0)
            key.append(token)
    assert key == []
    return questions


@pytest.mark.parametrize("ask", ["first", "any"])
@pytest.mark.parametrize("form", ["filler", "facts"])
@pytest.mark.parametrize("windows", [1, 2, 9, 129])
def test_answers_are_what_was_stated(ask: str, form: str, windows: int) -> None:
    size = 4
    task = Retention(ask=ask)
    batch = task.batch(np.random.default_rng(0), size, Difficulty(windows=windows, depth=1, form=form))
    check_form(task, batch, size)
    assert [window.ids.shape for window in windows_of(batch)[:-1]] == [(size, 12)] * windows
    for row in range(size):
        stated = facts_of(batch, row)
        later = 4 if form == "facts" else 0
        assert [len(facts) for facts in stated] == [4] + [later] * (windows - 1)
        all_facts = [fact for facts in stated for fact in facts]
        known = dict(all_facts)
        assert len(known) == len(all_facts)  # distinct keys
        questions = asked_of(batch, row)
        assert len({key for key, _ in questions}) == len(questions)
        assert all(known[key] == answer for key, answer in questions)
        if ask == "first":
            assert sorted(questions) == sorted(stated[0])
        else:
            assert len(questions) == min(8, len(known))


def test_any_asks_of_all_windows_alike() -> None:
    batch = Retention(ask="any").batch(np.random.default_rng(0), 300, Difficulty(windows=6, depth=1, form="facts"))
    asked: Counter[int] = Counter()
    for row in range(300):
        window_of = {key: i for i, facts in enumerate(facts_of(batch, row)) for key, _ in facts}
        asked.update(window_of[key] for key, _ in asked_of(batch, row))
    assert sorted(asked) == list(range(6))
    assert all(340 < n < 460 for n in asked.values())  # 400 each by chance


@pytest.mark.parametrize("ask", ["first", "any"])
def test_order_says_nothing(ask: str) -> None:
    """A question stands at no place that its fact would tell."""
    task = Retention(facts=8, ask=ask)
    batch = task.batch(np.random.default_rng(0), 100, Difficulty(windows=1, depth=1, form="filler"))
    same = 0
    for row in range(100):
        ((*stated,),) = facts_of(batch, row)
        same += sum(a == b for a, b in zip(stated, asked_of(batch, row), strict=True))
    assert same < 100 * 8 * 0.2  # 1 in 8 by chance


def test_everything_is_drawn_from() -> None:
    batch = Retention().batch(np.random.default_rng(0), 100, Difficulty(windows=3, depth=1, form="filler"))
    first, *later = batch.context
    assert sorted({*first.ids.flatten().tolist()}) == [*SYMBOLS, *VALUES]
    assert all(sorted({*window.ids.flatten().tolist()}) == [*NOISE] for window in later)
    keys = [key for row in range(100) for (key, _) in facts_of(batch, row)[0]]
    assert any(a == b for a, b in keys)  # a symbol may stand twice in a key
    values = Counter(value for row in range(100) for (_, value) in facts_of(batch, row)[0])
    assert max(values.values()) < 35  # 12.5 by chance: no value is worth guessing


def test_every_key_can_be_used() -> None:
    task = Retention(facts=4, symbols=4)
    batch = task.batch(np.random.default_rng(0), 2, Difficulty(windows=4, depth=1, form="facts"))
    for row in range(2):
        ids = [token for window in batch.context for token in real(window, row)]
        assert sorted(zip(ids[::3], ids[1::3], strict=True)) == [(a, b) for a in range(4) for b in range(4)]


@pytest.mark.parametrize("form", ["filler", "facts"])
@pytest.mark.parametrize("ask", ["first", "any"])
def test_seeds(form: str, ask: str) -> None:
    check_seeds(Retention(ask=ask), Difficulty(windows=3, depth=1, form=form))


@pytest.mark.parametrize(
    ("task", "window"),
    [
        (Retention(), 12),
        (Retention(ask="any"), 24),
        (Retention(ask="any", facts=10), 30),
        (Retention(facts=5, questions=9), 15),
    ],
)
def test_sizes(task: Retention, window: int) -> None:
    assert task.vocab_size == 81
    assert task.window == window
    assert task.chance() == 1 / 32
    assert list(task.depths) == [1]
    batch = task.batch(np.random.default_rng(0), 2, Difficulty(windows=3, depth=1, form="facts"))
    assert max(one.ids.shape[1] for one in windows_of(batch)) == window


def test_the_vocabulary_follows_the_settings() -> None:
    task = Retention(symbols=5, values=7, noise=3)
    assert task.vocab_size == 16
    assert task.chance() == 1 / 7
    batch = task.batch(np.random.default_rng(0), 50, Difficulty(windows=2, depth=1, form="filler"))
    first, later = batch.context
    (questions,) = batch.questions
    assert sorted({*first.ids.flatten().tolist()}) == [*range(12)]
    assert sorted({*later.ids.flatten().tolist()}) == [12, 13, 14]
    assert sorted({*questions.ids.flatten().tolist()}) == [0, 1, 2, 3, 4, 15]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"facts": 0}, "facts is 0; it must be at least 1"),
        ({"symbols": 0}, "symbols is 0"),
        ({"values": 1}, "values is 1; it must be at least 2"),
        ({"noise": 0}, "noise is 0"),
        ({"questions": 0}, "questions is 0"),
        ({"ask": "last"}, "ask 'last' is not one of 'first', 'any'"),
        ({"facts": 17, "symbols": 4}, "facts is 17, but 4 symbols make 16 keys; use more symbols"),
    ],
)
def test_settings_that_make_no_task(settings: dict[str, int], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Retention(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("difficulty", "words"),
    [
        (Difficulty(windows=1, depth=1), "form 'plain' is not one of 'filler', 'facts'"),
        (Difficulty(windows=1, depth=2, form="facts"), "depth 2 cannot be asked"),
        (Difficulty(windows=1, depth=0, form="facts"), "depth 0"),
        (Difficulty(windows=0, depth=1, form="filler"), "0 windows have no room"),
        (
            Difficulty(windows=257, depth=1, form="facts"),
            "257 windows of 4 facts need 1028 keys, but .* make 1024; use",
        ),
    ],
)
def test_difficulties_it_does_not_have(difficulty: Difficulty, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Retention().batch(np.random.default_rng(0), 1, difficulty)
