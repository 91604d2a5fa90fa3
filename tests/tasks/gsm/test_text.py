from __future__ import annotations

import re
from random import Random

import pytest

from agentsleep.tasks.gsm import Problem, Quantity, Sentence, grow
from agentsleep.tasks.gsm.text import (
    ANSWER,
    QUESTION_TOKENS,
    SENTENCE_TOKENS,
    lexicon,
    problem_text,
    question_pieces,
    question_text,
    sentence_pieces,
    vocabulary,
)
from agentsleep.tasks.gsm.words import KINDS, PLACES, TEMPLATES
from agentsleep.tokens import decode_text, encode_text

OTTER, HERON, LYNX = Quantity(0, 0), Quantity(2, 1), Quantity(3, 1)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        (Sentence(OTTER, "number", 3), "3."),
        (Sentence(OTTER, "copy", 0, (HERON,)), "the number of adult heron in Birch Island."),
        (Sentence(OTTER, "more", 2, (HERON,)), "2 more than the number of adult heron in Birch Island."),
        (Sentence(OTTER, "times", 4, (HERON,)), "4 times the number of adult heron in Birch Island."),
        (
            Sentence(OTTER, "sum", 0, (HERON, LYNX)),
            "the sum of the number of adult heron in Birch Island and the number of adult lynx in Birch Island.",
        ),
        (
            Sentence(OTTER, "difference", 0, (LYNX, HERON)),
            "the difference of the number of adult lynx in Birch Island and the number of adult heron in Birch Island.",
        ),
        (Sentence(OTTER, "total", 0, (HERON, LYNX)), "the total number of adult animals in Birch Island."),
    ],
)
def test_sentences(sentence: Sentence, words: str) -> None:
    start = " The number of adult otter in Alder Hollow equals "
    assert "".join(sentence_pieces(TEMPLATES[0], sentence)) == start + words


def test_questions_and_problems() -> None:
    problem = Problem(TEMPLATES[0], (Sentence(LYNX, "number", 3), Sentence(OTTER, "times", 2, (LYNX,))), {}, {})
    assert question_text(problem, LYNX) == "How many adult lynx does Birch Island have?"
    assert problem_text(problem) == (
        "The number of adult lynx in Birch Island equals 3. "
        "The number of adult otter in Alder Hollow equals 2 times the number of adult lynx in Birch Island."
    )


def test_templates() -> None:
    kinds = [kind for template in TEMPLATES for kind in template.kinds]
    places = [place for template in TEMPLATES for place in template.places]
    assert len(TEMPLATES) == 3
    assert all(len(t.kinds) == KINDS and len(t.places) == PLACES for t in TEMPLATES)
    assert len(set(kinds)) == len(kinds)
    assert len(set(places)) == len(places)
    for name in (*kinds, *places):
        assert not re.search(r"\b(in|and|does|have|equals)\b|[.?]", name)  # these tell where a name ends


@pytest.mark.parametrize("max_value", [4, 20, 100])
def test_every_piece_is_one_token_of_its_own(max_value: int) -> None:
    pieces = vocabulary(max_value)
    tokenizer, ids = lexicon(max_value).tokenizer, lexicon(max_value).ids
    assert len(set(pieces)) == len(pieces) == len(set(ids.values()))
    for piece in pieces:
        assert encode_text(tokenizer, piece) == [ids[piece]]
        assert decode_text(tokenizer, [ids[piece]]) == piece
    assert {f" {number}" for number in range(max_value + 1)} <= set(pieces)
    assert f" {max_value + 1}" not in pieces


def test_encoding_the_english_gives_the_tokens_of_its_pieces() -> None:
    words = lexicon(20)
    longest = 0
    for seed in range(40):
        problem = grow(Random(seed), quantities=12, depth=8, max_value=20)
        sentences = [sentence_pieces(problem.template, sentence) for sentence in problem.sentences]
        longest = max(longest, *map(len, sentences))
        questions = [[*question_pieces(problem.template, quantity), ANSWER] for quantity in problem.values]
        assert {len(question) for question in questions} == {QUESTION_TOKENS + 1}
        pieces = [piece for part in (*sentences, *questions) for piece in part]
        assert words.encode(pieces) == encode_text(words.tokenizer, "".join(pieces))
        assert decode_text(words.tokenizer, words.encode(pieces)).startswith(f" {problem_text(problem)} How many ")
    assert longest == SENTENCE_TOKENS


def test_foreign_text_round_trips() -> None:
    tokenizer = lexicon(20).tokenizer
    text = "The total number of wölfe in Alder Hollow equals 21."
    assert decode_text(tokenizer, encode_text(tokenizer, text)) == text
