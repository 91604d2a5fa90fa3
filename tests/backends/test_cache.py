"""The caches of transformers: opened from a state, read on, and left with one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from agentsleep.backends.cache import POSITION, has_attention, keys_held, open_cache, state_of
from agentsleep.backends.hybrid import reading
from agentsleep.backends.repairs import repair
from agentsleep.conformance import make_model
from agentsleep.errors import UnsupportedModel
from agentsleep.state import FastWeights

A, B, KEPT = 11, 7, 4
IDS = torch.randint(0, 512, (2, A + B), generator=torch.Generator().manual_seed(5))
FAMILIES = ["qwen3_5", "kimi_linear", "falcon_h1", "bamba", "zamba2", "jamba"]


def made(family: str) -> PreTrainedModel:
    model = make_model(family)
    repair(model)
    return model


def read(model: PreTrainedModel, ids: Tensor, cache: DynamicCache, position: int) -> Tensor:
    with torch.no_grad():
        arguments = reading(cache, ids.shape[0], ids.shape[1], position, ids.device)
        logits: Tensor = model(ids, use_cache=True, **arguments).logits
    return logits


def hiding(model: PreTrainedModel, first_seen: int) -> Tensor:
    """Logits of B in one forward over all, where B sees no key before ``first_seen``."""
    row = torch.arange(A + B)
    seen = row[:, None] >= row
    seen[A:, :first_seen] = False
    mask = torch.zeros(A + B, A + B).masked_fill(~seen, torch.finfo(torch.float32).min)[None, None]
    with torch.no_grad():
        logits: Tensor = model(
            IDS, use_cache=False, attention_mask={"full_attention": mask, "linear_attention": None}
        ).logits
    return logits[:, A:]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("keep", [0, KEPT, A])
def test_what_is_kept_is_seen_and_nothing_else(family: str, keep: int) -> None:
    model = made(family)
    cache = open_cache(model.config, FastWeights())
    read(model, IDS[:, :A], cache, 0)
    assert keys_held(cache) == A
    state = state_of(cache, keep)
    if keep:
        state = state.merged({POSITION: torch.tensor(A)})
    reopened = open_cache(model.config, FastWeights.load(state.save()))
    assert keys_held(reopened) == keep
    logits = read(model, IDS[:, A:], reopened, A if keep else 0)
    assert torch.allclose(logits, hiding(model, A - keep), atol=1e-3)
    assert not torch.allclose(logits, hiding(model, A - keep + 1 if keep else A - KEPT), atol=1e-2)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [1, 3])
def test_neither_side_is_written_to_by_the_other(family: str, length: int) -> None:
    model = made(family)
    cache = open_cache(model.config, FastWeights())
    read(model, IDS[:, :A], cache, 0)
    state = state_of(cache, KEPT)
    before = state.clone()
    read(model, IDS[:, A : A + length], cache, A)
    read(model, IDS[:, A : A + length], open_cache(model.config, state), A)
    assert max(state.diff(before).values()) == 0.0
    assert max(state_of(cache).diff(before.only("recurrent", "conv")).values()) > 0.0
    tails = [tensor for name, tensor in state.items() if name.endswith("keys")]
    assert all(
        tensor.untyped_storage().nbytes() == tensor.nbytes for tensor in tails
    )  # not a view of the window's keys


def test_a_state_of_more_layers() -> None:
    model = make_model("qwen3_5")
    with pytest.raises(UnsupportedModel, match=r"a state with 'layers.9.recurrent' does not fit a model of 4 layers"):
        open_cache(model.config, FastWeights({"layers.9.recurrent": torch.zeros(1, 4, 8, 8)}))


def test_attention_that_slides_has_no_tail_to_keep() -> None:
    model = make_model("llama")
    model.config.layer_types, model.config.sliding_window = ["sliding_attention"] * 4, 8
    cache = DynamicCache(config=model.config)
    for i in range(4):
        cache.update(torch.zeros(1, 2, 3, 8), torch.zeros(1, 2, 3, 8), i)
    assert len(state_of(cache)) == 0
    with pytest.raises(UnsupportedModel, match=r"block 0 has sliding-window attention of its own; use eviction 'hard'"):
        state_of(cache, 2)


def test_a_cache_without_attention() -> None:
    model = made("mamba2")
    cache = open_cache(model.config, FastWeights())
    assert not has_attention(cache)
    assert keys_held(cache) is None
    assert "attention_mask" not in reading(cache, 1, 3, 5, torch.device("cpu"))
    assert has_attention(open_cache(made("qwen3_5").config, FastWeights()))


def test_a_mask_is_said_only_where_the_cache_holds_other_keys_than_the_position_says() -> None:
    cache = open_cache(made("qwen3_5").config, FastWeights({"layers.1.keys": torch.zeros(2, 2, KEPT, 8)}))
    assert "attention_mask" not in reading(cache, 2, B, KEPT, torch.device("cpu"))
    said = reading(cache, 2, B, A, torch.device("cpu"))
    assert said["attention_mask"].shape == (2, KEPT + B)
    assert said["position_ids"].tolist() == [list(range(A, A + B))] * 2
