"""How full the fast weights are, and where a sleep has written into them.

A fast weight matrix S ``[K, V]`` holds at most min(K, V) independent associations. How many of its directions are in
use is its *effective rank*: the exponential of the entropy of its spectrum (Roy & Vetterli, "The effective rank: a
measure of effective dimensionality", EUSIPCO 2007). They normalise the singular values themselves; here it is their
squares, the shares of energy, so that weak directions count for less. Divided by min(K, V) it lies in (0, 1].

Everything is computed in fp64, outside of the autograd graph. Batches are averaged over their rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from agentsleep.errors import InputError
from agentsleep.state import FastWeights


@dataclass(frozen=True, kw_only=True)
class LayerGauge:
    """One layer's S.

    rank: mean of ``heads``.  norm: Frobenius norm over all heads.
    heads: each head's effective rank as a share of min(K, V), 0 for a matrix of zeros and 1 for an even spectrum.
    """

    rank: float
    norm: float
    heads: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Saturation:
    """How full a state is.

    overall: mean over the heads of all layers, 0 to 1; 0 for the empty memory.  layers: by the layer's index.
    """

    overall: float
    layers: Mapping[int, LayerGauge] = field(hash=False)


def effective_rank(matrices: Tensor) -> Tensor:
    """Effective rank of each matrix ``[..., K, V]`` as a share of min(K, V): ``[...]`` in fp64, from 0 to 1.

    Raises:
        InputError: NaN or Inf.
    """
    if not bool(torch.isfinite(matrices).all()):
        raise InputError("fast weights with NaN or Inf have no effective rank; restore another snapshot")
    # Divided by the largest entry first, so that no square leaves the range of fp64.
    exact = matrices.detach().double()
    largest = exact.abs().amax((-2, -1), keepdim=True)
    energy = torch.linalg.svdvals(exact / largest.where(largest > 0, 1.0)).square()  # [..., min(K, V)]
    total = energy.sum(-1)
    share = energy / total.where(total > 0, 1.0)[..., None]
    rank: Tensor = torch.special.entr(share).sum(-1).exp() / energy.shape[-1]
    return rank.clamp(max=1.0).where(total > 0, 0.0)


def saturation(state: FastWeights) -> Saturation:
    """The gauge of every recurrent state ``[B, H, K, V]``; rows of the batch are averaged.

    Raises:
        InputError: NaN or Inf.
    """
    layers = {}
    for layer, tensor in _recurrent(state).items():
        heads = tuple(effective_rank(tensor).mean(0).tolist())
        norm = float(_norms(tensor).mean())
        layers[layer] = LayerGauge(rank=math.fsum(heads) / len(heads), norm=norm, heads=heads)
    ranks = [rank for gauge in layers.values() for rank in gauge.heads]
    return Saturation(overall=math.fsum(ranks) / len(ranks) if ranks else 0.0, layers=layers)


def written(before: FastWeights, after: FastWeights) -> dict[int, float]:
    """How much of each layer's S is new: ||S_after - S_before|| / ||S_after||, by the layer's index.

    A missing tensor counts as zeros, so that the first sleep of a memory writes 1.0. Where nothing is left of what
    there was, the change is infinite; where there was nothing either, 0. Rows of the batch are averaged.

    Raises:
        InputError: a layer's shapes differ.
    """
    old, new = _recurrent(before), _recurrent(after)
    changes = {}
    for layer in sorted({*old, *new}):
        a, b = old.get(layer), new.get(layer)
        if a is not None and b is not None and a.shape != b.shape:
            raise InputError(
                f"layer {layer} is {tuple(a.shape)} before and {tuple(b.shape)} after; compare states of one model and "
                "one batch"
            )
        present = b if b is not None else a
        assert present is not None
        nothing = torch.zeros_like(present)
        apart = _norms((nothing if b is None else b) - (nothing if a is None else a))
        whole = _norms(nothing if b is None else b)
        changes[layer] = float((apart / whole).where(apart > 0, 0.0).mean())  # 0 / 0 is no change
    return changes


def _recurrent(state: FastWeights) -> dict[int, Tensor]:
    """S by layer ``[B, H, K, V]`` in fp64, where it has any rows, in the order of the layers. The state of a Mamba-1
    layer ``[B, D, N]`` has no heads, and counts as one."""
    by_layer = {int(name.split(".")[1]): t.detach().double() for name, t in state.only("recurrent").items()}
    several = {layer: t if t.ndim == 4 else t[:, None] for layer, t in by_layer.items()}
    return {layer: several[layer] for layer in sorted(several) if several[layer].numel()}


def _norms(tensor: Tensor) -> Tensor:
    """Frobenius norm of each row of the batch, ``[B]``."""
    norms: Tensor = torch.linalg.vector_norm(tensor, dim=(1, 2, 3))
    return norms
