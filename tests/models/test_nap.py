from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from agentsleep.models.nap.modeling import visible
from agentsleep.state import FastWeights
from tests.tiny import RULES, assert_close, precise, some_state, tiny, tokens

PATTERNS = ("asas", "sa", "ss", "aa")


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rule", RULES)
def test_gradients_reach_every_parameter(rule: str, pattern: str) -> None:
    model = tiny(pattern, rule)
    ids = tokens(2, 9)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert float(parameter.grad.abs().max()) > 0, name


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_token_sees_none_that_follow(pattern: str) -> None:
    model = precise(pattern)
    ids = tokens(1, 8)
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 31
    with torch.no_grad():
        before, after = model(ids).logits, model(other).logits
    assert_close(before[:, :5], after[:, :5])
    assert float((before[:, 5:] - after[:, 5:]).abs().max()) > 1e-2


def test_loss_is_that_of_the_next_token() -> None:
    model = tiny()
    ids = tokens(2, 7)
    labels = ids.clone()
    labels[0, :4] = -100
    out = model(ids, labels=labels)
    log_probabilities = out.logits.log_softmax(-1)
    terms = [
        -log_probabilities[b, t, labels[b, t + 1]] for b in range(2) for t in range(6) if int(labels[b, t + 1]) != -100
    ]
    assert len(terms) == 3 + 6
    assert_close(out.loss, torch.stack(terms).mean())
    # a Trainer that accumulates gradients gives the number of labels of all its batches
    assert_close(model(ids, labels=labels, num_items_in_batch=18).loss, out.loss / 2)


def test_logits_to_keep() -> None:
    model = precise()
    ids = tokens(2, 6)
    with torch.no_grad():
        whole = model(ids).logits
        assert whole.shape == (2, 6, 31)
        assert_close(model(ids, logits_to_keep=2).logits, whole[:, -2:])
        assert_close(model(ids, logits_to_keep=torch.tensor([0, 3])).logits, whole[:, [0, 3]])


def test_embeddings_in_the_place_of_ids() -> None:
    model = tiny()
    ids = tokens(2, 6)
    with torch.no_grad():
        assert torch.equal(model(inputs_embeds=model.embed(ids)).logits, model(ids).logits)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("rule", RULES)
def test_padding_changes_nothing(rule: str, side: str) -> None:
    model = precise(rule=rule)
    short, long = tokens(1, 5), tokens(1, 8)
    mask = torch.ones(2, 8, dtype=torch.long)
    gaps = {"left": [0, 1, 2], "right": [5, 6, 7], "middle": [1, 4, 5]}[side]
    mask[0, gaps] = 0
    ids = torch.cat((tokens(1, 8), long))  # padded with tokens that would show
    ids[0, mask[0].bool()] = short[0]
    with torch.no_grad():
        logits = model(ids, attention_mask=mask).logits
        assert_close(logits[0, mask[0].bool()], model(short).logits[0])
        assert_close(logits[1], model(long).logits[0])
        assert torch.isfinite(logits).all()
        unmasked = model(ids).logits
    if side != "right":  # the mask does something: padding on the right is harmless where causality hides it
        assert float((unmasked[0, mask[0].bool()] - logits[0, mask[0].bool()]).abs().max()) > 1e-2


def test_padding_gets_no_gradient() -> None:
    model = tiny(rule="delta")
    embedded = torch.randn(1, 6, 16, requires_grad=True)
    mask = torch.tensor([[0, 1, 1, 0, 1, 1]])
    model(inputs_embeds=embedded, attention_mask=mask).logits[mask.bool()].square().sum().backward()
    assert embedded.grad is not None
    assert (embedded.grad[~mask.bool()] == 0).all()
    assert (embedded.grad[mask.bool()].abs().amax(-1) > 0).all()


def test_a_ready_mask_is_for_attention_alone() -> None:
    """Bool and additive mean the same; causal equals the default."""
    model = precise()
    ids = tokens(2, 5)
    causal = torch.ones(5, 5, dtype=torch.bool).tril().expand(2, 1, 5, 5)
    added = torch.zeros(2, 1, 5, 5, dtype=torch.float64).masked_fill(~causal, float("-inf"))
    with torch.no_grad():
        wanted = model(ids).logits
        assert_close(model(ids, attention_mask=causal).logits, wanted)
        assert_close(model(ids, attention_mask=added).logits, wanted)
        alone = torch.eye(5, dtype=torch.bool).expand(2, 1, 5, 5)
        assert float((model(ids, attention_mask=alone).logits - wanted).abs().max()) > 1e-2


def test_positions_are_relative_and_can_be_given() -> None:
    model = precise()
    ids = tokens(1, 6)
    with torch.no_grad():
        wanted = model(ids).logits
        assert_close(model(ids, position_ids=torch.arange(20, 26)[None]).logits, wanted)
        assert float((model(ids, position_ids=2 * torch.arange(6)[None]).logits - wanted).abs().max()) > 1e-3


def test_visible() -> None:
    whole = torch.tensor([[False, True, True, False, True]])
    got = visible(whole, 3)[0, 0].int().tolist()
    assert got == [[0, 1, 1, 0, 0], [0, 1, 1, 1, 0], [0, 1, 1, 0, 1]]


@pytest.mark.parametrize("rule", RULES)
def test_bf16(rule: str) -> None:
    model = tiny(rule=rule)
    ids = tokens(2, 40)
    with torch.no_grad():
        wanted = model(ids).logits
        model.to(torch.bfloat16)
        out = model(ids, use_cache=True)
    assert out.logits.dtype == torch.bfloat16
    assert torch.isfinite(out.logits).all()
    agree = (out.logits.argmax(-1) == wanted.argmax(-1)).float().mean()
    assert float(agree) > 0.8
    _, state = model.blocks(model.embed(ids), FastWeights())
    assert {t.dtype for name, t in state.items() if name.endswith("recurrent")} == {torch.float32}
    assert {t.dtype for name, t in state.items() if name.endswith("conv")} == {torch.bfloat16}


@pytest.mark.parametrize("rule", RULES)
def test_autocast_leaves_the_state_in_fp32(rule: str) -> None:
    model = tiny(rule=rule)
    ids = tokens(2, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(ids, labels=ids)
        _, state = model.blocks(model.embed(ids), FastWeights())
    assert torch.isfinite(out.loss)
    out.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(t.dtype == torch.float32 for name, t in state.items() if name.endswith("recurrent"))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("rule", RULES)
def test_blocks_are_the_forward_pass(rule: str, pattern: str) -> None:
    """From an empty state and from another one; what is not in a state reads as zeros."""
    model = tiny(pattern, rule)
    ids = tokens(2, 7)
    with torch.no_grad():
        hidden, state = model.blocks(model.embed(ids), FastWeights())
        assert torch.equal(model.readout(hidden), model(ids).logits)
        kinds = {name.rsplit(".", 1)[1] for name in state}
        assert kinds == ({"recurrent", "conv"} if "s" in pattern else set())
        zeros = FastWeights({name: torch.zeros_like(t) for name, t in state.items()})
        again, same = model.blocks(model.embed(ids), zeros)
        assert torch.equal(again, hidden)
        assert same.diff(state) == dict.fromkeys(state, 0.0)
        if "s" in pattern:
            other, _ = model.blocks(model.embed(ids), some_state(model, 2))
            assert float((other - hidden).abs().max()) > 1e-2


def test_state_shapes() -> None:
    model = tiny("sa", "hebbian")
    state = some_state(model, 3)
    assert {name: tuple(t.shape) for name, t in state.items()} == {
        "layers.0.recurrent": (3, 2, 4, 6),
        "layers.0.conv": (3, 2 * 6 + 2 * 4, 3),
    }
    model = tiny("as", "delta")
    assert tuple(some_state(model)["layers.1.conv"].shape) == (1, 2 * 2 * 4 + 2 * 6, 3)


@pytest.mark.parametrize("rule", RULES)
def test_a_kernel_of_width_one_has_an_empty_tail(rule: str) -> None:
    model = tiny("as", rule, linear_conv_kernel_dim=1)
    ids = tokens(1, 6)

    def read(part: Tensor, state: FastWeights) -> tuple[Tensor, FastWeights]:
        return model.blocks(model.embed(part), state)

    with torch.no_grad():
        _, whole = read(ids, FastWeights())
    assert whole["layers.1.conv"].shape[-1] == 0
    assert whole.diff(FastWeights())["layers.1.conv"] == 0.0
    back = FastWeights.load(whole.save())
    assert back.diff(whole) == dict.fromkeys(whole, 0.0)
    assert F.mse_loss(back["layers.1.recurrent"], whole["layers.1.recurrent"]) == 0
