"""Every family reads, evicts and sleeps as it should, or is refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from agentsleep.backends import SleepSettings
from agentsleep.backends.capability import examine, refuse_at_sight
from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.backends.repairs import repair
from agentsleep.backends.report import Report, refuse_if_wrong
from agentsleep.conformance import REFUSED, SUPPORTED, make_model, save_model
from agentsleep.errors import InputError, UnsupportedModel


def report_of(model: PreTrainedModel) -> Report:
    refuse_at_sight(model)
    repair(model)
    return examine(model, HybridBackbone(model, SleepSettings(window=64)))


@pytest.mark.parametrize("family", SUPPORTED)
def test_a_family_that_works(family: str) -> None:
    report = report_of(make_model(family))
    found = {verdict.ability: verdict for verdict in report.verdicts}
    effect = found["fast weights"].figure
    assert effect is not None
    assert effect > 0.1
    for ability in ("continuation", "decoding", "round trip", "eviction"):
        figure = found[ability].figure
        if ability == "eviction" and family in ("mamba2", "falcon_mamba"):
            assert found[ability].status == "note"
            assert figure is None
        else:
            assert found[ability].status == "ok", found[ability]
            assert figure is not None
            assert figure < 1e-4 * max(1.0, effect)
    assert found["passes"].status == "ok", found["passes"]
    refuse_if_wrong(report)


@pytest.mark.parametrize(
    ("family", "why"),
    [
        ("llama", "no fast weights: LlamaForCausalLM is a pure attention model"),
        ("lfm2", "no fast weights: Lfm2ForCausalLM keeps convolution states only"),
        ("minimax", "does not read with transformers' DynamicCache"),
        ("recurrent_gemma", "keeps its recurrent state on its modules"),
        ("t5", "is an encoder with a decoder"),
    ],
)
def test_a_family_that_is_refused(family: str, why: str) -> None:
    assert family in REFUSED
    with pytest.raises(UnsupportedModel, match=why):
        report_of(make_model(family))


def test_a_model_is_the_same_in_every_call() -> None:
    one, again, other = make_model("bamba"), make_model("bamba"), make_model("bamba", seed=1)
    ids = torch.arange(9)[None]
    assert torch.equal(one(ids).logits, again(ids).logits)
    assert not torch.equal(one(ids).logits, other(ids).logits)
    assert make_model("bamba", vocab_size=77)(ids).logits.shape[-1] == 77


def test_an_unknown_family() -> None:
    with pytest.raises(InputError, match=r"family 'gpt' is not known; there are \['bailing_hybrid'"):
        make_model("gpt")


def test_a_saved_model_is_loaded_as_it_was(tmp_path: Path) -> None:
    folder = save_model("qwen3_5", tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    assert len(tokenizer) <= loaded.config.vocab_size
    assert loaded.config.eos_token_id == tokenizer.eos_token_id
    ids = torch.tensor([tokenizer.encode("bob hands over to alice .")])
    assert torch.equal(loaded(ids).logits, make_model("qwen3_5")(ids).logits)
