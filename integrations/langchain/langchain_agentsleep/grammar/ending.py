"""How a sentence of a grammar that is begun comes to an end in few tokens."""

from __future__ import annotations

import numpy as np
from llguidance import LLMatcher

from langchain_agentsleep.grammar.rules import Rules
from langchain_agentsleep.grammar.vocabulary import Vocabulary

_ATTEMPTS = 6
_SEARCHES = 3  # for one token: a way behind each of as many that begin something
_LONGEST = 4096
_CLOSING = {b"}": 1, b"]": 1, b'"': 2, b"\n": 3, b",": 3, b":": 3, b"0": 4} | {str(i).encode(): 5 for i in range(1, 10)}
_OTHER, _FREE = 9, 64  # a rank, and how many tokens are allowed where any text may stand


class Endings:
    """Keeps a way to the end: tokens that complete the sentence, the end token aside.

    llguidance tells which tokens are allowed next, not how far it is to the end. So a way is found by walking: what
    closes a string, an array or an object before what goes on with it; where nothing closes, a token at random, several
    times over, and the shortest way is kept. It stays one while text is written into a string, and is searched anew
    where something else is begun.
    """

    def __init__(self, vocabulary: Vocabulary, rules: Rules) -> None:
        self._vocabulary, self._jump = vocabulary, rules.jump
        self._random = np.random.default_rng(0)
        self._way: list[int] | None = None
        self._stale = 0  # tokens since the way was one
        self._tried: dict[int, list[int]] = {}
        self._closers = [
            [one] if isinstance(one, int) else vocabulary.guidance.greedy_tokenize(one) for one in rules.closers
        ]
        self._ranks = np.full(len(vocabulary), _OTHER, dtype=np.int8)
        for token, spelt in enumerate(vocabulary.spelt):
            if spelt in _CLOSING:
                self._ranks[token] = _CLOSING[spelt]

    def update(self, matcher: LLMatcher, most: int) -> bool:
        """Finds a way of ``most`` tokens at most; whether there is one."""
        self._stale = 0
        if self._way is not None and len(self._way) <= most and self._ends(matcher, self._way):
            return True
        self._way = self._search(matcher, most)
        return self._way is not None

    def longer(self, matcher: LLMatcher) -> int | str:
        """How many tokens a sentence needs, its end included."""
        found = self._search(matcher, _LONGEST)
        return f"more than {_LONGEST}" if found is None else len(found) + 1

    def push(self, token: int, matcher: LLMatcher, most: int) -> None:
        """A token was written; ``most`` more may follow besides the end token."""
        if self._way is None:
            self.update(matcher, most)
        elif not self._stale and self._way and self._way[0] == token:
            self._way = self._way[1:]
        elif (known := self._tried.get(token)) is not None:
            self._way = known
        else:
            self._stale += 1
            if len(self._way) + self._jump * (self._stale + 2) >= most:
                self.update(matcher, most)
        self._tried = {}

    def close(self, left: int) -> bool:
        """Whether any token that is allowed may be too much, with so many left."""
        return self._way is not None and len(self._way) + 2 + self._jump * (self._stale + 1) >= left

    def fitting(self, matcher: LLMatcher, tokens: list[int], most: int) -> list[int]:
        """Those of the tokens behind which there is a way of ``most`` tokens, and the way that is known."""
        kept = [] if self._way is None else [self._way[0] if self._way else self._vocabulary.end]
        searches = _SEARCHES
        for token in tokens:
            if token in kept or token == self._vocabulary.end:
                kept.append(token)
                continue
            if self._way is not None and len(self._way) > most and not searches:
                continue
            after = matcher.deep_copy()
            if not after.consume_token(token):
                continue
            way = self._way
            if way is None or len(way) > most or not self._ends(after, way):
                way, searches = (self._search(after, most, 2), searches - 1) if searches else (None, 0)
            if way is not None:
                self._tried[token] = way
                kept.append(token)
        return kept

    def _ends(self, matcher: LLMatcher, way: list[int]) -> bool:
        after = matcher.deep_copy()
        return after.try_consume_tokens(way) == len(way) and after.is_accepting()

    def _search(self, matcher: LLMatcher, most: int, attempts: int = _ATTEMPTS) -> list[int] | None:
        best: list[int] | None = None
        for _ in range(attempts):
            way, chosen = self._walk(matcher.deep_copy(), most if best is None else len(best) - 1)
            best = best if way is None else way
            if not chosen:
                break
        return best

    def _walk(self, matcher: LLMatcher, most: int) -> tuple[list[int] | None, bool]:
        """A way, unless it is longer than ``most``; and whether there was a choice in it."""
        way: list[int] = []
        chosen = False
        while not matcher.is_accepting():
            if len(way) >= most:
                return None, chosen
            options = np.flatnonzero(self._vocabulary.allowed(matcher))
            if len(options) == 0:
                return None, chosen
            step = None
            if len(options) > _FREE:  # any text may stand here
                step = next((ids for ids in self._closers if matcher.validate_tokens(ids) == len(ids)), None)
            elif len(options) > 1 and matcher.compute_ff_bytes():  # but one text: in as few tokens as it goes
                step = [int(options[np.argmax(self._vocabulary.lengths[options])])]
            if step is None:
                ranks = self._ranks[options]
                first = options[ranks == ranks.min()]
                chosen |= len(first) > 1
                step = [int(first[self._random.integers(len(first))])]
            way += step
            if not matcher.consume_tokens(step):
                return None, chosen
        return (way if len(way) <= most else None), chosen
