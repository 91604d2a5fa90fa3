"""FastWeights: what outlives a window, as an immutable, named set of tensors."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_bytes
from safetensors.torch import save as save_bytes
from torch import Tensor

from agentsleep.errors import CheckpointDamaged

Kind = Literal["recurrent", "conv", "keys", "values", "seen", "position"]


class FastWeights(Mapping[str, Tensor]):
    """The state of a hybrid's recurrent layers, by name.

    ``layers.<i>.recurrent`` is S of layer i, ``[B, H, K, V]`` in fp32; ``layers.<i>.conv`` is the tail of its causal
    convolution, ``[B, D, W - 1]``. A missing name reads as zeros, so ``FastWeights()`` is the empty memory.
    Where eviction is sliding, attention layer i leaves its last L - 1 ``keys`` and ``values`` ``[B, H, L-1, hd]``, not
    rotated yet, and which of them were ``seen``, ``[B, L - 1]`` bool; a stock model leaves keys as its cache holds
    them, and the ``window.position`` of the next token.
    The set is immutable, and no method changes a tensor in place.
    """

    __slots__ = ("_tensors",)

    def __init__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        self._tensors: dict[str, Tensor] = dict(sorted((tensors or {}).items()))

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def __repr__(self) -> str:
        return f"FastWeights({len(self)} tensors, {self.nbytes} bytes)"

    @staticmethod
    def name(layer: int, kind: Kind) -> str:
        """The name under which a layer's tensor is kept."""
        return f"layers.{layer}.{kind}"

    def of(self, layer: int, kind: Kind) -> Tensor | None:
        """A layer's tensor, or None where it is still zero."""
        return self._tensors.get(self.name(layer, kind))

    def only(self, *kinds: Kind) -> FastWeights:
        """The tensors of these kinds; the others read as zeros."""
        return FastWeights({name: t for name, t in self.items() if name.rsplit(".", 1)[1] in kinds})

    def merged(self, other: Mapping[str, Tensor]) -> FastWeights:
        """A new set in which ``other`` takes precedence."""
        return FastWeights({**self._tensors, **other})

    def detach(self) -> FastWeights:
        """The same values outside of the autograd graph."""
        return FastWeights({name: t.detach() for name, t in self.items()})

    def clone(self) -> FastWeights:
        """A copy that shares no memory, outside of the autograd graph."""
        return FastWeights({name: t.detach().clone() for name, t in self.items()})

    def to(self, device: torch.device | str) -> FastWeights:
        """The same values on another device."""
        return FastWeights({name: t.to(device) for name, t in self.items()})

    def rows(self, index: Tensor) -> FastWeights:
        """The batch rows ``index`` ``[B']``, in that order."""
        return FastWeights({name: t.index_select(0, index) for name, t in self.items()})

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(t.nbytes for t in self.values())

    def norm(self) -> float:
        """Frobenius norm of all recurrent states."""
        parts = [t.detach().double().square().sum() for name, t in self.items() if name.endswith(".recurrent")]
        return float(torch.stack(parts).sum().sqrt()) if parts else 0.0

    def is_finite(self) -> bool:
        """Whether no tensor holds NaN or Inf."""
        return all(bool(torch.isfinite(t).all()) for t in self.values())

    def diff(self, other: FastWeights) -> dict[str, float]:
        """Largest absolute difference by name; a missing tensor counts as zeros."""
        largest = {}
        for name in sorted({*self, *other}):
            a, b = self._tensors.get(name), other._tensors.get(name)
            if a is None or b is None:
                apart = a if a is not None else b
                assert apart is not None
            else:
                apart = a ^ b if a.dtype == torch.bool else a - b
            largest[name] = (
                float(apart.to(torch.float64).abs().max()) if apart.numel() else 0.0
            )  # a kernel of width 1 has an empty tail
        return largest

    def save(self, metadata: Mapping[str, str] | None = None) -> bytes:
        """Safetensors bytes; equal states give equal bytes."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.items()}
        return save_bytes(tensors, metadata={"agentsleep": json.dumps(dict(metadata or {}), sort_keys=True)})

    @classmethod
    def load(cls, data: bytes) -> FastWeights:
        """The inverse of :meth:`save`.

        Raises:
            CheckpointDamaged: the bytes are not safetensors.
        """
        try:
            return cls(load_bytes(data))
        except (SafetensorError, ValueError) as error:
            raise CheckpointDamaged(
                f"these {len(data)} bytes are no saved fast weights ({error}); restore another snapshot"
            ) from error
