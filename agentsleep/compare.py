"""Two states side by side: what changed from one to the other, head by head.

Norms are Frobenius norms, the rank of a change is the effective rank of :mod:`agentsleep.gauge`, and all is computed on
the CPU in fp64, outside of the autograd graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from agentsleep.errors import InputError
from agentsleep.gauge import effective_rank
from agentsleep.state import FastWeights


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of a part of the fast weights, from state a to state b.

    norm_a, norm_b, norm_change: of a, of b, and of b - a.
    relative: ||b - a|| / ||b||, as in :func:`agentsleep.gauge.written`: 1 where all of b is new, infinite where b is
        zero and a is not, 0 where both are.
    cosine: of the angle between a and b, -1 to 1; 1 where both are zero, 0 where one is.
    rank: effective rank of b - a as a share of the most it can be, 0 to 1; of several heads, their mean.
    """

    norm_a: float
    norm_b: float
    norm_change: float
    relative: float
    cosine: float
    rank: float

    def as_json(self) -> dict[str, float | None]:
        """By name; an infinite relative change, for which JSON has no number, is None."""
        return {name: value if math.isfinite(value) else None for name, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class LayerDiff:
    """One recurrent state. layer: its index in the model.  part: which of a layer's several states; 0 in most models.

    heads: each head's change. The state of a Mamba-1 layer ``[B, D, N]`` has no heads, and counts as one.
    total: of all heads together.
    """

    layer: int
    part: int
    heads: tuple[Change, ...]
    total: Change

    @property
    def label(self) -> str:
        """``3``; ``3.1`` for a further state of a layer."""
        return f"{self.layer}.{self.part}" if self.part else f"{self.layer}"


@dataclass(frozen=True, kw_only=True)
class StateDiff:
    """What changed between two states.

    layers: in the order of the model.  total: all layers together, each head counting once in its rank.
    others: largest absolute difference by name of all that is not recurrent: convolution tails, and with sliding
        eviction keys, values, which of them were seen, and the position of the next token.
    """

    layers: tuple[LayerDiff, ...]
    total: Change
    others: Mapping[str, float] = field(hash=False)

    @property
    def same(self) -> bool:
        """Whether the two states are equal in every number."""
        return not self.total.norm_change and not any(self.others.values())

    def as_rows(self) -> list[dict[str, Any]]:
        """One flat row a head: ``layer``, ``part``, ``head`` and the fields of :class:`Change`."""
        return [
            {"layer": layer.layer, "part": layer.part, "head": i, **head.as_json()}
            for layer in self.layers
            for i, head in enumerate(layer.heads)
        ]

    def as_json(self) -> dict[str, Any]:
        """Nested: ``same``, ``total``, ``layers`` with their ``total`` and ``heads``, and ``others``."""
        layers = [
            {
                "layer": layer.layer,
                "part": layer.part,
                "total": layer.total.as_json(),
                "heads": [head.as_json() for head in layer.heads],
            }
            for layer in self.layers
        ]
        return {"same": self.same, "total": self.total.as_json(), "layers": layers, "others": dict(self.others)}


def compare(a: FastWeights, b: FastWeights) -> StateDiff:
    """What changed from ``a`` to ``b``, two states of one model with a batch of one row; any precision and device.

    A missing tensor counts as zeros, so that ``FastWeights()`` is the empty memory. Keys and values of different
    numbers of tokens are laid side by side from the newest one.

    Raises:
        InputError: shapes differ: the states are of two models. A batch of several rows. NaN or Inf.
    """
    a, b = a.detach().to("cpu"), b.detach().to("cpu")
    for state, which in ((a, "first"), (b, "second")):
        _check_finite(state, which)
    shared = sorted({*a} & {*b})
    a, b = _side_by_side(a, b, shared), _side_by_side(b, a, shared)
    for name in shared:
        if a[name].shape != b[name].shape:
            raise InputError(
                f"{_where(name)} is {tuple(a[name].shape)} in the first state and {tuple(b[name].shape)} in the "
                "second; compare two states of one model"
            )
    layers, heads_a, heads_b = [], [], []
    for (layer, part), name in _recurrent({*a, *b}):
        here = a.get(name, b.get(name))
        assert here is not None
        if not here.numel():
            continue
        before, after = (_heads(state.get(name, torch.zeros_like(here)), name) for state in (a, b))
        heads = tuple(_change([x], [y]) for x, y in zip(before, after, strict=True))
        layers.append(LayerDiff(layer=layer, part=part, heads=heads, total=_change(before, after, heads)))
        heads_a += before
        heads_b += after
    others = _rest(a).diff(_rest(b))
    total = _change(heads_a, heads_b, [head for layer in layers for head in layer.heads])
    return StateDiff(layers=tuple(layers), total=total, others=others)


def _change(a: Sequence[Tensor], b: Sequence[Tensor], heads: Sequence[Change] | None = None) -> Change:
    """Of some heads, matrices ``[K, V]``, together; ``heads``: what became of each, where that is known already."""
    apart = [y - x for x, y in zip(a, b, strict=True)]
    norm_a, norm_b, norm_change = _norm(a), _norm(b), _norm(apart)
    if norm_a and norm_b:
        dot = math.fsum(float(((x / norm_a) * (y / norm_b)).sum()) for x, y in zip(a, b, strict=True))
        cosine = min(1.0, max(-1.0, dot))
    else:
        cosine = 0.0 if norm_a or norm_b else 1.0
    ranks = [float(effective_rank(each)) for each in apart] if heads is None else [head.rank for head in heads]
    return Change(
        norm_a=norm_a,
        norm_b=norm_b,
        norm_change=norm_change,
        relative=norm_change / norm_b if norm_b else math.inf if norm_change else 0.0,
        cosine=cosine,
        rank=math.fsum(ranks) / len(ranks) if ranks else 0.0,
    )


def _norm(matrices: Sequence[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(matrix)) for matrix in matrices))


def _recurrent(names: set[str]) -> Iterator[tuple[tuple[int, int], str]]:
    """Layer and part of every recurrent state, in the order of the model."""
    numbered = []
    for name in names:
        if _is_recurrent(name):
            _, layer, *part, _ = name.split(".")
            numbered.append(((int(layer), int(part[0]) if part else 0), name))
    yield from sorted(numbered)


def _is_recurrent(name: str) -> bool:
    return name.endswith(".recurrent")


def _heads(state: Tensor, name: str) -> list[Tensor]:
    """The matrices ``[K, V]`` of a recurrent state ``[1, H, K, V]``, or the one of ``[1, D, N]`` or ``[1, D]``.

    Raises:
        InputError: another shape.
    """
    if state.ndim not in (2, 3, 4) or state.shape[0] != 1:
        raise InputError(
            f"{_where(name)} is {tuple(state.shape)}; states are compared one row of a batch at a time, [1, H, K, V]: "
            "take one with state.rows(torch.tensor([0]))"
        )
    exact = state.double()
    return list(exact[0]) if state.ndim == 4 else [exact[0] if state.ndim == 3 else exact]


def _side_by_side(state: FastWeights, other: FastWeights, shared: Sequence[str]) -> FastWeights:
    """``state`` with keys and values ``[B, H, T, hd]`` as long as those of ``other``, zeros before the oldest: a stock
    model's first windows may be shorter than what attention sees."""
    longer = {}
    for name in shared:
        if name.endswith((".keys", ".values")) and state[name].ndim == other[name].ndim == 4:
            missing = other[name].shape[2] - state[name].shape[2]
            longer[name] = F.pad(state[name], (0, 0, max(0, missing), 0))
    return state.merged(longer)


def _rest(state: FastWeights) -> FastWeights:
    """All that is not recurrent; numbers in fp64, since a difference of two bf16 numbers is often none."""
    rest = {name: t for name, t in state.items() if not _is_recurrent(name)}
    return FastWeights({name: t if t.dtype == torch.bool else t.double() for name, t in rest.items()})


def _check_finite(state: FastWeights, which: str) -> None:
    for name, tensor in state.items():
        if not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{_where(name)} of the {which} state holds NaN or Inf; restore another snapshot")


def _where(name: str) -> str:
    """``layers.3.recurrent`` in words."""
    _, _, rest = name.partition("layers.")
    return f"layer {rest.partition('.')[0]} ({name})" if rest else name
