from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentsleep.errors import CheckpointDamaged
from agentsleep.state import FastWeights


def some() -> FastWeights:
    generator = torch.Generator().manual_seed(0)
    return FastWeights(
        {
            "layers.1.recurrent": torch.randn(3, 2, 4, 5, generator=generator),
            "layers.1.conv": torch.randn(3, 6, 3, generator=generator).bfloat16(),
            "layers.11.recurrent": torch.randn(3, 2, 4, 5, generator=generator),
        }
    )


def same(a: FastWeights, b: FastWeights) -> bool:
    return list(a) == list(b) and all(torch.equal(a[n], b[n]) and a[n].dtype == b[n].dtype for n in a)


def test_names_and_missing_ones() -> None:
    state = some()
    assert list(state) == ["layers.1.conv", "layers.1.recurrent", "layers.11.recurrent"]
    assert len(state) == 3
    assert state.of(1, "conv") is state["layers.1.conv"]
    assert state.of(11, "recurrent") is state[FastWeights.name(11, "recurrent")]
    assert state.of(11, "conv") is None
    assert state.of(0, "recurrent") is None
    assert "3 tensors" in repr(state)
    with pytest.raises(KeyError):
        state["layers.0.recurrent"]
    assert len(FastWeights()) == 0


def test_it_cannot_be_written_to() -> None:
    given = dict(some())
    state = FastWeights(given)
    given.clear()
    assert len(state) == 3
    with pytest.raises(TypeError):
        state["layers.1.conv"] = torch.zeros(1)  # type: ignore[index]
    with pytest.raises(TypeError):
        del state["layers.1.conv"]  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        state.norm_of_last_time = 1.0  # type: ignore[attr-defined]


def test_no_method_changes_it() -> None:
    state, untouched = some(), some()
    state.merged({"layers.1.conv": torch.zeros(3, 6, 3)})
    state.merged(state.only("conv"))
    state.only("recurrent")
    state.rows(torch.tensor([0]))
    state.to("cpu")
    state.detach()
    state.clone()["layers.1.recurrent"].zero_()
    state.norm()
    state.is_finite()
    state.diff(FastWeights())
    state.save({"a": "b"})
    assert same(state, untouched)


def test_only_and_merged() -> None:
    state = some()
    assert list(state.only("conv")) == ["layers.1.conv"]
    assert list(state.only("recurrent")) == ["layers.1.recurrent", "layers.11.recurrent"]
    assert same(state.only("conv").merged(state.only("recurrent")), state)
    other = torch.ones(3, 6, 3)
    merged = state.merged({"layers.1.conv": other, "layers.0.conv": other})
    assert merged["layers.1.conv"] is other
    assert merged["layers.11.recurrent"] is state["layers.11.recurrent"]
    assert list(merged) == sorted(merged)


def test_what_an_attention_layer_leaves() -> None:
    kept = {
        "layers.0.keys": torch.randn(2, 1, 3, 4),
        "layers.0.values": torch.randn(2, 1, 3, 4),
        "layers.0.seen": torch.tensor([[False, True, True], [True, True, True]]),
    }
    state = FastWeights({**kept, "layers.1.recurrent": torch.ones(2, 1, 2, 2), "layers.1.conv": torch.ones(2, 4, 3)})
    assert same(state.only("keys", "values", "seen"), FastWeights(kept))
    assert list(state.only("recurrent", "seen")) == ["layers.0.seen", "layers.1.recurrent"]
    assert len(state.only()) == 0
    assert same(state.only("keys", "values", "seen", "recurrent", "conv"), state)
    assert state.of(0, "seen") is kept["layers.0.seen"]
    assert state.norm() == pytest.approx(8**0.5)  # keys are no fast weights
    assert state.is_finite()
    assert state.diff(state) == dict.fromkeys(state, 0.0)
    other = state.merged({"layers.0.seen": torch.ones(2, 3, dtype=torch.bool)})
    assert state.diff(other) == other.diff(state) == dict.fromkeys(state, 0.0) | {"layers.0.seen": 1.0}
    assert state.diff(state.only("recurrent"))["layers.0.seen"] == 1.0
    assert same(FastWeights.load(state.save()), state)
    assert state.rows(torch.tensor([0]))["layers.0.seen"].tolist() == [[False, True, True]]


def test_rows() -> None:
    state = some()
    picked = state.rows(torch.tensor([2, 0, 2]))
    for name in state:
        assert torch.equal(picked[name], torch.stack([state[name][i] for i in (2, 0, 2)]))
    assert state.rows(torch.tensor([1]))["layers.1.conv"].shape[0] == 1


def test_clone_and_detach_leave_the_graph() -> None:
    leaf = torch.ones(1, 1, 1, 1, requires_grad=True)
    state = FastWeights({"layers.0.recurrent": leaf * 2})
    assert state["layers.0.recurrent"].requires_grad
    assert not state.detach()["layers.0.recurrent"].requires_grad
    clone = state.clone()["layers.0.recurrent"]
    assert not clone.requires_grad
    assert clone.data_ptr() != state["layers.0.recurrent"].data_ptr()


def test_norm_counts_the_recurrent_states_alone() -> None:
    state = FastWeights(
        {
            "layers.0.recurrent": torch.full((1, 1, 2, 2), 2.0),
            "layers.2.recurrent": torch.full((1, 1, 1, 1), 3.0),
            "layers.0.conv": torch.full((1, 2, 3), 100.0),
        }
    )
    assert state.norm() == pytest.approx(5.0)
    assert FastWeights().norm() == 0.0
    assert state.nbytes == 4 * (4 + 1 + 6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["layers.1.recurrent", "layers.1.conv"])
def test_is_finite(bad: float, name: str) -> None:
    state = some()
    assert state.is_finite()
    assert FastWeights().is_finite()
    poisoned = state[name].clone()
    poisoned.view(-1)[3] = bad
    assert not state.merged({name: poisoned}).is_finite()


def test_diff_counts_what_is_missing_as_zeros() -> None:
    a = FastWeights({"layers.0.recurrent": torch.tensor([[[[1.0, -4.0]]]]), "layers.0.conv": torch.tensor([[[2.0]]])})
    b = FastWeights({"layers.0.recurrent": torch.tensor([[[[1.5, -4.0]]]]), "layers.3.conv": torch.tensor([[[-7.0]]])})
    assert a.diff(b) == {"layers.0.conv": 2.0, "layers.0.recurrent": 0.5, "layers.3.conv": 7.0}
    assert a.diff(b) == b.diff(a)
    assert a.diff(a) == {"layers.0.conv": 0.0, "layers.0.recurrent": 0.0}
    assert FastWeights().diff(FastWeights()) == {}


def test_save_and_load() -> None:
    state = some()
    back = FastWeights.load(state.save({"model": "é"}))
    assert same(back, state)
    assert same(FastWeights.load(FastWeights().save()), FastWeights())


def test_equal_states_give_equal_bytes() -> None:
    state = some()
    reversed_order = FastWeights(dict(reversed(list(state.items()))))
    strided = FastWeights({name: t.transpose(0, 1).contiguous().transpose(0, 1) for name, t in state.items()})
    assert not strided["layers.1.recurrent"].is_contiguous()
    in_graph = FastWeights({name: t.clone().requires_grad_() for name, t in state.items()})
    saved = state.save({"a": "1", "b": "2"})
    for other in (state.clone(), reversed_order, strided, in_graph, FastWeights.load(saved)):
        assert other.save({"b": "2", "a": "1"}) == saved
    assert state.save({"a": "1", "b": "3"}) != saved
    changed = state["layers.1.recurrent"].clone()
    changed[0, 0, 0, 0] += 1e-6
    assert state.merged({"layers.1.recurrent": changed}).save({"a": "1", "b": "2"}) != saved


def test_loaded_tensors_can_be_used() -> None:
    """Bytes are read-only; what is made of them must not be."""
    back = FastWeights.load(bytes(some().save()))
    assert torch.isfinite(back["layers.1.recurrent"].add_(1)).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:7],
        lambda data: data[: len(data) // 2],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\xff" * 8 + data[8:],
        lambda data: data[:8] + b"[" + data[9:],
        lambda data: data.replace(b'"F32"', b'"Q32"'),
        lambda data: data.replace(b"[3,2,4,5]", b"[3,2,4,6]"),
        lambda data: b"no tensors at all, but a sentence",
    ],
)
def test_damaged_bytes(damage: object) -> None:
    data = damage(some().save())  # type: ignore[operator]
    with pytest.raises(CheckpointDamaged, match=f"{len(data)} bytes are no saved fast weights.*another snapshot"):
        FastWeights.load(data)


SAVED = some().save({"model": "a1"})
HEADER = 8 + struct.unpack("<Q", SAVED[:8])[0]


@given(st.integers(0, HEADER - 1), st.integers(1, 255))
def test_a_flipped_byte_in_the_header_is_named_or_harmless(place: int, flip: int) -> None:
    data = bytearray(SAVED)
    data[place] ^= flip
    try:
        state = FastWeights.load(bytes(data))
    except CheckpointDamaged:
        return
    assert sum(t.numel() for t in state.values()) > 0
