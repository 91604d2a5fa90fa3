"""Which of transformers' generation options a turn can be written with, and why the others cannot hold."""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Mapping
from typing import Any

from transformers import GenerationConfig

from agentsleep.errors import SettingsError

# Change the scores before a token is chosen, in the order of transformers' ``generate``. Behind each name stands the
# value that switches it off.
PROCESSING: dict[str, object] = {
    "sequence_bias": None,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": None,
    "min_new_tokens": 0,
    "prefix_allowed_tokens_fn": None,
    "forced_eos_token_id": None,
    "remove_invalid_values": False,
    "exponential_decay_length_penalty": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}
# The same for what is only done to the scores that a token is drawn from.
WARPING: dict[str, object] = {
    "temperature": 1.0,
    "top_h": None,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "renormalize_logits": False,
}
_OTHER = ("max_new_tokens", "do_sample", "seed", "stop_strings", "eos_token_id", "logits_processor")
# Say nothing about a single turn; a checkpoint's own generation config has them.
_IDLE = ("pad_token_id", "bos_token_id", "transformers_version", "disable_compile", "_from_model_config")
_OBJECTS = ("logits_processor", "prefix_allowed_tokens_fn")  # the caller's own, taken as they are
PASSED = frozenset((*PROCESSING, *WARPING, *_OTHER))

_BEAMS = (
    "beam search keeps several continuations at a time, and a turn is written straight into the one live state; leave "
    "it out, or sample with temperature"
)
_TAKEN_BACK = (
    "assisted decoding takes back the tokens that the model rejects, and a recurrent state cannot take back what it "
    "has read; leave it out"
)
_CACHE = "the session holds the live state that the turn goes on from, and lays out its cache itself; leave it out"
_INPUT = "a turn goes on from what the session has read; say it with add() or ask()"
_OUTPUT = "a turn comes back as an Answer; leave it out, or watch the scores with a logits_processor"
_TIME = "a turn ends by its tokens; read generate(stream=True) and close the stream when it is enough"
_GUIDANCE = "guidance reads a second text along, for which a session has no second state; leave it out"
_LAST_TOKENS = (
    "it reads candidates, or layers, before it chooses, and a recurrent state keeps whatever it reads; sample"
)
_ENCODER = "it is for models with an encoder; leave it out"
_BEGIN = "the chat format says how a turn begins; leave it out"

# Why an option cannot hold, and the values of it that ask for nothing. None always asks for nothing.
_REFUSED: dict[str, tuple[str, tuple[object, ...]]] = {
    "num_beams": (_BEAMS, (1,)),
    "num_beam_groups": (_BEAMS, (1,)),
    "diversity_penalty": (_BEAMS, (0,)),
    "length_penalty": (_BEAMS, (1,)),
    "early_stopping": (_BEAMS, (False,)),
    "constraints": (_BEAMS, ()),
    "force_words_ids": (_BEAMS, ()),
    "assistant_model": (_TAKEN_BACK, ()),
    "assistant_tokenizer": (_TAKEN_BACK, ()),
    "prompt_lookup_num_tokens": (_TAKEN_BACK, ()),
    "max_matching_ngram_size": (_TAKEN_BACK, ()),
    "num_assistant_tokens": (_TAKEN_BACK, ()),
    "num_assistant_tokens_schedule": (_TAKEN_BACK, ()),
    "assistant_confidence_threshold": (_TAKEN_BACK, ()),
    "assistant_early_exit": (_TAKEN_BACK, ()),
    "assistant_lookbehind": (_TAKEN_BACK, ()),
    "assistant_ensemble_weight": (_TAKEN_BACK, ()),
    "target_lookbehind": (_TAKEN_BACK, ()),
    "is_assistant": (_TAKEN_BACK, (False,)),
    "speculation_type": (_TAKEN_BACK, ()),
    "use_mtp": (_TAKEN_BACK, (False,)),
    "penalty_alpha": (_LAST_TOKENS, (0,)),
    "dola_layers": (_LAST_TOKENS, ()),
    "low_memory": (_LAST_TOKENS, (False,)),
    "num_return_sequences": (
        "a session goes on from one turn; ask(..., remember=False) with several seeds, or generate in forks of it",
        (1,),
    ),
    "use_cache": ("without it every token would read all that the session ever read; leave it out", (True,)),
    "past_key_values": (_CACHE, ()),
    "cache_implementation": (_CACHE, ()),
    "cache_config": (_CACHE, ()),
    "max_cache_len": (_CACHE, ()),
    "prefill_chunk_size": (_CACHE, ()),
    "compile_config": (_CACHE, ()),
    "continuous_batching_config": (_CACHE, ()),
    "custom_generate": (_CACHE, ()),
    "synced_gpus": (_CACHE, (False,)),
    "inputs": (_INPUT, ()),
    "input_ids": (_INPUT, ()),
    "inputs_embeds": (_INPUT, ()),
    "attention_mask": (_INPUT, ()),
    "position_ids": (_INPUT, ()),
    "tokenizer": ("the session has the model's own; leave it out", ()),
    "max_length": ("it would count the window, which sleeps empty; use max_new_tokens", ()),
    "min_length": ("it would count the window, which sleeps empty; use min_new_tokens", (0,)),
    "max_time": (_TIME, ()),
    "stopping_criteria": (_TIME + "; for texts there is stop_strings, for tokens eos_token_id", ()),
    "stream": ("ask() returns the whole answer; add() the question, then generate(stream=True)", (False,)),
    "streamer": ("use generate(stream=True), which is an iterator of text", ()),
    "output_attentions": (_OUTPUT, (False,)),
    "output_hidden_states": (_OUTPUT, (False,)),
    "output_scores": (_OUTPUT, (False,)),
    "output_logits": (_OUTPUT, (False,)),
    "return_dict_in_generate": (_OUTPUT, (False,)),
    "guidance_scale": (_GUIDANCE, (1,)),
    "negative_prompt_ids": (_GUIDANCE, ()),
    "negative_prompt_attention_mask": (_GUIDANCE, ()),
    "watermarking_config": ("pass what its construct_processor(...) makes as logits_processor", ()),
    "token_healing": ("it rewrites the end of the prompt, which the state has read already; leave it out", (False,)),
    "encoder_repetition_penalty": (_ENCODER, (1,)),
    "encoder_no_repeat_ngram_size": (_ENCODER, (0,)),
    "decoder_start_token_id": (_ENCODER, ()),
    "forced_bos_token_id": (_BEGIN, ()),
    "generation_config": ("pass its values: **generation_config.to_diff_dict()", ()),
}


def sort_out(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that ask for something, as copies that a caller cannot change any more.

    Raises:
        SettingsError: one of them is not known, or cannot hold for a turn on a live state.
    """
    asked = {}
    for name, value in options.items():
        if name in _REFUSED:
            why, nothing = _REFUSED[name]
            if value is not None and not _among(value, nothing):
                raise SettingsError(f"{name} is {value!r}, which cannot hold in a session: {why}")
        elif name in PASSED:
            if value is not None and not _is_off(name, value):
                asked[name] = value if name in _OBJECTS else copy.deepcopy(value)
        elif name not in _IDLE:
            raise SettingsError(f"{name!r} is no generation option{_meant(name)}")
    return asked


def check_ids(options: Mapping[str, Any], vocab_size: int) -> None:
    """Looks through all token ids that options name.

    Raises:
        SettingsError: one that the model does not have.
    """
    for name in ("bad_words_ids", "suppress_tokens", "begin_suppress_tokens", "eos_token_id", "forced_eos_token_id"):
        _check_ids(name, options.get(name), vocab_size)
    bias = options.get("sequence_bias")
    for sequence in list(bias) if isinstance(bias, Mapping) else [pair[0] for pair in bias or ()]:
        _check_ids("sequence_bias", sequence, vocab_size)


def _check_ids(name: str, ids: Any, vocab_size: int) -> None:
    if isinstance(ids, (list, tuple)):
        for one in ids:
            _check_ids(name, one, vocab_size)
    elif ids is not None and (isinstance(ids, bool) or not isinstance(ids, int) or not 0 <= ids < vocab_size):
        raise SettingsError(
            f"{name} names the token {ids!r}; the model's tokens are the whole numbers below {vocab_size}"
        )


def _is_off(name: str, value: object) -> bool:
    off = {**PROCESSING, **WARPING}.get(name)
    if isinstance(off, bool) != isinstance(value, bool):
        raise SettingsError(f"{name} is {value!r}; it must {'' if isinstance(off, bool) else 'not '}be True or False")
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} is {value!r}; it must be finite")
    if name == "exponential_decay_length_penalty":
        match value:
            case (int(start), float(factor) | int(factor)) if start >= 0 and factor > 0 and math.isfinite(factor):
                return False
        raise SettingsError(f"{name} is {value!r}; it must be a number of tokens and a factor above 0")
    return _among(value, (off,))


def _among(value: object, values: tuple[object, ...]) -> bool:
    return isinstance(value, (bool, int, float)) and value in values


def _meant(name: str) -> str:
    known = PASSED | {option for option in vars(GenerationConfig()) if not option.startswith("_")}
    near = difflib.get_close_matches(name, sorted(known | _REFUSED.keys()), n=3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    if name in known:
        return " that a session knows; leave it out"
    return f"; there are {', '.join(sorted(PASSED))}"
