"""Lexicon: words that the model has never seen are defined through others, evicted, and then used in questions.

    dawu is the opposite of mupo .   mupo is cold .   dawu ?  ->  hot

What the known words mean, and which of them are opposites, no window says: it is learned into the weights. What a new
word means is told in the context alone, at the end of a chain of definitions read in random order. A fifth of all
spellings is held out of training, so that it can be asked whether really new words are understood as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from agentsleep.errors import InputError, SettingsError
from agentsleep.tasks.base import Batch, Difficulty, Row, stack

# fmt: off
KNOWN: tuple[str, ...] = (  # in pairs of opposites; none of them could be two syllables
    "hot", "cold", "big", "small", "wet", "dry", "fast", "slow", "light", "dark", "loud", "quiet", "old", "young",
    "full", "empty", "high", "low", "hard", "soft", "rich", "poor", "good", "bad", "sweet", "sour", "thick", "thin",
)
# fmt: on
_CONSONANTS, _VOWELS = "dwkblmnpgstfrvzh", "auoei"
SYLLABLES: tuple[str, ...] = tuple(  # in an order in which the first few have different vowels too
    c + _VOWELS[(i + shift) % 5] for shift in range(5) for i, c in enumerate(_CONSONANTS)
)
IS, OPPOSITE, STOP, ASK = "is", "is the opposite of", ".", "?"
_SPLIT = b"agentsleep lexicon"  # the constant that decides which spellings are held out


@lru_cache(maxsize=16)
def spellings(syllables: int, held_out: bool) -> tuple[tuple[int, int], ...]:
    """All words of two different syllables, as pairs of tokens: the fifth that is held out, or the other four fifths.

    The split hangs on the number of syllables alone: no seed and no version of a random generator moves it.
    """

    def key(pair: tuple[int, int]) -> bytes:
        return blake2b(b"%d %d" % pair, key=_SPLIT).digest()

    pairs = sorted(((a, b) for a in range(syllables) for b in range(syllables) if a != b), key=key)
    fifth = len(pairs) // 5
    return tuple(pairs[:fifth] if held_out else pairs[fifth:])


@dataclass(frozen=True, kw_only=True)
class Lexicon:
    """Episodes of ``words`` new words, each defined by a known word or by another new word.

    The vocabulary: syllables ``0..syllables-1``; ``known`` words, of which ``2 i`` and ``2 i + 1`` are opposites; then
    ``is``, ``is the opposite of``, ``.`` and ``?``, one token each. A context window holds definitions of 5 or 6
    tokens; the question window asks for every new word, ``w1 w2 ?``, and the answer is the known word that it means.
    The depth of a question is the number of definitions in its chain; all depths are asked equally often.
    ``held_out`` draws the words from the fifth of the spellings that is never drawn from without it.
    """

    words: int = 12
    known: int = 12
    syllables: int = 24
    max_depth: int = 4
    held_out: bool = False
    name: str = "lexicon"

    def __post_init__(self) -> None:
        if not 2 <= self.known <= len(KNOWN) or self.known % 2:
            raise SettingsError(f"known is {self.known}; opposites come in pairs: give an even number, 2..{len(KNOWN)}")
        if not 2 <= self.syllables <= len(SYLLABLES):
            raise SettingsError(f"syllables is {self.syllables}; it must lie in 2..{len(SYLLABLES)}")
        if not 1 <= self.max_depth <= self.words:
            raise SettingsError(f"max_depth {self.max_depth} must lie in 1..{self.words}, the number of words")
        if (there := len(spellings(self.syllables, self.held_out))) < self.words:
            part = "held-out" if self.held_out else "training"
            raise SettingsError(
                f"words is {self.words}, but {self.syllables} syllables give {there} {part} words; use more syllables"
            )

    @property
    def vocab_size(self) -> int:
        return self.syllables + self.known + 4

    @property
    def window(self) -> int:
        return 6 * self.words - self.words // self.max_depth  # chains of one definition have five tokens, others six

    @property
    def depths(self) -> Sequence[int]:
        return range(1, self.max_depth + 1)

    def chance(self) -> float:
        """Of any known word. Who guesses among the words of an episode's definitions, and their opposites, does better:
        few chains end in a known word of their own.
        """
        return 1 / self.known

    def spell(self, ids: Iterable[int]) -> str:
        """Tokens as text; syllables that follow each other make one word. Padding, if any, is spelled too.

        Raises:
            InputError: an id outside of the vocabulary.
        """
        pieces = (*SYLLABLES[: self.syllables], *KNOWN[: self.known], IS, OPPOSITE, STOP, ASK)
        text, inside = "", False
        for token in map(int, ids):
            if not 0 <= token < len(pieces):
                raise InputError(f"token {token} is outside of the vocabulary, 0..{len(pieces) - 1}; was it padding?")
            syllable = token < self.syllables
            text += pieces[token] if not text or (inside and syllable) else f" {pieces[token]}"
            inside = syllable
        return text

    def batch(self, rng: np.random.Generator, size: int, difficulty: Difficulty) -> Batch:
        """``size`` lexicons, their definitions dealt to ``difficulty.windows`` windows; chains of 1..depth definitions.

        Raises:
            SettingsError: more windows than definitions, or a depth that cannot be asked.
        """
        if not 1 <= difficulty.windows <= self.words:
            raise SettingsError(f"{difficulty.windows} windows cannot share {self.words} definitions")
        if not 1 <= difficulty.depth <= self.max_depth:
            raise SettingsError(f"depth {difficulty.depth} is outside of 1..{self.max_depth}")
        context: list[list[Row]] = [[] for _ in range(difficulty.windows)]
        questions: list[Row] = []
        for _ in range(size):
            names, definitions, meanings, chains = self._draw(rng, difficulty.depth)
            order = rng.permutation(self.words)
            for rows, told in zip(context, np.array_split(order, difficulty.windows), strict=True):
                row = Row()
                for w in told:
                    row.read(definitions[w])
                rows.append(row)
            asked = Row()
            for w in rng.permutation(self.words):
                asked.read([*names[w], self.vocab_size - 1])
                asked.labels[-1], asked.depth[-1] = self.syllables + meanings[w], chains[w]
            questions.append(asked)
        return Batch(context=[stack(rows) for rows in context], questions=[stack(questions)])

    def _draw(
        self, rng: np.random.Generator, deepest: int
    ) -> tuple[list[tuple[int, int]], list[list[int]], list[int], list[int]]:
        """A random forest of new words, shortest chains first: names, definitions, meanings (0..known-1), chains."""
        pool = spellings(self.syllables, self.held_out)
        names = [pool[i] for i in rng.choice(len(pool), self.words, replace=False)]
        # As many words of every length; a length that gets one more than others is drawn at random.
        chains = sorted(int(c) + 1 for c in np.resize(rng.permutation(deepest), self.words))
        opposite = rng.integers(0, 2, self.words).tolist()
        relation, stop = self.syllables + self.known, self.vocab_size - 2
        definitions: list[list[int]] = []
        meanings: list[int] = []
        for name, chain, flip in zip(names, chains, opposite, strict=True):
            if chain == 1:
                meaning = int(rng.integers(self.known))
                target: Sequence[int] = (self.syllables + meaning,)
            else:
                parent = int(rng.integers(chains.index(chain - 1), chains.index(chain)))
                meaning, target = meanings[parent], names[parent]
            definitions.append([*name, relation + flip, *target, stop])
            meanings.append(meaning ^ flip)
        return names, definitions, meanings, chains
