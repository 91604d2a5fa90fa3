from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from agentsleep.models.nap import NapConfig
from agentsleep.models.nap.mixers import DeltaMixer, HebbianMixer, RMSNorm, rope_table, rotate
from tests.tiny import assert_close, enliven

HIDDEN, HEADS, K, V, WIDTH = 8, 2, 4, 8, 4
LENGTHS = [1, 2, 7, 33, 67]
Mixer = DeltaMixer | HebbianMixer


def config(rule: str) -> NapConfig:
    return NapConfig(
        hidden_size=HIDDEN,
        num_attention_heads=2,
        rule=rule,
        linear_num_heads=HEADS,
        linear_key_head_dim=K,
        linear_value_head_dim=V,
        linear_conv_kernel_dim=WIDTH,
    )


def delta_pair() -> tuple[DeltaMixer, Qwen3_5GatedDeltaNet, dict[str, list[str]]]:
    """Our block, the one of Qwen3.5, and which of its weights, stacked, make each of ours."""
    theirs = Qwen3_5GatedDeltaNet(
        Qwen3_5TextConfig(
            hidden_size=HIDDEN,
            num_hidden_layers=1,
            layer_types=["linear_attention"],
            linear_num_key_heads=HEADS,
            linear_num_value_heads=HEADS,
            linear_key_head_dim=K,
            linear_value_head_dim=V,
            linear_conv_kernel_dim=WIDTH,
        ),
        layer_idx=0,
    )
    names = {
        "in_proj.weight": ["in_proj_qkv.weight", "in_proj_z.weight", "in_proj_b.weight", "in_proj_a.weight"],
        "conv_weight": ["conv1d.weight"],
        "A_log": ["A_log"],
        "dt_bias": ["dt_bias"],
        "norm.weight": ["norm.weight"],
        "out_proj.weight": ["out_proj.weight"],
    }
    return DeltaMixer(config("delta")), theirs, names


def hebbian_pair() -> tuple[HebbianMixer, Mamba2Mixer, dict[str, list[str]]]:
    theirs = Mamba2Mixer(
        Mamba2Config(
            hidden_size=HIDDEN,
            num_hidden_layers=1,
            num_heads=HEADS,
            head_dim=V,
            expand=HEADS * V // HIDDEN,
            state_size=K,
            n_groups=1,
            conv_kernel=WIDTH,
            chunk_size=16,
            layer_norm_epsilon=1e-6,
        ),
        layer_idx=0,
    )
    assert tuple(theirs.time_step_limit) == (0.0, float("inf"))
    names = {
        "in_proj.weight": ["in_proj.weight"],
        "conv_weight": ["conv1d.weight"],
        "conv_bias": ["conv1d.bias"],
        "A_log": ["A_log"],
        "dt_bias": ["dt_bias"],
        "D": ["D"],
        "norm.weight": ["norm.weight"],
        "out_proj.weight": ["out_proj.weight"],
    }
    return HebbianMixer(config("hebbian")), theirs, names


def pair(rule: str) -> tuple[Mixer, nn.Module, dict[str, list[str]]]:
    """Both blocks with equal weights, none of which is where it would be harmless."""
    ours, theirs, names = delta_pair() if rule == "delta" else hebbian_pair()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.4)
        enliven(theirs)
        given = dict(theirs.named_parameters())
        mine = dict(ours.named_parameters())
        assert sorted(mine) == sorted(names)
        assert sorted(given) == sorted(name for stacked in names.values() for name in stacked)
        for name, stacked in names.items():
            mine[name].copy_(torch.cat([given[n] for n in stacked]).view_as(mine[name]))
    return ours, theirs, names


class Live:
    """The cache interface that both blocks use, but with states that are replaced, not overwritten.

    transformers' own copies into the tensors that the backward pass still needs.
    """

    def __init__(self, conv: Tensor | None, recurrent: Tensor | None) -> None:
        self.conv, self.recurrent = conv, recurrent

    def get_conv_state(self, layer: int, state_idx: int = 0) -> Tensor | None:
        return self.conv

    def get_recurrent_state(self, layer: int, state_idx: int = 0) -> Tensor | None:
        return self.recurrent

    def is_recording_past(self, layer: int) -> bool:
        return False

    def update_conv_state(self, new: Tensor, layer: int, conv_kernel_size: int) -> Tensor:
        self.conv = new if self.conv is None else torch.cat((self.conv, new), -1)
        return self.conv

    def update_recurrent_state(self, new: Tensor, layer_idx: int) -> Tensor:
        self.recurrent = new
        return new


def in_their_layout(rule: str, recurrent: Tensor) -> Tensor:
    """Mamba-2 stores S with the values first."""
    return recurrent if rule == "delta" else recurrent.transpose(2, 3)


def compare_gradients(ours: nn.Module, theirs: nn.Module, names: dict[str, list[str]]) -> None:
    mine, given = dict(ours.named_parameters()), dict(theirs.named_parameters())
    for name, stacked in names.items():
        wanted = torch.cat([given[n].grad for n in stacked])  # type: ignore[misc]
        got = mine[name].grad
        assert got is not None
        assert float(got.abs().max()) > 0, f"{name} has no gradient: the comparison would be empty"
        assert_close(got, wanted.view_as(got), 2e-4)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("rule", ["delta", "hebbian"])
def test_block_equals_the_one_of_transformers(rule: str, length: int) -> None:
    ours, theirs, names = pair(rule)
    x, weights = torch.randn(2, length, HIDDEN), torch.randn(2, length, HIDDEN)
    x_ours, x_theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    out, recurrent, tail = ours(x_ours, None, None, None)
    cache = Live(None, None)
    wanted = theirs(x_theirs, cache_params=cache)
    assert_close(out, wanted)
    assert cache.recurrent is not None
    assert cache.conv is not None
    assert_close(in_their_layout(rule, recurrent), cache.recurrent)
    padded = nn.functional.pad(cache.conv, (WIDTH, 0))
    assert_close(tail, padded[..., -(WIDTH - 1) :])
    ((out * weights).sum() + recurrent.square().sum()).backward()
    ((wanted * weights).sum() + cache.recurrent.square().sum()).backward()
    assert x_ours.grad is not None
    assert_close(x_ours.grad, x_theirs.grad, 1e-4)
    if length > 2:
        compare_gradients(ours, theirs, names)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("rule", ["delta", "hebbian"])
def test_block_continued_from_a_state_equals_the_one_of_transformers(rule: str, length: int) -> None:
    ours, theirs, names = pair(rule)
    x, weights = torch.randn(2, length, HIDDEN), torch.randn(2, length, HIDDEN)
    channels = ours.conv_weight.shape[0]
    state, tail = torch.randn(2, HEADS, K, V), torch.randn(2, channels, WIDTH - 1)
    if length == 1:  # their decoding step writes into the states, so only its output can be compared
        with torch.no_grad():
            cache = Live(nn.functional.pad(tail, (1, 0)), in_their_layout(rule, state).clone())
            out, recurrent, after = ours(x, state, tail, None)
            assert_close(out, theirs(x, cache_params=cache))
            assert cache.recurrent is not None
            assert cache.conv is not None
            assert_close(in_their_layout(rule, recurrent), cache.recurrent)
            assert_close(after, cache.conv[..., -(WIDTH - 1) :])
        return
    mine = [t.clone().requires_grad_() for t in (x, state, tail)]
    given = [t.clone().requires_grad_() for t in (x, state, tail)]
    out, recurrent, _ = ours(*mine, None)
    cache = Live(nn.functional.pad(given[2], (1, 0)), in_their_layout(rule, given[1]))
    wanted = theirs(given[0], cache_params=cache)
    assert_close(out, wanted)
    assert cache.recurrent is not None
    assert_close(in_their_layout(rule, recurrent), cache.recurrent)
    ((out * weights).sum() + recurrent.square().sum()).backward()
    ((wanted * weights).sum() + cache.recurrent.square().sum()).backward()
    for a, b in zip(mine, given, strict=True):
        assert a.grad is not None
        assert float(a.grad.abs().max()) > 0
        assert_close(a.grad, b.grad, 2e-4)
    compare_gradients(ours, theirs, names)


@pytest.mark.parametrize(("first", "second"), [(1, 1), (2, 5), (7, 1), (17, 9)])
@pytest.mark.parametrize("rule", ["delta", "hebbian"])
def test_states_handed_on_equal_those_in_transformers_own_cache(rule: str, first: int, second: int) -> None:
    ours, theirs, _ = pair(rule)
    x = torch.randn(2, first + second, HIDDEN)
    cache = DynamicCache(config=Qwen3_5TextConfig(num_hidden_layers=1, layer_types=["linear_attention"]))
    with torch.no_grad():
        wanted = torch.cat([theirs(part, cache_params=cache) for part in x.split((first, second), 1)], 1)
        head, recurrent, tail = ours(x[:, :first], None, None, None)
        rest, recurrent, tail = ours(x[:, first:], recurrent, tail, None)
    assert_close(torch.cat((head, rest), 1), wanted)
    stored, conv = cache.get_recurrent_state(0), cache.get_conv_state(0)
    assert stored is not None
    assert conv is not None
    assert_close(in_their_layout(rule, recurrent), stored)
    assert_close(tail, conv[..., -(WIDTH - 1) :])


@pytest.mark.parametrize("rule", ["delta", "hebbian"])
def test_a_masked_token_is_as_if_it_were_not_there(rule: str) -> None:
    ours, _, _ = pair(rule)
    x = torch.randn(1, 9, HIDDEN)
    mask = torch.tensor([[False, True, True, False, True, True, False, False, True]])
    state, tail = torch.randn(1, HEADS, K, V), torch.randn(1, ours.conv_weight.shape[0], WIDTH - 1)
    out, recurrent, after = ours(x, state, tail, mask)
    wanted, recurrent_wanted, after_wanted = ours(x[mask][None], state, tail, None)
    assert_close(out[mask][None], wanted)
    assert_close(recurrent, recurrent_wanted)
    assert_close(after, after_wanted)
    out, recurrent, after = ours(x, state, tail, torch.zeros_like(mask))
    assert torch.equal(recurrent, state)
    assert torch.equal(after, tail)
    assert torch.isfinite(out).all()


def test_rope_is_relative_and_keeps_lengths() -> None:
    q, k = torch.randn(1, 1, 1, 8), torch.randn(1, 1, 1, 8)

    def score(at_q: int, at_k: int) -> float:
        tables = [rope_table(torch.tensor([[at]]), 8, 10000.0, torch.float32) for at in (at_q, at_k)]
        return float((rotate(q, tables[0]) * rotate(k, tables[1])).sum())

    assert score(9, 4) == pytest.approx(score(25, 20), abs=1e-5)
    assert score(9, 4) != pytest.approx(score(9, 5), abs=1e-3)
    turned = rotate(q, rope_table(torch.tensor([[7]]), 8, 10000.0, torch.float32))
    assert float(turned.norm()) == pytest.approx(float(q.norm()), abs=1e-5)
    assert torch.equal(rotate(q, rope_table(torch.tensor([[0]]), 8, 10000.0, torch.float32)), q)


def test_norm_counts_bf16_in_fp32() -> None:
    norm = RMSNorm(64, 1e-6)
    x = torch.randn(3, 64)
    assert_close(norm(x), x / x.square().mean(-1, keepdim=True).sqrt())
    half = norm.to(torch.bfloat16)(x.bfloat16())
    assert half.dtype == torch.bfloat16
    wanted = (x.bfloat16().float() / x.bfloat16().float().square().mean(-1, keepdim=True).sqrt()).bfloat16()
    assert torch.equal(half, wanted)
