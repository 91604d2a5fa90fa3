"""The sleep is differentiable through passes and windows: checked against differences, in fp64 throughout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from agentsleep.models.nap import NapForCausalLM
from agentsleep.sleep import deep_sleep, sleep
from agentsleep.state import FastWeights
from tests.tiny import RULES, precise, some_state, tokens

SMALL = {
    "hidden_size": 4,
    "intermediate_size": 6,
    "num_attention_heads": 1,
    "linear_num_heads": 1,
    "linear_key_head_dim": 2,
    "linear_value_head_dim": 3,
    "linear_conv_kernel_dim": 3,
}


@pytest.fixture(autouse=True)
def _gates_in_fp64(monkeypatch: pytest.MonkeyPatch) -> None:
    """The gates are cast to fp32, whose steps are larger than the differences that are taken here."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def two_windows(model: NapForCausalLM, state: FastWeights, windows: list[Tensor], mask: Tensor | None) -> Tensor:
    """All that a training step uses: logits of both windows, light sleeps, a deep one, the state in the end."""
    first = sleep(model, windows[0], state, passes=2, mask=mask)
    running = deep_sleep(model, [(windows[0], mask)], first.state, passes=2, rounds=1)
    second = sleep(model, windows[1], running, passes=3)
    parts = [model.readout(first.hidden), model.readout(second.hidden), *second.state.values()]
    return torch.cat([torch.sin(3 * part.flatten()) for part in parts]).sum()


@pytest.mark.parametrize("feedback", ["norm+embed", "hidden"])
@pytest.mark.parametrize("rule", RULES)
def test_gradient_of_the_state_it_starts_from(rule: str, feedback: str) -> None:
    model = precise("as", rule, sleep_feedback=feedback, **SMALL)
    state = some_state(model, 2)
    windows = [tokens(2, 3), tokens(2, 2)]
    mask = torch.tensor([[True, True, False], [True, True, True]])
    names = list(state)

    def read(*tensors: Tensor) -> Tensor:
        return two_windows(model, FastWeights(dict(zip(names, tensors, strict=True))), windows, mask)

    given = [state[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(read, given)
    for gradient in torch.autograd.grad(read(*given), given):
        assert float(gradient.abs().max()) > 1e-3


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("pattern", ["as", "sas"])
@pytest.mark.parametrize("rule", RULES)
def test_gradient_of_every_weight(rule: str, pattern: str, eviction: str) -> None:
    model = precise(pattern, rule, sleep_eviction=eviction, sleep_window=4, **SMALL)
    state = some_state(model, 2)
    windows = [tokens(2, 5), tokens(2, 3)]
    two_windows(model, state, windows, None).backward()
    step = 1e-6
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None, name
        direction = torch.randn_like(parameter)
        direction /= direction.norm()
        with torch.no_grad():
            values = []
            for sign in (1, -2, 1):
                parameter.add_(direction, alpha=sign * step)
                values.append(float(two_windows(model, state, windows, None)))
        measured = (values[0] - values[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(measured, rel=1e-4, abs=1e-5), name
        assert float(gradient.abs().max()) > 1e-4, name


@pytest.mark.parametrize("rule", RULES)
def test_a_later_loss_reaches_an_earlier_window_through_the_state(rule: str) -> None:
    model = precise("as", rule, **SMALL)
    early = model.embed(tokens(1, 3)).detach().requires_grad_()

    class Early:
        embed = staticmethod(lambda ids: early)
        blocks, feed_back = staticmethod(model.blocks), staticmethod(model.feed_back)

    slept = sleep(Early(), tokens(1, 3), FastWeights(), passes=2)  # type: ignore[arg-type]
    later = sleep(model, tokens(1, 2), slept.state, passes=1)
    (gradient,) = torch.autograd.grad(model.readout(later.hidden).square().sum(), early)
    assert (gradient.abs().amax(-1) > 0).all()
    cut = sleep(model, tokens(1, 2), slept.state.detach(), passes=1)
    (nothing,) = torch.autograd.grad(model.readout(cut.hidden).square().sum(), early, allow_unused=True)
    assert nothing is None
