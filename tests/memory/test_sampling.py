"""Choosing tokens: transformers' generation options mean here what they mean in its generate, or are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, RepetitionPenaltyLogitsProcessor

from agentsleep.backends import Backend, LiveWindow, load_backend
from agentsleep.chat import Chat
from agentsleep.errors import SettingsError
from agentsleep.memory import options
from agentsleep.memory.decoding import Sampling, Scoring, Scratch, write
from agentsleep.state import FastWeights
from tests.memory.helpers import FACT

LONG = 20
TALK = ("alice hands over to carol .", FACT)


@pytest.fixture(scope="module")
def backend(nap: Path) -> Backend:
    return load_backend(nap)


class Favour(LogitsProcessor):
    """An own processor: a token gains with every token that was written."""

    def __init__(self, token: int) -> None:
        self.token = token
        self.lengths: list[int] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.lengths.append(input_ids.shape[1])
        scores[:, self.token] += 0.1 * len(self.lengths)  # in place: whoever calls it must have made a copy
        return scores


def heard(backend: Backend) -> list[int]:
    """A conversation up to the marker of the turn that is to be written."""
    chat = Chat(backend.tokenizer)
    return [*(token for text in TALK for token in chat.message("tool", text)), *chat.prompt()]


def ours(backend: Backend, sampling: Sampling) -> list[int]:
    """The tokens of a turn that a live window writes."""
    ids, end = heard(backend), Chat(backend.tokenizer).end
    window = LiveWindow(backend, FastWeights())
    window.read(ids[:-1])
    return list(write(Scratch(window, (), 1), ids[-1:], end, sampling, 0))


def theirs(backend: Backend, seed: int | None = None, **options: Any) -> list[int]:
    """The tokens that transformers generates behind the same prompt."""
    ids, end = heard(backend), Chat(backend.tokenizer).end
    if seed is not None:
        torch.manual_seed(seed)
        options = {"do_sample": True, "top_k": 0, **options}
    out = backend.model.generate(
        backend.row(ids), max_new_tokens=LONG, **{"eos_token_id": end} | options, pad_token_id=0
    )
    return list(out[0, len(ids) :].tolist())


ALIKE: dict[str, dict[str, Any]] = {
    "greedy": {},
    "greedy, said": {"do_sample": False},
    "a penalty": {"repetition_penalty": 1.7},
    "a reward": {"repetition_penalty": 0.6},
    "no bigram twice": {"no_repeat_ngram_size": 2},
    "bad words": {"bad_words_ids": [[3], [40, 41], [350]]},
    "a bias": {"sequence_bias": [[[5], 2.5], [[7, 8], -10.0]]},
    "suppressed": {"suppress_tokens": [*range(100, 340)]},
    "nothing suppressed": {"suppress_tokens": []},
    "suppressed at first": {"begin_suppress_tokens": [*range(350)]},
    "at least": {"min_new_tokens": LONG},
    "allowed": {"prefix_allowed_tokens_fn": lambda batch, ids: [*range(20 + len(ids), 60 + len(ids))]},
    "sooner or later": {"exponential_decay_length_penalty": (3, 1.3)},
    "all greedy ones": {
        "repetition_penalty": 1.3,
        "no_repeat_ngram_size": 3,
        "min_new_tokens": 9,
        "bad_words_ids": [[4]],
    },
    "drawn": {"temperature": 0.8, "seed": 3},
    "hot": {"temperature": 3.0, "seed": 2**63},
    "drawn at 1": {"do_sample": True, "seed": 4},
    "top_p": {"temperature": 1.4, "top_p": 0.7, "seed": 5},
    "top_k": {"temperature": 1.4, "top_k": 3, "seed": 6},
    "min_p": {"temperature": 1.4, "min_p": 0.2, "seed": 7},
    "typical_p": {"temperature": 1.4, "typical_p": 0.4, "seed": 8},
    "top_h": {"temperature": 1.4, "top_h": 0.5, "seed": 9},
    "epsilon": {"temperature": 1.4, "epsilon_cutoff": 0.02, "seed": 10},
    "eta": {"temperature": 1.4, "eta_cutoff": 0.02, "seed": 11},
    "normal": {"temperature": 1.4, "renormalize_logits": True, "seed": 12},
    "all drawn ones": {
        "temperature": 1.2,
        "top_k": 50,
        "top_p": 0.95,
        "min_p": 0.001,
        "typical_p": 0.99,
        "repetition_penalty": 1.2,
        "seed": 13,
    },
}


@pytest.mark.parametrize("name", ALIKE)
def test_the_tokens_are_those_of_generate(backend: Backend, name: str) -> None:
    said = ALIKE[name]
    written = ours(backend, Sampling(max_new_tokens=LONG, **said))
    assert written == theirs(backend, **said)
    assert len(written) > 1


def test_every_option_is_compared() -> None:
    said = {name for one in ALIKE.values() for name in one}
    assert said >= (options.PROCESSING.keys() | options.WARPING.keys()) - {
        "forced_eos_token_id",
        "remove_invalid_values",
    }


@pytest.mark.parametrize("name", [name for name, said in ALIKE.items() if name not in ("greedy", "nothing suppressed")])
def test_each_option_is_applied(backend: Backend, name: str) -> None:
    said = {option: value for option, value in ALIKE[name].items() if option not in ("seed", "do_sample")}
    sampling = Sampling(max_new_tokens=LONG, **said)
    changed = [*sampling._warpers, *sampling.processors(1, 1, torch.device("cpu"))]
    assert len(changed) == len(said)


def test_the_shipped_model_writes_what_generate_writes() -> None:
    shipped = load_backend()
    for said in ({}, {"temperature": 1.5, "seed": 1}, {"repetition_penalty": 1.5, "min_new_tokens": 12}):
        assert ours(shipped, Sampling(max_new_tokens=LONG, **said)) == theirs(shipped, **said)  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_is_asked_for_together(backend: Backend, data: st.DataObject) -> None:
    tokens = st.lists(st.integers(2, len(backend.tokenizer) - 1), min_size=1, max_size=5, unique=True)
    said = data.draw(
        st.fixed_dictionaries(
            {},
            optional={
                "repetition_penalty": st.floats(0.5, 3.0),
                "no_repeat_ngram_size": st.integers(1, 4),
                "bad_words_ids": st.lists(tokens, min_size=1, max_size=3),
                "suppress_tokens": tokens,
                "begin_suppress_tokens": tokens,
                "min_new_tokens": st.integers(1, LONG),
            },
        )
    )
    drawn = data.draw(
        st.none()
        | st.fixed_dictionaries(
            {"seed": st.integers(0, 2**32), "temperature": st.floats(0.1, 5.0)},
            optional={
                "top_k": st.integers(1, 40),
                "top_p": st.floats(0.05, 0.99),
                "min_p": st.floats(0.0, 0.5),
                "typical_p": st.floats(0.05, 0.99),
            },
        )
    )
    said |= drawn or {}
    assert ours(backend, Sampling(max_new_tokens=LONG, **said)) == theirs(backend, **said)


def test_an_own_processor_is_called_as_by_generate(backend: Backend) -> None:
    mine, its = Favour(6), Favour(6)
    said: dict[str, Any] = {"repetition_penalty": 1.4, "temperature": 1.0, "top_p": 0.9, "seed": 2}
    written = ours(backend, Sampling(max_new_tokens=LONG, logits_processor=[mine], **said))
    assert written == theirs(backend, logits_processor=[its], **said)
    assert mine.lengths == its.lengths == [len(heard(backend)) + i for i in range(len(written))]


def test_an_own_processor_takes_the_place_of_its_class(backend: Backend) -> None:
    mine = RepetitionPenaltyLogitsProcessor(5.0)
    both = Sampling(max_new_tokens=LONG, repetition_penalty=1.1, logits_processor=[mine], no_repeat_ngram_size=2)
    alone = Sampling(max_new_tokens=LONG, repetition_penalty=5.0, no_repeat_ngram_size=2)
    assert len(both.processors(0, 1, torch.device("cpu"))) == 2
    assert ours(backend, both) == ours(backend, alone)


def test_a_forced_end_comes_in_place_of_the_last_token(backend: Backend) -> None:
    end = Chat(backend.tokenizer).end
    said: dict[str, Any] = {"forced_eos_token_id": end, "suppress_tokens": None, "min_new_tokens": LONG - 1}
    written = ours(backend, Sampling(max_new_tokens=LONG, **said))
    assert (len(written), written.index(end)) == (LONG, LONG - 1)
    assert written == theirs(backend, **said)


def test_invalid_values_are_removed_where_it_is_asked_for() -> None:
    logits = torch.tensor([0.0, math.nan, 1.0])
    processors = Sampling(remove_invalid_values=True).processors(0, 1, torch.device("cpu"))
    assert processors(torch.tensor([[0]]), logits[None])[0].tolist() == [0.0, 0.0, 1.0]  # type: ignore[arg-type]


def test_what_is_off_makes_nothing() -> None:
    off: dict[str, Any] = {**options.PROCESSING, **options.WARPING}
    sampling = Sampling(do_sample=True, temperature=1.0, **{n: v for n, v in off.items() if n not in ("temperature",)})
    assert len(sampling._warpers) == len(sampling.processors(0, 1, torch.device("cpu"))) == 0


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=9, unique=True), st.integers(0, 99))
@pytest.mark.parametrize("temperature", [5e-324, 1e-42, 1e-38, 1e-30])
def test_near_zero_is_greedy(temperature: float, logits: list[float], seed: int) -> None:
    """However large the logits: at no temperature do they become an Inf that cannot be drawn from."""
    apart = torch.tensor(logits).round() + torch.arange(len(logits)) / 100
    sampling = Sampling(temperature=temperature, seed=seed)
    assert sampling.pick(apart, sampling.generator()) == int(apart.argmax())


def test_picking_leaves_the_logits_alone() -> None:
    logits = torch.tensor([3.0, 2.0, 1.0])
    for sampling in (Sampling(), Sampling(temperature=1e-38), Sampling(temperature=1.0, top_k=1)):
        assert sampling.pick(logits, sampling.generator()) == 0
    assert logits.tolist() == [3.0, 2.0, 1.0]


def test_an_own_processor_cannot_change_the_windows_logits(backend: Backend) -> None:
    window = LiveWindow(backend, FastWeights())
    window.read(heard(backend))
    assert window.logits is not None
    before = window.logits.clone()
    scores = Scoring(Sampling(logits_processor=[Favour(6)]), window, 1)(window.logits)
    assert torch.equal(window.logits, before)
    assert scores[6] == pytest.approx(float(before[6]) + 0.1)


def test_half_precision_is_scored_in_single() -> None:
    logits = torch.tensor([1.0, 5.0, 2.0], dtype=torch.bfloat16)
    sampling = Sampling(temperature=1e-38, repetition_penalty=1.5)
    assert sampling.pick(logits, sampling.generator()) == 1


@pytest.mark.parametrize(("drawn", "top"), [(False, -math.inf), (True, -math.inf), (True, math.nan), (True, math.inf)])
def test_no_token_left_to_choose_from(drawn: bool, top: float) -> None:
    with pytest.raises(SettingsError, match=r"leave no token to choose from \(the largest score is"):
        Sampling(do_sample=drawn).pick(torch.tensor([-math.inf, top]), None)


# What is refused


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"num_beams": 4}, r"num_beams is 4.*one live state"),
        ({"num_beam_groups": 2}, "num_beam_groups is 2"),
        ({"assistant_model": object()}, "assistant_model.*cannot take back"),
        ({"prompt_lookup_num_tokens": 3}, "prompt_lookup_num_tokens is 3.*cannot take back"),
        ({"num_return_sequences": 2}, r"num_return_sequences is 2.*remember=False"),
        ({"penalty_alpha": 0.6}, "penalty_alpha is 0.6.*before it chooses"),
        ({"use_cache": False}, "use_cache is False.*ever read"),
        ({"past_key_values": object()}, "past_key_values.*live state"),
        ({"max_length": 100}, "max_length is 100.*use max_new_tokens"),
        ({"min_length": 3}, "min_length is 3.*use min_new_tokens"),
        ({"max_time": 3.0}, r"max_time is 3\.0.*close the stream"),
        ({"stopping_criteria": [print]}, "stopping_criteria.*stop_strings"),
        ({"streamer": object()}, r"streamer.*generate\(stream=True\)"),
        ({"input_ids": torch.zeros(1, 2)}, r"input_ids.*add\(\) or ask\(\)"),
        ({"output_scores": True}, "output_scores is True.*Answer"),
        ({"guidance_scale": 1.5}, "guidance_scale is 1.5.*second state"),
        ({"generation_config": GenerationConfig()}, r"generation_config.*to_diff_dict"),
        ({"temprature": 0.5}, r"'temprature' is no generation option; did you mean temperature\?"),
        ({"repetition_penality": 1.1}, r"did you mean repetition_penalty"),
        ({"num_beam": 1}, r"did you mean num_beams"),
        ({"frobnicate": 1}, r"'frobnicate' is no generation option; there are bad_words_ids, "),
        ({"": 1}, r"'' is no generation option; there are"),
    ],
)
def test_what_cannot_hold_is_refused_with_a_reason(said: dict[str, Any], why: str) -> None:
    with pytest.raises(SettingsError, match=rf"(?s){why}"):
        Sampling(**said)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("do_sample", 1),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", True),
        ("min_p", 1.5),
        ("min_p", math.nan),
        ("top_h", 0.0),
        ("typical_p", 1.5),
        ("typical_p", "much"),
        ("epsilon_cutoff", 2.0),
        ("eta_cutoff", -1.0),
        ("renormalize_logits", "yes"),
        ("remove_invalid_values", 1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", -1.0),
        ("repetition_penalty", math.inf),
        ("no_repeat_ngram_size", -2),
        ("no_repeat_ngram_size", 1.5),
        ("bad_words_ids", []),
        ("bad_words_ids", [3]),
        ("bad_words_ids", [["three"]]),
        ("sequence_bias", [[1]]),
        ("sequence_bias", {3: 1.0}),
        ("suppress_tokens", 5),
        ("begin_suppress_tokens", ["five"]),
        ("min_new_tokens", -1),
        ("min_new_tokens", "many"),
        ("min_new_tokens", 65),
        ("prefix_allowed_tokens_fn", False),
        ("exponential_decay_length_penalty", 3),
        ("exponential_decay_length_penalty", (3, 0.0)),
        ("exponential_decay_length_penalty", (1.5, 1.1)),
        ("forced_eos_token_id", "end"),
        ("logits_processor", Favour(3)),
        ("logits_processor", [3]),
        ("stop_strings", ""),
        ("stop_strings", ["a", ""]),
        ("stop_strings", 5),
        ("stop_strings", [5]),
        ("stop_strings", "half \ufffd"),
        ("eos_token_id", "end"),
        ("eos_token_id", -1),
        ("eos_token_id", [3, True]),
        ("eos_token_id", 1.0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(option: str, value: object) -> None:
    """Whether tokens are drawn or not: a mistake is not to show only when the temperature is raised."""
    for temperature in (0.0, 1.0):
        with pytest.raises(SettingsError, match=f"^{option} is "):
            Sampling(**{"temperature": temperature, option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "said",
    [
        {"bad_words_ids": [[3], [3, 50]]},
        {"suppress_tokens": [50]},
        {"begin_suppress_tokens": [-1]},
        {"eos_token_id": [3, 50]},
        {"forced_eos_token_id": 50},
        {"sequence_bias": [[[3, 50], 1.0]]},
        {"sequence_bias": {(50,): 1.0}},
    ],
)
def test_a_token_that_the_model_does_not_have(said: dict[str, Any]) -> None:
    sampling = Sampling(**said)
    (name,) = said
    with pytest.raises(SettingsError, match=rf"{name} names the token (50|-1); the model's tokens .* below 50"):
        sampling.check_ids(50)
    if "begin_suppress_tokens" not in said:
        sampling.check_ids(51)


def test_options_that_contradict_each_other() -> None:
    with pytest.raises(SettingsError, match="do not go together"):
        Sampling(forced_eos_token_id=3, suppress_tokens=[3])


def test_what_asks_for_nothing_is_taken() -> None:
    """So that the values of a checkpoint's generation config can be handed on as they are."""
    stored = GenerationConfig(temperature=0.6, top_k=20, do_sample=True, num_beams=1, use_cache=True, pad_token_id=0)
    sampling = Sampling(**stored.to_diff_dict())
    assert sampling.drawn
    assert len(sampling._warpers) == 2
    Sampling(num_return_sequences=1, past_key_values=None, penalty_alpha=0.0, early_stopping=False, max_length=None)


def test_every_option_of_transformers_is_taken_or_refused_with_a_reason() -> None:
    for name in vars(GenerationConfig()):
        assert (name in options.PASSED) + (name in options._IDLE) + (name in options._REFUSED) == 1, name


def test_a_caller_cannot_change_what_was_asked_for() -> None:
    words, own = [[3]], [Favour(6)]
    sampling = Sampling(bad_words_ids=words, logits_processor=own)
    words[0][0] = 4
    words.append([5])
    own.clear()
    first, mine = sampling.processors(0, 1, torch.device("cpu"))
    scores = first(torch.tensor([[7]]), torch.zeros(1, 8))
    assert scores[0].tolist() == [0, 0, 0, -math.inf, 0, 0, 0, 0]
    assert isinstance(mine, Favour)
