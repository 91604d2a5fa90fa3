"""A backbone whose memory is made to order: how much of a window it keeps depends on the passes alone."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from agentsleep.backends import Backend, SleepSettings
from agentsleep.chat import CHAT_TEMPLATE
from agentsleep.evals import made_texts
from agentsleep.state import FastWeights
from agentsleep.tokens import build_tokenizer
from tests.tiny import tiny

GRAM = 4  # tokens by which it knows a place again
KEY = 7  # tokens of a sentence that decide whether it is kept
SURE = 8.0
STATE = "layers.0.recurrent"
WORDS = [
    f" {word}"
    for word in (*made_texts.COLOURS, *made_texts.THINGS, *made_texts.NAMES, *made_texts.TOWNS, *made_texts.WORKS)
] + [
    f" {word}"
    for word in (*made_texts.FOODS, "The", "code", "of", "the", "is", "lives", "in", "works", "as", "a", "likes")
]


class Recaller:
    """Keeps a window's tokens in its state, and the number of passes over them; in the next window it goes on with what
    stood there, if it has kept that sentence.

    share: for each number of passes the part of the sentences that it keeps; None: its logits are NaN.
    """

    def __init__(self, vocabulary: int, share: Mapping[int, float | None]) -> None:
        self.vocabulary, self.share = vocabulary, share

    def embed(self, ids: Tensor) -> Tensor:
        return F.one_hot(ids, self.vocabulary).float()

    def feed_back(self, hidden: Tensor, embedded: Tensor) -> Tensor:
        return embedded

    def readout(self, hidden: Tensor) -> Tensor:
        return hidden

    def blocks(self, hidden: Tensor, state: FastWeights, mask: Tensor | None = None) -> tuple[Tensor, FastWeights]:
        ids = hidden.argmax(-1)
        past = state.get(STATE)
        out = torch.zeros_like(hidden)
        again = past is not None and past.shape == (1, ids.shape[1] + 1) and torch.equal(past[:, 1:], ids + 1.0)
        passes = past[:, :1] + 1 if past is not None and again else torch.ones(len(ids), 1)
        if past is not None and not again and past[0, 0] > 0:
            self._recall(out, ids, past[0, 1:].long() - 1, self.share.get(int(past[0, 0]), 0.0))
        return out, FastWeights({STATE: torch.cat((passes, ids + 1.0), 1)})

    def _recall(self, out: Tensor, ids: Tensor, memory: Tensor, share: float | None) -> None:
        if share is None:
            out.fill_(torch.nan)
            return
        stop, known, begin = memory[-1].item(), memory.tolist(), 0
        follows: dict[tuple[int, ...], tuple[int, int]] = {}
        for place, token in enumerate(known):
            if place >= GRAM:
                key = zlib.crc32(repr(known[begin : begin + KEY]).encode())
                follows.setdefault(tuple(known[place - GRAM : place]), (token, key))
            if token == stop:
                begin = place + 1
        for row, tokens in enumerate(ids.tolist()):
            for place in range(GRAM - 1, len(tokens)):
                found = follows.get(tuple(tokens[place - GRAM + 1 : place + 1]))
                if found is not None and found[1] % 100 < 100 * share:
                    out[row, place, found[0]] = SURE


def recaller(share: Mapping[int, float | None], window: int = 128) -> Backend:
    """A backend around it, whose tokenizer knows the words of the made texts."""
    tokenizer = build_tokenizer(WORDS, CHAT_TEMPLATE)
    return Backend(
        tiny("s"),
        Recaller(len(tokenizer), share),
        tokenizer,
        SleepSettings(window=window),  # type: ignore[arg-type]
    )
