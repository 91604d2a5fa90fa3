from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from agentsleep.errors import InputError, SettingsError
from agentsleep.tasks import IGNORE, Batch, Difficulty, Task, Window
from agentsleep.tasks.gsm import Gsm, solve
from agentsleep.tokens import decode_text, encode_text
from tests.tasks.helpers import check_form, check_seeds, real

GSM = Gsm()
QUESTION = re.compile(r" (How many .+? have\?) Answer:")


def draw(difficulty: Difficulty, size: int = 20, seed: int = 0, task: Gsm = GSM) -> Batch:
    batch = task.batch(np.random.default_rng(seed), size, difficulty)
    check_form(task, batch, size)
    assert len(batch.questions) == 1
    return batch


def english(window: Window, row: int, task: Gsm = GSM) -> str:
    """The text of a row; the tokenizer must give the row's tokens for it."""
    ids = real(window, row)
    text = decode_text(task.tokenizer, ids)
    assert encode_text(task.tokenizer, text) == ids
    return text


def labels(window: Window, row: int) -> list[tuple[int, int, int]]:
    """Place, answer and depth of every label of a row."""
    return [
        (place, int(decode_text(GSM.tokenizer, [int(label)]).strip()), int(window.depth[row, place]))
        for place, label in enumerate(window.labels[row])
        if int(label) != IGNORE
    ]


@pytest.mark.parametrize("windows", [2, 3, 5, 12])
def test_all_asks_every_quantity(windows: int) -> None:
    batch = draw(Difficulty(windows=windows, depth=8, form="all"))
    assert len(batch.context) == windows
    (window,) = batch.questions
    assert window.ids.shape[1] == 12 * 4
    shares = [len(part) for part in np.array_split(np.arange(12), windows)]
    for row in range(20):
        told = [english(context, row) for context in batch.context]
        assert [text.count(".") for text in told] == shares
        assert all(re.fullmatch(r"( The number of [^.]+\.)+", text) for text in told)
        text = english(window, row)
        asked = QUESTION.findall(text)
        assert len(set(asked)) == len(asked) == 12
        assert text == "".join(f" {question} Answer:" for question in asked)
        answers = labels(window, row)
        assert [place for place, _, _ in answers] == [4 * i + 3 for i in range(12)]
        for question, (_, answer, op) in zip(asked, answers, strict=True):
            solution = solve("".join(told), question)
            assert (solution.answer, solution.op) == (answer, op)
        assert {op for _, _, op in answers} == set(range(1, 9))
    for context in batch.context:
        assert (context.labels == IGNORE).all()


@pytest.mark.parametrize("form", ["last", "first"])
def test_one_question_before_or_behind(form: str) -> None:
    batch = draw(Difficulty(windows=3, depth=8, form=form), size=120)
    (window,) = batch.questions
    ops: Counter[int] = Counter()
    for row in range(120):
        told = [english(context, row) for context in batch.context]
        text = english(window, row)
        if form == "first":
            assert text == " Answer:"
            question, told[0] = told[0].split("?", 1)
            question = f"{question}?"
        else:
            question = text.removesuffix(" Answer:")
        assert "How many" not in "".join(told)
        assert [part.count(".") for part in told] == [4, 4, 4]
        ((place, answer, op),) = labels(window, row)
        assert place == (0 if form == "first" else 3)
        solution = solve("".join(told), question)
        assert (solution.answer, solution.op) == (answer, op)
        ops[op] += 1
    assert sorted(ops) == list(range(1, 9))
    assert min(ops.values()) > 5  # 15 each


@pytest.mark.parametrize("form", ["all", "last", "first"])
def test_depth_bounds_the_ops(form: str) -> None:
    batch = draw(Difficulty(windows=3, depth=3, form=form), size=60)
    ops = Counter(op for row in range(60) for _, _, op in labels(batch.questions[0], row))
    assert sorted(ops) == [1, 2, 3]
    assert min(ops.values()) > 10


def test_questions_come_in_random_order() -> None:
    batch = draw(Difficulty(windows=2, depth=8, form="all"), size=60)
    first = Counter(labels(batch.questions[0], row)[0][2] for row in range(60))
    assert len(first) > 5
    told = 0
    for row in range(60):
        sentence = re.match(r" The number of (.+?) in (.+?) equals", english(batch.context[0], row))
        assert sentence
        told += (
            QUESTION.findall(english(batch.questions[0], row))[0] == f"How many {sentence[1]} does {sentence[2]} have?"
        )
    assert told < 20  # 1 in 12 by chance: the order of the questions is not that of the sentences


@pytest.mark.parametrize("form", ["all", "last", "first"])
def test_seeds(form: str) -> None:
    check_seeds(GSM, Difficulty(windows=2, depth=5, form=form))


def test_examples() -> None:
    examples = GSM.examples(np.random.default_rng(0), 80, 4)
    assert examples == GSM.examples(np.random.default_rng(0), 80, 4)
    assert set(Counter(example.op for example in examples)) == {1, 2, 3, 4}
    for example in examples:
        solution = solve(example.problem, example.question)
        assert (solution.answer, solution.op) == (example.answer, example.op)
        assert not example.problem.startswith(" ")
        assert not example.question.startswith(" ")
    with pytest.raises(SettingsError, match=r"depth 9 is outside of 1\.\.8"):
        GSM.examples(np.random.default_rng(0), 1, 9)


def test_sizes() -> None:
    task: Task = GSM
    assert task.name == "gsm"
    assert task.vocab_size == len(GSM.tokenizer)
    assert list(task.depths) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert Gsm(max_value=30).vocab_size == GSM.vocab_size + 10
    for windows in (2, 3):
        for form in ("all", "last", "first"):
            batch = draw(Difficulty(windows=windows, depth=8, form=form), size=40)
            assert max(w.ids.shape[1] for w in (*batch.context, *batch.questions)) <= task.window


def test_chance_is_what_guessing_the_most_common_answer_gets() -> None:
    assert 0.09 < GSM.chance() < 0.15
    assert GSM.chance() == Gsm().chance()
    batch = draw(Difficulty(windows=2, depth=8, form="all"), size=400, seed=5)
    by_op: dict[int, Counter[int]] = {op: Counter() for op in GSM.depths}
    for row in range(400):
        for _, answer, op in labels(batch.questions[0], row):
            by_op[op][answer] += 1
    shares = [max(answers.values()) / answers.total() for answers in by_op.values()]
    assert np.mean(shares) == pytest.approx(GSM.chance(), abs=0.02)


def test_copies_are_followed_and_not_worked_out() -> None:
    """Whatever forms a task has: each value is a number of some sentence, and every op is asked."""
    batch = draw(Difficulty(windows=3, depth=8, form="copies"), size=60)
    check_form(GSM, batch, 60)
    (questions,) = batch.questions
    digits = dict(enumerate(GSM.tokenizer.convert_ids_to_tokens(range(GSM.vocab_size))))
    numbers = {token for token, text in digits.items() if text.lstrip("Ġ").isdigit()}
    for row in range(60):
        told = {int(token) for window in batch.context for token in window.ids[row].tolist()} & numbers
        labels = {int(label) for label in questions.labels[row].tolist()} & numbers
        assert labels
        assert labels <= told
    assert {int(depth) for depth in questions.depth.unique()} == set(range(9))


def test_forms_are_those_of_the_sentences() -> None:
    task = Gsm(forms=["difference", "more", "copy", "more"])  # type: ignore[arg-type]  # as TOML gives them
    assert task == Gsm(forms=("copy", "more", "difference"))
    assert task.vocab_size == GSM.vocab_size
    assert GSM.forms == ("copy", "more", "times", "sum", "difference", "total")
    batch = draw(Difficulty(windows=2, depth=8, form="all"), size=40, task=task)
    told = " ".join(english(context, row) for context in batch.context for row in range(40))
    told += " ".join(example.problem for example in task.examples(np.random.default_rng(0), 20, 8))
    assert not re.search("times|the sum of|total", told)
    assert min(told.count(words) for words in ("equals the number of", "more than", "the difference of")) > 30


def test_chance_is_of_the_forms() -> None:
    copies, differences = Gsm(forms=("copy",)), Gsm(forms=("copy", "difference"))
    assert 0.1 < copies.chance() < 0.13  # each of 1..10 is as likely as the others
    assert differences.chance() > copies.chance() + 0.02  # these are small
    assert copies.chance() == Gsm(forms=["copy"]).chance()  # type: ignore[arg-type]


def test_questions_of_one_step_need_no_form_for_two() -> None:
    draw(Difficulty(windows=2, depth=1, form="all"), size=2, task=Gsm(max_depth=1, forms=("sum",)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantities": 8}, r"max_depth 8 must lie in 1\.\.7, below the 8 quantities"),
        ({"max_depth": 0}, r"max_depth 0 must lie in 1\.\.11"),
        ({"quantities": 18}, "quantities is 18; the words are enough for 17"),
        ({"max_value": 3}, r"max_value is 3; it must lie in 4\.\.100"),
        ({"max_value": 101}, "max_value is 101"),
        ({"forms": ()}, r"forms is \(\); it must be a list with at least one of copy, more, times, sum, difference"),
        ({"forms": []}, r"forms is \[\]; it must be a list"),
        ({"forms": "copy"}, "forms 'copy' has 'c'; it must be a list of copy, more, times, sum, difference, total"),
        ({"forms": ("copy", "minus")}, r"forms \('copy', 'minus'\) has 'minus'; it must be a list of copy, more"),
        ({"forms": ("copy", "number")}, "has 'number'; it must"),
        ({"forms": ["copy", ["more"]]}, r"has \['more'\]; it must"),
        ({"forms": ["sum", "total"]}, r"2 steps with forms \['sum', 'total'\] alone; add one of copy, more, times"),
    ],
)
def test_settings_that_make_no_task(settings: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Gsm(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("window", "difficulty", "words"),
    [
        (64, Difficulty(windows=2, depth=1), "form 'plain' is not one of all, copies, last, first"),
        (64, Difficulty(windows=0, depth=1, form="all"), "0 windows cannot share 12 sentences"),
        (64, Difficulty(windows=13, depth=1, form="all"), "13 windows"),
        (64, Difficulty(windows=2, depth=0, form="all"), r"depth 0 is outside of 1\.\.8"),
        (64, Difficulty(windows=2, depth=9, form="all"), "depth 9"),
        (64, Difficulty(windows=1, depth=1, form="all"), "1 windows can take 108 tokens .* window is 64; .*window=108"),
        (54, Difficulty(windows=2, depth=1, form="first"), "2 windows can take 57 tokens .* more windows or window=57"),
        (40, Difficulty(windows=3, depth=1, form="all"), "form 'all' take 48 tokens, but window is 40; use window=48"),
        (3, Difficulty(windows=12, depth=1, form="last"), "can take 9 tokens"),
    ],
)
def test_difficulties_it_does_not_have(window: int, difficulty: Difficulty, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        Gsm(window=window).batch(np.random.default_rng(0), 1, difficulty)


def test_what_just_fits() -> None:
    for window, windows, form in ((108, 1, "all"), (57, 2, "first"), (54, 2, "all"), (36, 3, "last")):
        draw(Difficulty(windows=windows, depth=2, form=form), size=2, task=Gsm(window=window))


@pytest.mark.parametrize("form", ["all", "copies", "first"])
def test_a_trace_tells_what_follows_from_the_text_so_far(form: str) -> None:
    task = Gsm(forms=("copy", "more", "times", "sum", "difference"))  # the solver refuses a total of what comes later
    batch = draw(Difficulty(windows=3, depth=6, form=form), size=30, task=task)
    counts: Counter[str] = Counter()
    for row in range(30):
        windows = [english(context, row) for context in batch.context]
        windows[0] = windows[0].split("?")[-1]
        whole = "".join(windows)
        for number, context in enumerate(batch.context):
            assert context.trace is not None
            tokens = real(context, row)
            stops = [i for i, token in enumerate(tokens) if decode_text(GSM.tokenizer, [token]) == "."]
            sentences = windows[number].split(".")[:-1]
            for i, (place, sentence) in enumerate(zip(stops, sentences, strict=True)):
                name = re.match(r" The number of (.+?) in (.+?) equals", sentence)
                assert name
                question = f"How many {name[1]} does {name[2]} have?"
                before = "".join(windows[:number])
                so_far = before + "".join(f"{read}." for read in sentences[: i + 1])
                for passed, known in ((1, so_far), (2, before + windows[number]), (4, before + windows[number])):
                    told = int(context.trace(passed, 4)[row, place])
                    try:
                        follows = solve(known, question) == solve(whole, question)
                    except InputError:
                        follows = False
                    assert (told != IGNORE) == follows
                    counts[f"{passed} {follows}"] += 1
                    if follows:
                        answer = solve(whole, question).answer
                        assert told == encode_text(GSM.tokenizer, f" {answer}")[0]
            elsewhere = [place for place in range(context.ids.shape[1]) if place not in stops]
            for passed in (1, 2):
                labels = context.trace(passed, 4)
                assert labels.shape == context.ids.shape
                assert (labels[row, elsewhere] == IGNORE).all()  # padding too
    assert counts["1 True"] < counts["2 True"] == counts["4 True"]
    assert min(counts.values()) > 20


def test_behind_the_last_window_every_value_is_known() -> None:
    """Totals too."""
    batch = draw(Difficulty(windows=2, depth=8, form="all"), size=30)
    last = batch.context[-1]
    assert last.trace is not None
    assert batch.questions[0].trace is None
    labels = last.trace(2, 2)
    texts = [[english(context, row) for context in batch.context] for row in range(30)]
    assert "the total number" in "".join(text for _, text in texts)
    for row, (first, text) in enumerate(texts):
        names = re.findall(r" The number of (.+?) in (.+?) equals", text)
        wanted = [solve(first + text, f"How many {kind} does {place} have?").answer for kind, place in names]
        told = [int(label) for label in labels[row] if label != IGNORE]
        assert [decode_text(GSM.tokenizer, [label]).strip() for label in told] == [str(value) for value in wanted]
