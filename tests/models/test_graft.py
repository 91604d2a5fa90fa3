"""Attention-only models of several families, given fast-weight layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.backends.settings import SleepSettings
from agentsleep.errors import SettingsError, UnsupportedModel
from agentsleep.models.graft import GraftConfig, GraftForCausalLM, graft, share
from agentsleep.models.graft.making import spread
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights

SIZES = {
    "vocab_size": 31,
    "hidden_size": 16,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": None,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}


def llama(**changes: object) -> PreTrainedModel:
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**(SIZES | changes)))


FAMILIES: dict[str, Callable[[], PreTrainedModel]] = {
    "llama": lambda: llama(tie_word_embeddings=True),
    "qwen3_moe": lambda: transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**SIZES, **EXPERTS, head_dim=8)),
    "mistral, sliding": lambda: transformers.MistralForCausalLM(transformers.MistralConfig(**SIZES, sliding_window=8)),
    "gemma3, mixed": lambda: transformers.Gemma3ForCausalLM(
        transformers.Gemma3TextConfig(
            **SIZES, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"] * 2
        )
    ),
    "gpt_neox": lambda: transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(**{k: v for k, v in SIZES.items() if k != "num_key_value_heads"})
    ),
}
SMALL = {"heads": 2, "key_dim": 4, "value_dim": 6, "largest_share": 1.0}
SLEEP = {"window": 16, "passes": 2, "feedback": "norm+embed"}


def made(family: str) -> PreTrainedModel:
    torch.manual_seed(0)
    return FAMILIES[family]().eval()


def grafted(family: str = "llama") -> GraftForCausalLM:
    """A graft whose inserted layers say something."""
    model = graft(made(family), sleep=SLEEP, **SMALL)
    with torch.no_grad():
        for name, parameter in model.new_parameters():
            if "out_proj" in name:
                parameter.normal_(std=0.3)
    return model


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(1, 31, (rows, length), generator=torch.Generator().manual_seed(length))


def apart(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_fresh_one_computes_what_its_base_computed(family: str) -> None:
    base = made(family)
    ids = tokens(2, 12)
    with torch.no_grad():
        before = base(ids).logits
        assert torch.equal(graft(base, **SMALL)(ids).logits, before)
        assert apart(grafted(family)(ids).logits, before) > 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_reading_in_parts_is_reading_at_once(family: str) -> None:
    model, ids = grafted(family), tokens(2, 13)
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
        for sizes in ([7, 6], [1, 12], [12, 1]):
            cache, logits = None, []
            for part in ids.split(sizes, 1):
                out = model(part, past_key_values=cache)
                cache = out.past_key_values
                logits.append(out.logits)
            assert apart(torch.cat(logits, 1), wanted) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_generate_is_greedy_reading(family: str) -> None:
    model, ids = grafted(family), tokens(1, 5)
    with torch.no_grad():
        seen = ids
        for _ in range(4):
            seen = torch.cat([seen, model(seen).logits[:, -1:].argmax(-1)], 1)
        assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), seen)


def test_padding_on_the_left_is_passed_over() -> None:
    model, ids = grafted(), tokens(2, 9)
    mask = torch.cat([torch.zeros(2, 3), torch.ones(2, 9)], 1).long()
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = model(torch.cat([ids[:, :3], ids], 1), attention_mask=mask, position_ids=positions).logits
        assert apart(padded[:, 3:], model(ids).logits) < 1e-4


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_directory_holds_all_of_it(family: str, tmp_path: Path) -> None:
    model, ids = grafted(family), tokens(2, 10)
    model.save_pretrained(tmp_path)
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, GraftForCausalLM)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert loaded.config.graft_after == [1, 3]
    assert (loaded.config.sleep_window, loaded.config.sleep_passes) == (16, 2)
    assert SleepSettings.of(loaded.config) == SleepSettings(**SLEEP)
    with torch.no_grad():
        assert apart(loaded.eval()(ids).logits, model(ids).logits) == 0


def test_other_weights_of_the_inserted_layers_are_other_logits(tmp_path: Path) -> None:
    """So that the test above cannot pass by leaving them out."""
    model, ids = grafted(), tokens(2, 10)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        dict(loaded.new_parameters())["base.model.layers.3.graft.mixer.A_log"].add_(3)
        assert apart(loaded(ids).logits, model(ids).logits) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_it_sleeps_and_a_gradient_flows_through_the_state(family: str) -> None:
    model = grafted(family)
    backbone = HybridBackbone(model, SleepSettings.of(model.config))
    ids, question = tokens(2, 10), tokens(2, 4)
    once, twice = (sleep(backbone, ids, FastWeights(), passes=n) for n in (1, 2))
    assert sorted(twice.state.only("recurrent")) == ["layers.1.recurrent", "layers.3.recurrent"]
    assert twice.state["layers.1.recurrent"].shape == (2, 2, 4, 6)
    assert apart(once.state["layers.3.recurrent"], twice.state["layers.3.recurrent"]) > 1e-3
    with torch.no_grad():
        assert apart(backbone.readout(twice.hidden), model(ids).logits) < 1e-4
    asked = backbone.readout(sleep(backbone, question, twice.state, passes=1).hidden)
    empty = backbone.readout(sleep(backbone, question, FastWeights(), passes=1).hidden)
    assert apart(asked, empty) > 1e-3
    weight = dict(model.new_parameters())[next(n for n, _ in model.new_parameters() if n.endswith("in_proj.weight"))]
    through, blocked = (
        torch.autograd.grad(backbone.readout(sleep(backbone, question, state, passes=1).hidden).sum(), weight)[0]
        for state in (twice.state, twice.state.detach())
    )
    assert apart(through, blocked) > 1e-4


def test_doors_on_the_base_model_do_not_hide_the_inserted_layers() -> None:
    """A base model that was wrapped before it was grafted has marks on its blocks."""
    base, ids = made("llama"), tokens(1, 6)
    HybridBackbone(base, SleepSettings(window=16))
    model = graft(base, **SMALL)
    with torch.no_grad():
        for _, parameter in model.new_parameters():
            parameter.normal_(std=0.3)
        backbone = HybridBackbone(model, SleepSettings(window=16))
        assert apart(backbone.readout(sleep(backbone, ids, FastWeights(), passes=1).hidden), model(ids).logits) < 1e-4
        assert torch.equal(backbone.embed(ids), model.get_input_embeddings()(ids))


def test_as_many_layers_as_stay_below_a_tenth() -> None:
    model = graft(llama(num_hidden_layers=6), heads=1, key_dim=4, value_dim=4)
    assert 0 < share(model) < 0.1
    assert model.config.graft_after == [1, 3, 5]
    larger = graft(llama(num_hidden_layers=6), heads=2, key_dim=8, value_dim=8)
    assert 0 < share(larger) < 0.1
    assert larger.config.graft_after == [5]
    assert spread(28, 6) == [4, 8, 13, 18, 22, 27]


def test_more_than_a_tenth_is_refused_unless_told_otherwise() -> None:
    sizes = {"heads": 2, "key_dim": 8, "value_dim": 8}
    with pytest.raises(SettingsError, match=r"4 layers of 2 heads, 8 by 8, are .* of the model's .*largest_share"):
        graft(llama(), after=[0, 1, 2, 3], **sizes)
    with pytest.raises(SettingsError, match="1 layers of 4 heads"):
        graft(llama())
    assert share(graft(llama(), after=[0, 1, 2, 3], largest_share=1.0, **sizes)) > 0.1


@pytest.mark.parametrize("after", [[4], [-1], [0, 9]])
def test_blocks_that_there_are_not(after: list[int]) -> None:
    with pytest.raises(SettingsError, match=r"graft_after names the blocks .* 0 to 3"):
        graft(llama(), after=after, heads=1, key_dim=2, value_dim=2, largest_share=9.0)


@pytest.mark.parametrize("size", ["linear_num_heads", "linear_key_head_dim", "linear_value_head_dim"])
def test_sizes_below_one(size: str) -> None:
    with pytest.raises(SettingsError, match="each must be at least 1"):
        GraftConfig(**{size: 0})


def test_a_model_with_fast_weights_is_to_be_trained_directly() -> None:
    hybrid = transformers.Qwen3_5ForCausalLM(
        transformers.Qwen3_5TextConfig(
            **SIZES, head_dim=8, linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=4,
            linear_value_head_dim=4,
        )
    )  # fmt: skip
    with pytest.raises(UnsupportedModel, match="qwen3_5_text has fast weights already; fine-tune it directly"):
        graft(hybrid, **SMALL)


def test_other_architectures_are_refused() -> None:
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=31, n_embd=16, n_layer=2, n_head=2))
    with pytest.raises(UnsupportedModel, match="GPT2Model has no list of blocks called 'layers'"):
        graft(gpt2, **SMALL)
    chunked = llama()
    chunked.config.layer_types = ["chunked_attention"] * 4
    with pytest.raises(UnsupportedModel, match="blocks of type chunked_attention"):
        graft(chunked, **SMALL)
