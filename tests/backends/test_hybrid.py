"""A stock hybrid as a backbone: what sleeps is the model's own forward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from agentsleep.backends import SleepSettings
from agentsleep.backends.cache import POSITION, open_cache, state_of
from agentsleep.backends.hybrid import HybridBackbone, reading
from agentsleep.backends.repairs import repair
from agentsleep.conformance import make_model
from agentsleep.errors import InputError, SettingsError
from agentsleep.sleep import deep_sleep, sleep
from agentsleep.state import FastWeights

A, B = 9, 6
IDS = torch.randint(0, 512, (2, A + B), generator=torch.Generator().manual_seed(9))
FAMILIES = ["qwen3_5", "kimi_linear", "falcon_h1", "granitemoehybrid", "zamba2", "jamba"]


def made(family: str) -> PreTrainedModel:
    model = make_model(family)
    repair(model)
    return model


def wrapped(model: PreTrainedModel, **settings: object) -> HybridBackbone:
    return HybridBackbone(model, SleepSettings(window=64, **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_first_pass_is_the_model_itself(family: str) -> None:
    model = made(family)
    backbone = wrapped(model)
    with torch.no_grad():
        slept = sleep(backbone, IDS, FastWeights(), passes=2)
        assert torch.allclose(backbone.readout(slept.hidden), model(IDS, use_cache=False).logits, atol=1e-5)
        assert backbone.readout(slept.hidden[0, -1]).shape == (512,)
        cache = open_cache(model.config, FastWeights())
        model(IDS, use_cache=True, **reading(cache, 2, A + B, 0, IDS.device))
        once = sleep(backbone, IDS, FastWeights(), passes=1).state
    assert max(once.diff(state_of(cache)).values()) < 1e-4
    assert max(slept.state.only("conv").diff(once.only("conv")).values()) == 0.0


@pytest.mark.parametrize("family", ["qwen3_5", "olmo_hybrid", "falcon_h1", "bamba", "nemotron_h", "zamba2", "jamba"])
def test_a_window_of_one_token(family: str) -> None:
    """Passes behind the first have a state and no tails, which the step of one token would ask for."""
    backbone = wrapped(made(family))
    with torch.no_grad():
        read = sleep(backbone, IDS[:, :A], FastWeights(), passes=2).state
        one = sleep(backbone, IDS[:, A : A + 1], read, passes=2).state
        fresh = sleep(wrapped(made(family)), IDS[:, A : A + 1], read.only("recurrent"), passes=1).state
        blank = read.merged({name: torch.zeros_like(t) for name, t in read.only("conv").items()})
        expected = sleep(backbone, IDS[:, A : A + 1], blank, passes=1).state
    assert one.is_finite()
    assert max(one.only("recurrent").diff(read.only("recurrent")).values()) > 1e-3
    assert max(fresh.diff(expected).values()) < 1e-4


@pytest.mark.parametrize("family", ["qwen3_5", "kimi_linear", "falcon_h1"])
@pytest.mark.parametrize("length", [1, B])
def test_gradients_reach_an_earlier_window_through_the_state(family: str, length: int) -> None:
    model = make_model(family).double()
    model.config._experts_implementation = "eager"  # the other one has no fp64
    backbone = wrapped(model)
    embedded = backbone.embed(IDS[:, :A])

    def told(first: Tensor) -> Tensor:
        hidden, state = backbone.blocks(first, FastWeights())
        _, again = backbone.blocks(backbone.feed_back(hidden, first), state.only("recurrent"))
        crossing = again.merged(state.only("conv"))
        second = sleep(backbone, IDS[:, A : A + length], crossing, passes=2)
        return second.hidden.square().mean() + sum(t.square().mean() for t in second.state.only("recurrent").values())

    given = embedded.detach().clone().requires_grad_()
    told(given).backward()
    assert given.grad is not None
    assert bool(torch.isfinite(given.grad).all())
    assert bool((given.grad.abs().amax((0, 2)) > 0).all())
    toward = torch.randn_like(embedded) * 1e-4  # not smaller: parts of these models count in fp32 whatever their type
    with torch.no_grad():
        measured = (told(embedded + toward) - told(embedded - toward)) / 2
    torch.testing.assert_close((given.grad * toward).sum(), measured, rtol=2e-2, atol=1e-5, check_dtype=False)


@pytest.mark.parametrize("feedback", ["hidden", "norm", "norm+embed", "tokens"])
def test_what_is_fed_back(feedback: str) -> None:
    model = make_model("qwen3_5")
    backbone = wrapped(model, feedback=feedback)
    with torch.no_grad():
        embedded = backbone.embed(IDS)
        hidden, _ = backbone.blocks(embedded, FastWeights())
        normed = model.base_model(IDS, use_cache=False).last_hidden_state
        expected = {"hidden": hidden, "norm": normed, "norm+embed": normed + embedded, "tokens": embedded}
        assert torch.allclose(backbone.feed_back(hidden, embedded), expected[feedback], atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3_5", "falcon_h1", "bamba"])
def test_a_window_sees_the_tail_of_the_one_before(family: str) -> None:
    model = make_model(family)
    backbone = wrapped(model, eviction="sliding", tail=4)
    row = torch.arange(A + B)
    seen = row[:, None] >= row
    seen[A:, : A - 4] = False
    mask = torch.zeros(A + B, A + B).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        first = sleep(backbone, IDS[:, :A], FastWeights(), passes=1).state
        assert int(first[POSITION]) == A
        second = sleep(backbone, IDS[:, A:], first, passes=1)
        expected = model(IDS, use_cache=False, attention_mask={"full_attention": mask, "linear_attention": None}).logits
        assert torch.allclose(backbone.readout(second.hidden), expected[:, A:], atol=1e-3)
        assert int(second.state[POSITION]) == A + B
        deeper = sleep(backbone, IDS[:, A:], first, passes=3).state
    assert int(deeper[POSITION]) == A + B
    kept = deeper.only("keys")
    assert len(kept) > 0
    assert all(tensor.shape[2] == 4 for tensor in kept.values())


def test_a_loop_of_some_blocks() -> None:
    backbone = wrapped(make_model("qwen3_5"), loop=(0, 1))
    with torch.no_grad():
        once, thrice = (sleep(backbone, IDS, FastWeights(), passes=n).state for n in (1, 3))
    moved = thrice.only("recurrent").diff(once.only("recurrent"))
    assert moved["layers.0.recurrent"] > 1e-3
    assert moved["layers.2.recurrent"] == 0.0
    with pytest.raises(SettingsError, match=r"sleep_loop is \(2, 4\); it must be two of the blocks 0 to 3"):
        wrapped(make_model("qwen3_5"), loop=(2, 4))


def test_a_deep_sleep_is_one_pass_after_another() -> None:
    backbone = wrapped(make_model("qwen3_5"))
    windows = [(IDS[:, :A], None), (IDS[:, A:], None)]
    with torch.no_grad():
        deep = deep_sleep(backbone, windows, FastWeights(), passes=2)
        state = FastWeights()
        for ids, _ in windows:
            state = sleep(backbone, ids, state.only("recurrent"), passes=2).state
    assert max(deep.diff(state.only("recurrent")).values()) < 1e-5


def test_padding_is_refused() -> None:
    backbone = wrapped(make_model("qwen3_5"))
    mask = torch.ones(2, A + B, dtype=torch.bool)
    with torch.no_grad():
        plain = sleep(backbone, IDS, FastWeights(), passes=1, mask=mask).state
        assert max(plain.diff(sleep(backbone, IDS, FastWeights(), passes=1).state).values()) == 0.0
        mask[0, -2:] = False
        with pytest.raises(InputError, match=r"2 padded tokens; padding would decay the fast weights"):
            sleep(backbone, IDS, FastWeights(), passes=1, mask=mask)
