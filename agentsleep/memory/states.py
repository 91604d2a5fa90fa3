"""Between fast weights and what the archive holds of them: tensors there, named bytes here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from agentsleep.archive import TensorBytes
from agentsleep.errors import SnapshotDamaged
from agentsleep.state import FastWeights

# The names of safetensors.
_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}


def to_bytes(state: FastWeights) -> list[TensorBytes]:
    """The tensors of a state; on the CPU their memory is shared, not copied."""
    return [
        TensorBytes(name=name, dtype=_NAMES[tensor.dtype], shape=tuple(tensor.shape), data=_memory(tensor))
        for name, tensor in state.items()
    ]


def _memory(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return memoryview(flat.numpy().data)


def from_bytes(tensors: Sequence[TensorBytes]) -> FastWeights:
    """The inverse of `to_bytes`.

    Raises:
        SnapshotDamaged: a tensor's bytes do not fill its shape, or its dtype is unknown.
    """
    return FastWeights({tensor.name: _tensor(tensor) for tensor in tensors})


def _tensor(stored: TensorBytes) -> Tensor:
    dtype, data = _DTYPES.get(stored.dtype), stored.view()
    if dtype is None or len(data) != math.prod(stored.shape) * dtype.itemsize:
        raise SnapshotDamaged(
            f"tensor {stored.name!r} says it is {stored.dtype} {list(stored.shape)}, but {len(data)} bytes are stored; "
            "restore another snapshot, or let session.recover() compute it again"
        )
    if not len(data):  # a kernel of width 1 has an empty tail
        return torch.empty(stored.shape, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype).reshape(stored.shape)
