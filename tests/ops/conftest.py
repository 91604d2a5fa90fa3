"""Both rules, inputs for them, and memory that shows when it is read before it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from agentsleep.ops import gated_delta_chunked, gated_delta_naive, gated_hebbian_chunked, gated_hebbian_naive


@dataclass(frozen=True)
class Rule:
    naive: Callable[..., tuple[Tensor, Tensor]]
    chunked: Callable[..., tuple[Tensor, Tensor]]


RULES = {
    "delta": Rule(gated_delta_naive, gated_delta_chunked),
    "hebbian": Rule(gated_hebbian_naive, gated_hebbian_chunked),
}


@pytest.fixture(scope="session", params=list(RULES))
def rule(request: pytest.FixtureRequest) -> Rule:
    return RULES[request.param]


@pytest.fixture(autouse=True)
def _poison() -> Iterator[None]:
    """In deterministic mode torch fills what ``empty`` gives with NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@dataclass(frozen=True)
class Inputs:
    """q, k, v, g, beta and the first state, all leaves that want gradients."""

    tensors: tuple[Tensor, ...]

    def run(self, form: Callable[..., tuple[Tensor, Tensor]], **settings: Any) -> tuple[Tensor, Tensor]:
        return form(*self.tensors[:5], initial_state=self.tensors[5], **settings)

    def run_with_grads(self, form: Callable[..., tuple[Tensor, Tensor]], **settings: Any) -> list[Tensor]:
        """Outputs, final state, and the gradients of all six inputs for fixed weights on both results."""
        outputs, state = self.run(form, **settings)
        generator = torch.Generator().manual_seed(7)
        loss = sum((x.double() * _normal(x.shape, generator)).sum() for x in (outputs, state))
        assert isinstance(loss, Tensor)
        return [outputs, state, *torch.autograd.grad(loss, self.tensors)]

    def on(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        """The inputs with q, k, v, g, beta changed, as new leaves."""
        changed = (change(x.detach()) for x in self.tensors[:5])
        return Inputs((*(x.clone().requires_grad_() for x in changed), self.tensors[5]))


def _normal(shape: Any, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="session")
def draw() -> Callable[..., Inputs]:
    def make(
        length: int,
        *,
        batch: int = 2,
        heads: int = 2,
        key_dim: int = 8,
        value_dim: int = 5,
        decay: float = 1.0,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
    ) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        q, k = (F.normalize(_normal((batch, length, heads, key_dim), generator), dim=-1) for _ in range(2))
        v = _normal((batch, length, heads, value_dim), generator)
        g, beta = (torch.rand((batch, length, heads), generator=generator, dtype=torch.float64) for _ in range(2))
        state = _normal((batch, heads, key_dim, value_dim), generator)
        state_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        tensors = (*(x.to(dtype) for x in (q, k, v, -decay * g, beta)), state.to(state_dtype))
        return Inputs(tuple(x.requires_grad_() for x in tensors))

    return make
