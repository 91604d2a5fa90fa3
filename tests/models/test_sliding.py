"""Sliding eviction: against one forward with a banded mask, and against plain loops."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch
from torch import Tensor

from agentsleep.errors import InputError
from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.models.nap.mixers import Attention
from agentsleep.models.nap.sliding import Tail, slide
from agentsleep.sleep import deep_sleep, sleep
from agentsleep.state import FastWeights
from tests.tiny import RULES, assert_close, assert_same_state, in_cache, precise, tiny, tokens

WINDOWS = (1, 5, 2, 9, 3, 1, 1, 4)
KEYS = ("keys", "values", "seen")


def pair(span: int, pattern: str = "asas", rule: str = "delta") -> tuple[NapForCausalLM, NapForCausalLM]:
    """The same weights with sliding and with hard eviction, in fp64."""
    return (
        precise(pattern, rule, sleep_eviction="sliding", sleep_window=span),
        precise(pattern, rule, sleep_window=span),
    )


def band(length: int, span: int, batch: int = 2) -> Tensor:
    """Every token sees itself and the span - 1 before it: ``[B, 1, T, T]``."""
    whole = torch.ones(length, length, dtype=torch.bool)
    return (whole.tril() & whole.triu(1 - span)).expand(batch, 1, -1, -1)


def windowed(
    model: NapForCausalLM, ids: Tensor, windows: tuple[int, ...], passes: int = 1
) -> tuple[Tensor, FastWeights]:
    """Logits of a text that is read in windows, and the state in the end."""
    state, logits = FastWeights(), []
    for part in ids.split(windows, 1):
        slept = sleep(model, part, state, passes=passes)
        state = slept.state
        logits.append(model.readout(slept.hidden))
    return torch.cat(logits, 1), state


def before_norm(model: NapForCausalLM, inputs: Tensor, mask: Tensor) -> Tensor:
    """Hidden states of a forward over inputs ``[B, T, D]``, caught before the final norm."""
    caught: list[Tensor] = []
    hook = model.norm.register_forward_pre_hook(lambda module, args: caught.append(args[0]))
    model(inputs_embeds=inputs, attention_mask=mask)
    hook.remove()
    return caught[0]


@pytest.mark.parametrize("span", [1, 2, 4, 7, 64])
@pytest.mark.parametrize("rule", RULES)
def test_windows_at_one_pass_are_one_forward_with_a_band(rule: str, span: int) -> None:
    sliding, hard = pair(span, rule=rule)
    ids = tokens(2, sum(WINDOWS))
    logits, state = windowed(sliding, ids, WINDOWS)
    cache = in_cache(hard, FastWeights())
    whole = hard(ids, attention_mask=band(ids.shape[1], span), past_key_values=cache).logits
    assert_close(logits, whole)
    other, another = windowed(sliding, ids, (13, 13))
    assert_close(other, whole)  # wherever the windows end
    assert_same_state(state, another)
    gradients = [
        torch.autograd.grad(given.sin().sum(), list(model.parameters()))
        for given, model in ((logits, sliding), (whole, hard))
    ]
    for (name, _), a, b in zip(sliding.named_parameters(), *gradients, strict=True):
        assert_close(a, b, 1e-4)
        assert span == 1 or float(a.abs().max()) > 0, name


def test_the_same_in_single_precision() -> None:
    sliding, hard = tiny(sleep_eviction="sliding", sleep_window=6), tiny(sleep_window=6)
    ids = tokens(2, sum(WINDOWS))
    with torch.no_grad():
        logits, _ = windowed(sliding, ids, WINDOWS)
        assert_close(logits, hard(ids, attention_mask=band(ids.shape[1], 6)).logits, 1e-4)


def test_hard_eviction_is_something_else() -> None:
    sliding, hard = pair(6)
    ids = tokens(2, 10)
    with torch.no_grad():
        (slid, state), (cut, less) = windowed(sliding, ids, (5, 5)), windowed(hard, ids, (5, 5))
    assert_close(slid[:, :5], cut[:, :5])
    assert float((slid[:, 5:] - cut[:, 5:]).abs().max()) > 1e-2
    assert {name.rpartition(".")[2] for name in state} == {"recurrent", "conv", *KEYS}
    assert {name.rpartition(".")[2] for name in less} == {"recurrent", "conv"}


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_passes_against_forwards_over_all_windows_at_once(passes: int) -> None:
    """Without fast weights a window sees of those before it what went into their last pass, and no more."""
    span, windows = 4, (3, 5, 2)
    sliding, hard = pair(span, "aa")
    ids, state, before = tokens(2, sum(windows)), FastWeights(), torch.zeros(2, 0, 16, dtype=torch.float64)
    with torch.no_grad():
        for part, end in zip(ids.split(windows, 1), accumulate(windows), strict=True):
            slept = sleep(sliding, part, state, passes=passes)
            state = slept.state
            embedded = given = hard.embed(part)
            hidden = []
            for _ in range(passes):
                inputs = torch.cat((before, given), 1)
                hidden.append(before_norm(hard, inputs, band(end, span))[:, -part.shape[1] :])
                given = hard.norm(hidden[-1]) + embedded
            assert_close(slept.hidden, hidden[0])
            before = inputs


ROWS = [[3, 4, 5, 1, 2], [3, 0, 1, 4, 2], [1, 2, 0, 0, 6], [0, 0, 5, 2, 1]]  # real tokens of every window, by row


@pytest.mark.parametrize("passes", [1, 2])
def test_padded_rows_equal_unpadded_ones(passes: int) -> None:
    model, _ = pair(4)
    state = FastWeights()
    alone = [FastWeights() for _ in ROWS]
    with torch.no_grad():
        for counts in zip(*ROWS, strict=True):
            ids = tokens(4, 6)
            mask = torch.arange(6) < torch.tensor(counts)[:, None]
            slept = sleep(model, ids, state, passes=passes, mask=mask)
            state = slept.state
            assert torch.isfinite(slept.hidden).all()
            for row, count in enumerate(counts):
                if count:
                    single = sleep(model, ids[row : row + 1, :count], alone[row], passes=passes)
                    alone[row] = single.state
                    assert_close(slept.hidden[row, :count], single.hidden[0])
                for name in alone[row]:
                    kept, wanted = state[name][row], alone[row][name][0]
                    if name.endswith(("keys", "values")):
                        layer = name.rpartition(".")[0]
                        kept = kept[:, state[f"{layer}.seen"][row]]
                        wanted = wanted[:, alone[row][f"{layer}.seen"][0]]
                    if not name.endswith("seen"):
                        assert_close(kept, wanted)


def test_a_later_window_reaches_the_last_tokens_through_their_keys() -> None:
    model, _ = pair(4, "a")
    early = model.embed(tokens(1, 6)).detach().requires_grad_()
    _, state = model.blocks(early, FastWeights())
    hidden, _ = model.blocks(model.embed(tokens(1, 1)), state)
    (gradient,) = torch.autograd.grad(hidden.square().sum(), early)
    assert (gradient[0].abs().amax(-1) > 0).tolist() == [False] * 3 + [True] * 3


def test_a_deep_sleep_keeps_the_keys_that_it_came_with() -> None:
    model, _ = pair(4)
    with torch.no_grad():
        _, state = windowed(model, tokens(2, 9), (5, 4))
        visits = [(tokens(2, 5), None), (tokens(2, 3), None)]
        slept = deep_sleep(model, visits, state, passes=2, rounds=2)
        fresh = deep_sleep(model, visits, state.only("recurrent"), passes=2, rounds=2)
    assert_same_state(slept.only("conv", *KEYS), state.only("conv", *KEYS))
    assert all(by > 1e-2 for by in slept.only("recurrent").diff(state.only("recurrent")).values())
    assert_same_state(slept.only("recurrent"), fresh)  # the visits do not see them


@pytest.mark.parametrize("row", [[False, True, True], [True, False, True]])
def test_padding_on_another_side(row: list[bool]) -> None:
    model, _ = pair(4)
    with pytest.raises(InputError, match="wants padding on the right"):
        sleep(model, tokens(2, 3), FastWeights(), passes=1, mask=torch.tensor([row, [True] * 3]))


def spun(vector: list[float], position: int, theta: float) -> list[float]:
    """A key or query at a position: every pair of a head turned by its own angle."""
    half = len(vector) // 2
    angles = [position * theta ** (-2 * i / len(vector)) for i in range(half)]
    first = [vector[i] * math.cos(a) - vector[half + i] * math.sin(a) for i, a in enumerate(angles)]
    return first + [vector[half + i] * math.cos(a) + vector[i] * math.sin(a) for i, a in enumerate(angles)]


@pytest.mark.parametrize("span", [1, 3, 5, 20])
def test_attention_against_plain_loops(span: int) -> None:
    config = NapConfig(
        hidden_size=8, num_attention_heads=2, sleep_eviction="sliding", sleep_window=span, rope_theta=9.0
    )
    mixer = Attention(config).double()
    mixer.out_proj.weight.data = torch.eye(8).double()
    old, length = min(4, span - 1), 5
    q, k, v = (torch.randn(2, 2, length, 4).double() for _ in range(3))
    seen = torch.tensor([[True] * 4, [False, False, True, True]])[:, 4 - old :]
    before = Tail(torch.randn(2, 2, old, 4).double(), torch.randn(2, 2, old, 4).double(), seen)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with torch.no_grad():
        out, after = slide(mixer, (q, k, v), before, mask, config)
    for row in range(2):
        real = int(mask[row].sum())
        past = [(i - old, before, i) for i in range(old) if seen[row, i]]
        places = past + [(i, Tail(k, v, mask), i) for i in range(real)]
        for head in range(2):
            for at in range(real):
                near = [(p, t, i) for p, t, i in places if at - span < p <= at]
                asked = spun(q[row, head, at].tolist(), at, 9.0)
                scores = []
                for p, t, i in near:
                    key = spun(t.keys[row, head, i].tolist(), p, 9.0)
                    scores.append(math.exp(sum(a * b for a, b in zip(asked, key, strict=True)) / 2))
                for d in range(4):
                    mixed = sum(s * float(t.values[row, head, i, d]) for s, (_, t, i) in zip(scores, near, strict=True))
                    assert float(out[row, at, 4 * head + d]) == pytest.approx(mixed / sum(scores), abs=1e-6)
            kept = after.seen[row]
            last = places[len(places) - min(len(places), span - 1) :]
            assert kept.tolist() == [False] * (len(kept) - len(last)) + [True] * len(last)
            for name in ("keys", "values"):
                wanted = [getattr(t, name)[row, head, i].tolist() for _, t, i in last]
                assert getattr(after, name)[row, head, kept].tolist() == wanted
    assert after.keys.shape[2] == min(span - 1, old + length)


def test_the_transformers_interface_sees_as_far() -> None:
    """Cached or not, one token at a time or all at once, padded on the left or not at all."""
    model, hard = pair(3)
    ids = tokens(2, 9)
    with torch.no_grad():
        wanted = hard(ids, attention_mask=band(9, 3)).logits
        assert_close(model(ids).logits, wanted)
        cache = in_cache(model, FastWeights())
        steps = [model(part, past_key_values=cache, use_cache=True).logits for part in ids.split((1, 1, 4, 1, 2), 1)]
        assert_close(torch.cat(steps, 1), wanted)
        padded = torch.cat((tokens(2, 2), ids), 1)
        mask = torch.tensor([[0] * 2 + [1] * 9] * 2)
        assert_close(model(padded, attention_mask=mask).logits[:, 2:], wanted)
        assert float((hard(ids).logits - wanted)[:, 3:].abs().max()) > 1e-2
