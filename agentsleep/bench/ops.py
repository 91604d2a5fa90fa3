"""Tokens per second of the two chunked rules, against the torch paths of transformers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import Tensor

from agentsleep.errors import SettingsError
from agentsleep.ops import gated_delta_chunked, gated_hebbian_chunked

BATCH = 1
HEADS = 4
DIM = 64  # of keys and of values
REFERENCE_CHUNK = 64  # transformers' default for the delta rule; faster for its Mamba-2 scan than its default of 256

Form = Callable[..., Tensor]  # a rule's inputs to its outputs [B, T, H, V]


def bench_ops(
    *,
    lengths: Sequence[int] = (1024,),
    repeats: int = 31,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure both rules, forward and forward with backward, at B = 1, H = 4, K = V = 64, fp32.

    Ours and the reference take turns, so that a busy machine slows both.

    Args:
        lengths: the T to measure.
        repeats: timed runs of each form; the medians count.
        threads: torch threads while measuring; the number from before is set again at the end.
        progress: called with one line per row.

    Returns:
        ``{"rows": [{"mode": "fwd" | "fwd+bwd", "rule": "delta" | "hebbian", "B", "T", "tokens_per_s", "ratio"}, ...],
        "torch", "threads", "reference"}``; ratio is our tokens/s over the reference's.

    Raises:
        SettingsError: a length, ``repeats`` or ``threads`` is below 1, or there is no length.
    """
    _check(lengths, repeats, threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        rows = []
        for length in lengths:
            for rule, (ours, reference, make) in _rules().items():
                inputs = make(length)
                for mode, run in (("fwd", _forward), ("fwd+bwd", _forward_backward)):
                    mine, theirs = _interleaved(partial(run, ours, inputs), partial(run, reference, inputs), repeats)
                    rows.append(
                        {
                            "mode": mode,
                            "rule": rule,
                            "B": BATCH,
                            "T": length,
                            "tokens_per_s": round(BATCH * length / mine, 1),
                            "ratio": round(theirs / mine, 3),
                        }
                    )
                    if progress is not None:
                        progress(
                            f"{rule} {mode} T={length}: {BATCH * length / mine:,.0f} tokens/s, x{theirs / mine:.2f}"
                        )
    finally:
        torch.set_num_threads(before)
    return {"rows": rows, "torch": torch.__version__, "threads": threads, "reference": _reference()}


def _check(lengths: Sequence[int], repeats: int, threads: int) -> None:
    if not lengths:
        raise SettingsError("no length to measure; give at least one, such as 1024")
    for name, value in (*(("length", length) for length in lengths), ("repeats", repeats), ("threads", threads)):
        if value < 1:
            raise SettingsError(f"{name} is {value}; give at least 1")


def _reference() -> str:
    import transformers

    return (
        f"transformers {transformers.__version__}, torch paths in chunks of {REFERENCE_CHUNK}: "
        "torch_chunk_gated_delta_rule of qwen3_5 (delta), mamba2_chunk_scan of mamba2 (hebbian)"
    )


def _rules() -> dict[str, tuple[Form, Form, Callable[[int], list[Tensor]]]]:
    """For each rule our form, the reference of the same inputs, and what makes these for a length."""
    from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
    from transformers.models.qwen3_5.modeling_qwen3_5 import torch_chunk_gated_delta_rule

    # beneath the decorator, which may put a compiled kernel in the torch path's place
    delta_rule = getattr(torch_chunk_gated_delta_rule, "__wrapped__", torch_chunk_gated_delta_rule)
    scan = getattr(mamba2_chunk_scan, "__wrapped__", mamba2_chunk_scan)

    def delta(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        return gated_delta_chunked(q * DIM**-0.5, k, v, g, beta)[0]  # the reference scales q itself

    def delta_reference(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor) -> Tensor:
        outputs: Tensor = delta_rule(q, k, v, g, beta, chunk_size=REFERENCE_CHUNK, output_final_state=True)[0]
        return outputs

    def hebbian(q: Tensor, k: Tensor, v: Tensor, a: Tensor, dt: Tensor) -> Tensor:
        return gated_hebbian_chunked(q, k, v, a * dt, dt)[0]  # the reference takes the gate apart

    def hebbian_reference(q: Tensor, k: Tensor, v: Tensor, a: Tensor, dt: Tensor) -> Tensor:
        outputs: Tensor = scan(v, dt, a, k, q, chunk_size=REFERENCE_CHUNK, return_final_states=True)[0]
        return outputs

    return {
        "delta": (delta, delta_reference, _delta_inputs),
        "hebbian": (hebbian, hebbian_reference, _hebbian_inputs),
    }


def _delta_inputs(length: int) -> list[Tensor]:
    q, k, v, beta = _common_inputs(length)
    g = -0.1 * torch.rand(BATCH, length, HEADS)
    return [x.requires_grad_() for x in (q, k, v, g, beta)]


def _hebbian_inputs(length: int) -> list[Tensor]:
    q, k, v, dt = _common_inputs(length)
    return [x.requires_grad_() for x in (q, k, v, -torch.rand(HEADS), dt)]


def _common_inputs(length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(BATCH, length, HEADS, DIM) for _ in range(3))
    q, k = (torch.nn.functional.normalize(x, dim=-1) for x in (q, k))
    return q, k, v, torch.rand(BATCH, length, HEADS)


def _forward(form: Form, inputs: list[Tensor]) -> None:
    with torch.no_grad():
        form(*inputs)


def _forward_backward(form: Form, inputs: list[Tensor]) -> None:
    outputs = form(*inputs)
    torch.autograd.grad(outputs, inputs, torch.ones_like(outputs))


def _interleaved(first: Callable[[], None], second: Callable[[], None], repeats: int) -> tuple[float, float]:
    """Median seconds of each, the two run in turn after one run to warm up."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + 1):
        for run, taken in zip((first, second), seconds, strict=True):
            start = time.perf_counter()
            run()
            if repeat:
                taken.append(time.perf_counter() - start)
    return median(seconds[0]), median(seconds[1])
