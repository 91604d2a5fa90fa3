"""The English of a problem, piece by piece, and the tokenizer that has one token a piece."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from transformers import PreTrainedTokenizerFast

from agentsleep.chat import CHAT_TEMPLATE
from agentsleep.tasks.gsm.problem import Problem, Quantity, Sentence
from agentsleep.tasks.gsm.words import TEMPLATES, Template
from agentsleep.tokens import build_tokenizer, encode_text

ANSWER = " Answer:"
SENTENCE_TOKENS = 9  # at most: a sum or a difference
QUESTION_TOKENS = 3  # without ANSWER
_EQUALS, _SUM, _DIFFERENCE = " equals", " equals the sum of", " equals the difference of"
_MORE, _TIMES, _AND, _STOP, _HAVE = " more than", " times", " and", ".", " have?"


def sentence_pieces(template: Template, sentence: Sentence) -> list[str]:
    """The pieces whose concatenation is the sentence, a space in front: " The number of ... equals 3."."""
    kind, place = sentence.quantity
    pieces = [f" The number of {template.kinds[kind]}", f" in {template.places[place]}"]
    if sentence.form == "total":
        place = sentence.refs[0].place
        return [*pieces, _EQUALS, f" the total number of {template.everything}", f" in {template.places[place]}", _STOP]
    refs = [
        piece
        for kind, place in sentence.refs
        for piece in (f" the number of {template.kinds[kind]}", f" in {template.places[place]}")
    ]
    if sentence.form in ("sum", "difference"):
        return [*pieces, _SUM if sentence.form == "sum" else _DIFFERENCE, *refs[:2], _AND, *refs[2:], _STOP]
    pieces.append(_EQUALS)
    if sentence.form != "copy":
        pieces.append(f" {sentence.number}")
    if sentence.form in ("more", "times"):
        pieces.append(_MORE if sentence.form == "more" else _TIMES)
    return [*pieces, *refs, _STOP]


def question_pieces(template: Template, quantity: Quantity) -> list[str]:
    """The same of the question: " How many ... does ... have?"."""
    return [f" How many {template.kinds[quantity.kind]}", f" does {template.places[quantity.place]}", _HAVE]


def problem_text(problem: Problem) -> str:
    """All sentences of a problem."""
    return "".join("".join(sentence_pieces(problem.template, s)) for s in problem.sentences).removeprefix(" ")


def question_text(problem: Problem, quantity: Quantity) -> str:
    """The question for a quantity."""
    return "".join(question_pieces(problem.template, quantity)).removeprefix(" ")


def vocabulary(max_value: int) -> list[str]:
    """Every piece, spaces included; the numbers are the last ``max_value + 1``."""
    pieces = [_EQUALS, _SUM, _DIFFERENCE, _MORE, _TIMES, _AND, _STOP, _HAVE, ANSWER]
    for template in TEMPLATES:
        pieces += [
            f"{start} {kind}" for start in (" The number of", " the number of", " How many") for kind in template.kinds
        ]
        pieces += [f"{start} {place}" for start in (" in", " does") for place in template.places]
        pieces.append(f" the total number of {template.everything}")
    return [*pieces, *(f" {number}" for number in range(max_value + 1))]


@dataclass(frozen=True)
class Lexicon:
    """The tokenizer and, for speed, the token of every piece."""

    tokenizer: PreTrainedTokenizerFast
    ids: dict[str, int]

    def encode(self, pieces: list[str]) -> list[int]:
        """Their tokens; equal to encoding the text that they make."""
        return [self.ids[piece] for piece in pieces]


@cache
def lexicon(max_value: int) -> Lexicon:
    """Of all problems whose numbers go up to ``max_value``."""
    pieces = vocabulary(max_value)
    tokenizer = build_tokenizer(pieces, CHAT_TEMPLATE)
    return Lexicon(tokenizer, {piece: encode_text(tokenizer, piece)[0] for piece in pieces})
