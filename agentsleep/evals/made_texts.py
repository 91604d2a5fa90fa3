"""Texts that a model is probed with: facts to be asked for, stories that repeat themselves, a user's own in windows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from agentsleep.errors import SettingsError
from agentsleep.tokens import encode_text

FACTS = 8  # in a window, or as many as fit
FEWEST = 8  # pairs of windows that a text is cut into, and tokens of such a window
COLOURS = ("red", "blue", "green", "white", "black", "brown", "grey", "pink")
THINGS = ("door", "box", "car", "boat", "house", "key", "bag", "lamp", "clock", "chair", "wall", "shed")
NAMES = ("Anna", "Ben", "Clara", "David", "Eva", "Felix", "Greta", "Henry", "Ida", "Jonas", "Kira", "Leo")
TOWNS = ("Oslo", "Rome", "Paris", "Berlin", "London", "Madrid", "Vienna", "Lisbon", "Athens", "Dublin")
WORKS = ("baker", "doctor", "farmer", "painter", "pilot", "teacher", "lawyer", "singer", "nurse", "sailor")
FOODS = ("apples", "bread", "cheese", "soup", "rice", "fish", "honey", "beans", "plums", "cake")


class Fact(NamedTuple):
    """The tokens of "The code of the red door is", of " 4821", and of "."."""

    beginning: list[int]
    code: list[int]
    end: list[int]


def head_of(tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """What the tokenizer puts before a text: the token that begins it, or nothing."""
    first: list[int] = tokenizer.backend_tokenizer.encode("", add_special_tokens=True).ids
    return first if first == [tokenizer.bos_token_id] else []


def facts(tokenizer: PreTrainedTokenizerFast, rng: np.random.Generator, room: int) -> list[Fact]:
    """As many as fit into ``room`` tokens, at most eight; no two have a thing or a code in common."""
    keys = rng.permutation(len(COLOURS) * len(THINGS))[:FACTS].tolist()
    codes = (1000 + rng.choice(9000, FACTS, replace=False)).tolist()
    told: list[Fact] = []
    for key, code in zip(keys, codes, strict=True):
        beginning = f" The code of the {COLOURS[key % len(COLOURS)]} {THINGS[key // len(COLOURS)]} is"
        # encoded apart, so that the question has the very tokens of the fact
        fact = Fact(*(encode_text(tokenizer, part) for part in (beginning, f" {code}", ".")))
        room -= sum(map(len, fact))
        if room < 0:
            break
        told.append(fact)
    return told


def story(rng: np.random.Generator, words: int) -> str:
    """At least so many words about four people: each fact is told again and again, so that what was read helps."""
    told = []
    for name in rng.permutation(NAMES)[:4]:
        told += [
            f"{name} lives in {rng.choice(TOWNS)}.",
            f"{name} works as a {rng.choice(WORKS)}.",
            f"{name} likes {rng.choice(FOODS)}.",
        ]
    rounds = [" ".join(rng.permutation(told)) for _ in range(-(-words // (3 * len(told))))]
    return " ".join(rounds)


def cut(ids: Sequence[int], longest: int, samples: int) -> list[tuple[list[int], list[int]]]:
    """Disjoint pairs of neighbouring windows, at most ``samples``, from all over a text; all windows are equally long.

    Raises:
        SettingsError: the text is too short.
    """
    size = min(longest, len(ids) // (2 * FEWEST))
    if size < FEWEST:
        raise SettingsError(
            f"the text has {len(ids)} tokens, too few for {FEWEST} pairs of windows; give at least "
            f"{2 * FEWEST * FEWEST}"
        )
    windows = [list(ids[i : i + size]) for i in range(0, len(ids) - size + 1, size)]
    pairs = [pair for i, pair in enumerate(pairwise(windows)) if i % 2 == 0]
    chosen = np.unique(np.linspace(0, len(pairs) - 1, min(samples, len(pairs))).round().astype(int))
    return [pairs[i] for i in chosen]
