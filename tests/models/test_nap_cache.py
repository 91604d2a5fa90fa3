from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from agentsleep.models.nap import NapForCausalLM
from agentsleep.models.nap.modeling import state_of
from agentsleep.state import FastWeights
from tests.tiny import RULES, assert_close, assert_same_state, in_cache, precise, some_state, tokens

PATTERNS = ("asas", "sa", "ss", "aa")
pytestmark = pytest.mark.usefixtures("_no_gradients")


@pytest.fixture(name="_no_gradients")
def no_gradients() -> object:
    with torch.no_grad():
        yield


def read(
    model: NapForCausalLM, ids: Tensor, sizes: list[int], mask: Tensor | None = None
) -> tuple[Tensor, DynamicCache]:
    """All logits of ids read in parts of these sizes, and the cache behind them."""
    cache = DynamicCache(config=model.config)
    logits, done = [], 0
    for part in ids.split(sizes, 1):
        done += part.shape[1]
        seen = None if mask is None else mask[:, :done]
        out = model(part, past_key_values=cache, attention_mask=seen)
        assert out.past_key_values is cache
        logits.append(out.logits)
    return torch.cat(logits, 1), cache


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rule", RULES)
def test_reading_in_parts_is_reading_at_once(rule: str, pattern: str) -> None:
    model = precise(pattern, rule)
    ids = tokens(2, 21)
    wanted = model(ids).logits
    _, at_once = read(model, ids, [21])
    for sizes in ([8, 13], [1, 20], [20, 1], [2, 3, 16], [1] * 21):
        logits, cache = read(model, ids, sizes)
        assert_close(logits, wanted)
        assert_same_state(state_of(cache, model.config), state_of(at_once, model.config))
        if "a" in pattern:
            assert cache.get_seq_length() == 21


@pytest.mark.parametrize("pattern", PATTERNS)
def test_use_cache_makes_one(pattern: str) -> None:
    model = precise(pattern)
    ids = tokens(1, 6)
    assert model(ids).past_key_values is None
    out = model(ids[:, :4], use_cache=True)
    assert_close(model(ids[:, 4:], past_key_values=out.past_key_values).logits, model(ids).logits[:, 4:])


@pytest.mark.parametrize("side", ["left", "middle"])
@pytest.mark.parametrize("rule", RULES)
def test_padding_before_and_between_parts(rule: str, side: str) -> None:
    model = precise(rule=rule)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[0, {"left": [0, 1, 2], "middle": [2, 5, 6]}[side]] = 0
    ids = tokens(2, 10)
    real = mask[0].bool()
    for sizes in ([10], [4, 6], [6, 1, 1, 2]):
        logits, cache = read(model, ids, sizes, mask)
        assert_close(logits[0, real], model(ids[:1, real]).logits[0])
        assert_close(logits[1], model(ids[1:]).logits[0])
        _, alone = read(model, ids[:1, real], [7])
        assert_same_state(state_of(cache, model.config).rows(torch.tensor([0])), state_of(alone, model.config))


@pytest.mark.parametrize("rule", RULES)
def test_state_of_and_back(rule: str) -> None:
    model = precise(rule=rule)
    assert len(state_of(None, model.config)) == 0
    assert len(state_of(DynamicCache(config=model.config), model.config)) == 0
    state = some_state(model, 2)
    cache = in_cache(model, state)
    assert state_of(cache, model.config).diff(state) == dict.fromkeys(state, 0.0)
    ids = tokens(2, 6)
    hidden, after = model.blocks(model.embed(ids), state)
    assert torch.equal(model(ids, past_key_values=cache).logits, model.readout(hidden))
    assert state_of(cache, model.config).diff(after) == dict.fromkeys(state, 0.0)


@pytest.mark.parametrize("rule", RULES)
def test_cleared_keys_leave_a_window_that_opens_with_the_state(rule: str) -> None:
    model = precise(rule=rule)
    first, second = tokens(1, 7), tokens(1, 5)
    _, cache = read(model, first, [7])
    for layer in cache.layers:
        if isinstance(layer, DynamicLayer):
            DynamicLayer.reset(layer)
    _, state = model.blocks(model.embed(first), FastWeights())
    hidden, _ = model.blocks(model.embed(second), state)
    assert_close(model(second, past_key_values=cache).logits, model.readout(hidden))


def greedy(model: NapForCausalLM, ids: Tensor, new: int) -> Tensor:
    """Without any cache, by hand."""
    for _ in range(new):
        ids = torch.cat((ids, model(ids).logits[:, -1:].argmax(-1)), 1)
    return ids


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rule", RULES)
def test_generate_greedy(rule: str, pattern: str) -> None:
    model = precise(pattern, rule, pad_token_id=0, eos_token_id=None)
    ids = tokens(2, 5)
    wanted = greedy(model, ids, 9)
    assert len(set(wanted[0, 5:].tolist())) > 1
    assert torch.equal(model.generate(ids, max_new_tokens=9, do_sample=False), wanted)
    assert torch.equal(model.generate(ids, max_new_tokens=9, do_sample=False, use_cache=False), wanted)


@pytest.mark.parametrize("rule", RULES)
def test_generate_for_rows_padded_on_the_left(rule: str) -> None:
    model = precise(rule=rule, pad_token_id=0, eos_token_id=None)
    rows = [tokens(1, n) for n in (3, 7, 6)]
    ids = torch.zeros(3, 7, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, 7 - row.shape[1] :], mask[i, 7 - row.shape[1] :] = row, 1
    out = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    for i, row in enumerate(rows):
        assert torch.equal(out[i, 7:], greedy(model, row, 8)[0, row.shape[1] :])


@pytest.mark.parametrize("rule", RULES)
def test_generate_from_a_state_without_keys(rule: str) -> None:
    """What a live agent does after a sleep: only the new tokens are given."""
    model = precise(rule=rule, pad_token_id=0, eos_token_id=None)
    state, ids = some_state(model), tokens(1, 4)
    out = model.generate(ids, past_key_values=in_cache(model, state), max_new_tokens=6, do_sample=False)
    wanted = ids
    for _ in range(6):
        hidden, _ = model.blocks(model.embed(wanted), state)
        wanted = torch.cat((wanted, model.readout(hidden)[:, -1:].argmax(-1)), 1)
    assert torch.equal(out, wanted)
    assert not torch.equal(out, greedy(model, ids, 6))
