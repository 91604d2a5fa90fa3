"""How the next token of a turn is chosen: transformers' own logits processors, in the order of its ``generate``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    ExponentialDecayLengthPenalty,
    ForcedEOSTokenLogitsProcessor,
    GenerationConfig,
    InfNanRemoveLogitsProcessor,
    LogitNormalization,
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    PrefixConstrainedLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensAtBeginLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopHLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from agentsleep.errors import SettingsError
from agentsleep.memory.options import PROCESSING, WARPING, check_ids, sort_out

_SEEDS = range(-(2**63), 2**64)  # what torch takes
_COLDEST = torch.finfo(torch.float32).tiny  # a lower temperature would be 0 to torch, and as greedy
_HALF = "\ufffd"


@dataclass(frozen=True)
class _Turn:
    """What processors are told of a turn: the tokens that end it, how many were read before it, how long it may get."""

    ends: list[int]
    begin: int
    longest: int
    device: Any  # a torch.device, where some of them are annotated with a string


_PROCESSORS: dict[str, Callable[[Any, _Turn], Any]] = {
    "sequence_bias": lambda value, turn: SequenceBiasLogitsProcessor(value),
    "repetition_penalty": lambda value, turn: RepetitionPenaltyLogitsProcessor(value),
    "no_repeat_ngram_size": lambda value, turn: NoRepeatNGramLogitsProcessor(value),
    "bad_words_ids": lambda value, turn: NoBadWordsLogitsProcessor(value, turn.ends),
    "min_new_tokens": lambda value, turn: MinNewTokensLengthLogitsProcessor(
        turn.begin, value, turn.ends, device=turn.device
    ),
    "prefix_allowed_tokens_fn": lambda value, turn: PrefixConstrainedLogitsProcessor(value, 1),
    "forced_eos_token_id": lambda value, turn: ForcedEOSTokenLogitsProcessor(
        turn.begin + turn.longest, value, device=turn.device
    ),
    "remove_invalid_values": lambda value, turn: InfNanRemoveLogitsProcessor(),
    "exponential_decay_length_penalty": lambda value, turn: ExponentialDecayLengthPenalty(value, turn.ends, turn.begin),
    "suppress_tokens": lambda value, turn: SuppressTokensLogitsProcessor(value, device=turn.device),
    "begin_suppress_tokens": lambda value, turn: SuppressTokensAtBeginLogitsProcessor(
        value, turn.begin, device=turn.device
    ),
}
_WARPERS: dict[str, Callable[[Any], Any]] = {
    "temperature": TemperatureLogitsWarper,
    "top_h": TopHLogitsWarper,
    "top_k": TopKLogitsWarper,
    "top_p": TopPLogitsWarper,
    "min_p": MinPLogitsWarper,
    "typical_p": TypicalLogitsWarper,
    "epsilon_cutoff": EpsilonLogitsWarper,
    "eta_cutoff": EtaLogitsWarper,
    "renormalize_logits": lambda value: LogitNormalization(),
}


class Sampling:
    """How a turn is written: greedily at temperature 0, else drawn with its own seed.

    Given the same logits and seed, the tokens are those of transformers' ``generate``.

    Args:
        do_sample: whether tokens are drawn; None draws them where ``temperature`` is above 0. With True a temperature
            of 0 counts as 1, which is transformers' default.
        options: of transformers' ``GenerationConfig``, and ``logits_processor`` and ``prefix_allowed_tokens_fn`` of its
            ``generate``, see :meth:`agentsleep.memory.Session.generate`.

    Raises:
        SettingsError: a value out of its range, an option that is not known, or one that cannot hold on a live state.
    """

    def __init__(
        self,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        do_sample: bool | None = None,
        **options: Any,
    ) -> None:
        _check(max_new_tokens, temperature, top_p, seed, do_sample)
        asked = sort_out(options)
        self.max_new_tokens, self.seed = max_new_tokens, seed
        self.drawn = temperature > 0 if do_sample is None else do_sample
        self.stop_strings = _texts(asked.pop("stop_strings", ()))
        self._own = _callables(asked.pop("logits_processor", ()))
        self.ends = _ids(asked.get("eos_token_id", ()))
        if self.drawn:
            asked |= sort_out({"temperature": max(temperature, _COLDEST) if temperature else 1.0, "top_p": top_p})
        self._options = asked
        self._warpers = LogitsProcessorList(
            [_made(name, _WARPERS[name], asked[name]) for name in WARPING if name in asked]
        )
        self.processors(0, 1, torch.device("cpu"))  # refuses what is out of range before anything is read
        if asked.get("min_new_tokens", 0) > max_new_tokens:
            raise SettingsError(
                f"min_new_tokens is {asked['min_new_tokens']}, more than max_new_tokens ({max_new_tokens}); raise that"
            )
        try:
            # For what it finds wrong between options, and says of those that have no effect.
            GenerationConfig(do_sample=self.drawn, **{n: v for n, v in asked.items() if not callable(v)})
        except (TypeError, ValueError) as error:
            raise SettingsError(f"these generation options do not go together: {error}") from error

    def check_ids(self, vocab_size: int) -> None:
        """Raises SettingsError if the options name a token that a model of this vocabulary does not have."""
        check_ids(self._options, vocab_size)

    def processors(self, end: int, begin: int, device: torch.device) -> LogitsProcessorList:
        """What is done to the scores of a turn before a token is chosen; made for each turn, since some remember it.

        Args:
            end: the chat format's own end of a turn.
            begin: tokens that were read before the turn.
        """
        turn = _Turn([end, *self.ends], begin, self.max_new_tokens, device)
        asked = self._options
        made = [_made(name, _PROCESSORS[name], asked[name], turn) for name in PROCESSING if name in asked]
        # As transformers does it: an own processor takes the place of one of the same class.
        merged = [next((own for own in self._own if type(own) is type(one)), one) for one in made]
        merged += [own for own in self._own if not any(own is one for one in merged)]
        return LogitsProcessorList(merged)

    def pick(self, logits: Tensor, generator: torch.Generator | None) -> int:
        """A token id from logits ``[vocab]``, which the turn's processors have changed already.

        Raises:
            SettingsError: the options leave no token that could be chosen.
        """
        scores = logits.to(copy=True, dtype=torch.float32)[None]
        top = float(scores.max())
        if top == -math.inf or (self.drawn and not math.isfinite(top)):
            raise SettingsError(
                f"the options of this turn leave no token to choose from (the largest score is {top}); allow more"
            )
        if not self.drawn:
            return int(scores.argmax())
        if not math.isfinite(float(scores.max() / self._options.get("temperature", 1.0))):
            scores -= top  # so that no temperature, however small, makes an Inf of the largest
        unread: Any = torch.empty(1, 0, dtype=torch.long)  # no warper looks at the tokens
        chances = self._warpers(unread, scores).softmax(-1)
        # Drawn on the CPU, so that a seed gives the same tokens wherever the model runs.
        return int(torch.multinomial(chances.cpu(), 1, generator=generator))

    def generator(self) -> torch.Generator | None:
        """The source of randomness; None for the global one."""
        return None if self.seed is None else torch.Generator().manual_seed(self.seed)


def _check(most: object, temperature: object, top_p: object, seed: object, do_sample: object) -> None:
    if isinstance(most, bool) or not isinstance(most, int) or most < 1:
        raise SettingsError(f"max_new_tokens is {most!r}; it must be a whole number of at least 1")
    if not (_is_number(temperature) and temperature >= 0):  # type: ignore[operator]
        raise SettingsError(f"temperature is {temperature!r}; it must be 0 (greedy) or a number above")
    if not (_is_number(top_p) and 0 < top_p <= 1):  # type: ignore[operator]
        raise SettingsError(f"top_p is {top_p!r}; it must lie in (0, 1]")
    if seed is not None and not (isinstance(seed, int) and _SEEDS.start <= seed < _SEEDS.stop):
        raise SettingsError(f"seed is {seed!r}; it must be a whole number of 64 bits, or None")
    if not (do_sample is None or isinstance(do_sample, bool)):
        raise SettingsError(f"do_sample is {do_sample!r}; it must be True, False or None")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _made(name: str, make: Callable[..., Any], value: Any, *turn: _Turn) -> Any:
    try:
        return make(value, *turn)
    except (TypeError, ValueError, IndexError, AttributeError, RuntimeError) as error:
        raise SettingsError(f"{name} is {value!r}, which transformers refuses: {error}") from error


def _texts(value: Any) -> tuple[str, ...]:
    texts = (value,) if isinstance(value, str) else value
    if not isinstance(texts, (list, tuple)) or not all(isinstance(text, str) and text for text in texts):
        raise SettingsError(f"stop_strings is {value!r}; it must be a text that is not empty, or a list of such")
    if any(_HALF in text for text in texts):
        raise SettingsError(f"stop_strings is {value!r}; U+FFFD stands for half a character and stops nothing")
    return tuple(texts)


def _callables(value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or not all(callable(one) for one in value):
        raise SettingsError(f"logits_processor is {value!r}; it must be a list of LogitsProcessor objects")
    return tuple(value)


def _ids(value: Any) -> tuple[int, ...]:
    ids = (value,) if isinstance(value, int) else value
    if not isinstance(ids, (list, tuple)) or any(isinstance(i, bool) or not isinstance(i, int) or i < 0 for i in ids):
        raise SettingsError(f"eos_token_id is {value!r}; it must be a token id or a list of them")
    return tuple(ids)
