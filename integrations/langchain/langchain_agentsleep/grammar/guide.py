"""The processor that lets a model write what a grammar allows, and brings it to an end in time."""

from __future__ import annotations

import numpy as np
import torch
from llguidance import LLMatcher
from numpy.typing import NDArray
from transformers import LogitsProcessor

from agentsleep.errors import SettingsError
from langchain_agentsleep.grammar.ending import Endings
from langchain_agentsleep.grammar.rules import Rules
from langchain_agentsleep.grammar.vocabulary import Vocabulary

_TRIED = 16  # of the best-scored tokens, of which some are kept when a turn must come to its end


class Guide(LogitsProcessor):
    """Masks all tokens but those with which a turn can still become a sentence of a grammar; for one turn.

    Args:
        max_tokens: tokens that the turn may have, its end token included. As long as there are many left, all that the
            grammar allows is allowed. When they run out, only what leaves enough of them to come to an end is: strings
            are closed, and nothing more is begun. None for a turn of any length.

    Raises:
        SettingsError: max_tokens is too small for the shortest sentence that was found.
        InputError: llguidance refuses the grammar.
    """

    def __init__(self, rules: Rules, vocabulary: Vocabulary, max_tokens: int | None) -> None:
        if max_tokens is not None and (
            isinstance(max_tokens, bool) or not isinstance(max_tokens, int) or max_tokens < 1
        ):
            raise SettingsError(f"max_tokens is {max_tokens!r}; it must be a whole number of at least 1, or None")
        self._vocabulary, self._most = vocabulary, max_tokens
        self._matcher = LLMatcher(vocabulary.guidance, LLMatcher.grammar_from_lark(rules.grammar), log_level=0)
        if self._matcher.is_error():
            raise SettingsError(f"the grammar is not usable: {self._matcher.get_error()}")
        self._seen: int | None = None  # tokens before the turn and in it
        self._written, self._ended = 0, False
        self._endings: Endings | None = None
        if max_tokens is not None:
            self._endings = Endings(vocabulary, rules)
            if not self._endings.update(self._matcher, max_tokens - 1):
                least = self._endings.longer(self._matcher)
                raise SettingsError(
                    f"max_tokens is {max_tokens}, and the shortest sentence that was found takes {least}; allow more"
                )

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """The scores ``[1, vocab]``, with -inf for each token that is not allowed.

        Args:
            input_ids: ``[1, tokens]``, all that was read before the turn and all that was written in it; the turn
                begins with the first call.

        Raises:
            SettingsError: a batch of several, another turn than the first, or a token that was not allowed.
        """
        ids = input_ids[0].tolist()
        if len(input_ids) != 1 or len(scores) != 1:
            raise SettingsError(f"a grammar guides one turn at a time, not {len(scores)}; make a processor for each")
        new = [] if self._seen is None else ids[self._seen :]
        if self._seen is not None and len(new) != 1:
            raise SettingsError("a grammar guides one turn, token by token, and this is another; make a new processor")
        self._seen = len(ids)
        for token in new:
            self._push(token)
        if self._ended:
            raise SettingsError("the turn is at its end, and so is its grammar; make a new processor for the next turn")
        allowed = self._allowed(scores)
        mask = torch.ones(scores.shape[-1], dtype=torch.bool)
        mask[: min(len(allowed), len(mask))] = torch.from_numpy(~allowed)[: len(mask)]
        return scores.masked_fill(mask.to(scores.device), -torch.inf)  # type: ignore[return-value]

    def _push(self, token: int) -> None:
        if token == self._vocabulary.end and self._matcher.is_accepting():
            self._ended = True
            return
        if not self._matcher.consume_token(token):
            raise SettingsError(
                f"the token {token} was written, which the grammar does not allow here; no processor may stand behind "
                "the one of the grammar"
            )
        self._written += 1
        if self._endings is not None and self._most is not None:
            self._endings.push(token, self._matcher, self._most - self._written - 1)

    def _allowed(self, scores: torch.FloatTensor) -> NDArray[np.bool_]:
        allowed = self._vocabulary.allowed(self._matcher)
        left = None if self._most is None else self._most - self._written
        if self._endings is None or left is None or not self._endings.close(left):
            return allowed
        wide = min(len(allowed), scores.shape[-1])
        known = scores[0, :wide].float().cpu().masked_fill(torch.from_numpy(~allowed[:wide]), -torch.inf)
        best = known.topk(min(_TRIED, int(torch.isfinite(known).sum())))
        kept = np.zeros_like(allowed)
        kept[self._endings.fitting(self._matcher, best.indices.tolist(), left - 2)] = True
        return kept if kept.any() else allowed
