"""A probe says what is so: on backbones whose memory is made to order, and on real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agentsleep.backends import SleepSettings, load_backend
from agentsleep.backends.hybrid import HybridBackbone
from agentsleep.conformance.families import make_model, save_model
from agentsleep.errors import CheckpointMissing, SettingsError, SleepFailed
from agentsleep.evals.deeper import probe, probe_model
from agentsleep.evals.deeper_plot import draw_probe, plot_probe
from agentsleep.evals.evicted import left_behind, log_probabilities
from agentsleep.evals.made_texts import cut, facts, head_of, story
from agentsleep.evals.verdicts import HARM, HELPS, NO_GAIN, NOTHING
from agentsleep.sleep import sleep
from agentsleep.state import FastWeights
from tests.evals.recaller import recaller
from tests.tiny import tiny

CPU = torch.device("cpu")


def measure(document: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in document["measures"] if row["measure"] == name)


def means(found: dict[str, Any]) -> dict[int | None, float]:
    return {row["passes"]: row["mean"] for row in found["conditions"]}


# The verdict


@pytest.mark.parametrize(
    ("share", "verdict"),
    [
        ({1: 0.3, 2: 0.8, 4: 0.9}, HELPS),
        ({1: 0.5, 2: 0.5, 4: 0.5}, NO_GAIN),
        ({1: 0.9, 2: 0.3, 4: 0.9}, HARM),
        ({1: 0.0, 2: 0.0, 4: 0.0}, NOTHING),
    ],
)
def test_every_verdict_on_a_memory_of_known_depth(share: dict[int, float | None], verdict: str) -> None:
    document = probe(recaller(share), samples=25)
    assert [row["measure"] for row in document["measures"]] == ["recall", "log-odds", "perplexity"]
    assert document["verdict"] == measure(document, document["decisive"])["verdict"] == verdict
    assert measure(document, "perplexity")["verdict"] == verdict
    found = means(measure(document, "recall"))
    chance = measure(document, "recall")["chance"]
    assert found[None] == pytest.approx(chance)
    for n, kept in share.items():
        assert kept is not None
        assert found[n] == pytest.approx(kept + (1 - kept) * chance, abs=0.15)
    json.dumps(document, allow_nan=False)


def test_passes_that_give_nan_do_harm() -> None:
    document = probe(recaller({1: 0.9, 2: None}), passes=(2,), samples=10)
    assert {row["verdict"] for row in document["measures"]} == {HARM}
    assert "2 passes do harm: they give NaN or Inf" in measure(document, "recall")["says"]
    json.dumps(document, allow_nan=False)
    with pytest.raises(SleepFailed, match="ordinary pass"):
        probe(recaller({1: None, 2: 0.9}), passes=(2,), samples=10)


def test_your_own_text_is_what_the_perplexity_is_of() -> None:
    backend = recaller({1: 0.0, 2: 1.0}, window=64)
    told = " The code of the red door is 4821. Anna lives in Oslo. Anna likes bread. Ben works as a baker."
    again = measure(probe(backend, passes=(2,), samples=10, text=told * 80), "perplexity")
    assert (again["verdict"], "your text" in again["what"]) == (HELPS, True)
    rng = np.random.default_rng(0)
    noise = " ".join(str(word) for word in rng.integers(10**6, size=800))
    assert measure(probe(backend, passes=(2,), samples=10, text=noise), "perplexity")["verdict"] == NOTHING


def test_one_pass_is_always_compared_to_and_progress_goes_to_the_end() -> None:
    parts: list[float] = []
    document = probe(recaller({1: 0.5, 3: 0.9}), passes=(3,), samples=10, progress=parts.append)
    assert document["passes"] == [1, 3]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_a_seed_repeats_and_another_draws_other_items() -> None:
    first, again, other = (
        probe(recaller({1: 0.3, 2: 0.6}), passes=(2,), samples=10, seed=seed)["measures"] for seed in (1, 1, 2)
    )
    assert first == again != other


# What it is measured with


def test_states_are_those_of_a_sleep_and_dropping_leaves_all_but_s() -> None:
    model, ids = tiny().requires_grad_(False), torch.arange(12)[None]
    states = left_behind(model, ids, [1, 3])
    assert set(states) == {None, 1, 3}
    for n in (1, 3):
        assert max(states[n].diff(sleep(model, ids, FastWeights(), passes=n).state).values()) == 0
    assert states[None].only("recurrent").norm() == 0
    assert list(states[None]) == list(states[1])
    assert max(states[None].only("conv").diff(states[1].only("conv")).values()) == 0


@pytest.mark.parametrize("loop", [None, (1, 2)])
def test_log_probabilities_are_the_models_own_whatever_stands_in_the_other_rows(loop: tuple[int, int] | None) -> None:
    model = make_model("qwen3_5")
    backbone = HybridBackbone(model, SleepSettings(window=64, loop=loop))
    rows, starts = [[5, 6, 7, 8, 9, 10, 11], [5, 6, 9], [40, 41, 42, 43]], [3, 1, 2]
    with torch.inference_mode():
        found = log_probabilities(backbone, rows, starts, FastWeights(), CPU)
        for one, row, start in zip(found, rows, starts, strict=True):
            logits = model(input_ids=torch.tensor([row])).logits[0].log_softmax(-1)
            expected = torch.stack([logits[t - 1, row[t]] for t in range(start, len(row))])
            torch.testing.assert_close(one, expected, rtol=1e-4, atol=1e-4)
        state = sleep(backbone, torch.tensor([[1, 2, 3, 4]]), FastWeights(), passes=1).state
        together = log_probabilities(backbone, rows, starts, state, CPU)
        for i, one in enumerate(together):
            (alone,) = log_probabilities(backbone, rows[i : i + 1], starts[i : i + 1], state, CPU)
            torch.testing.assert_close(one, alone, rtol=1e-4, atol=1e-4)
            assert not torch.allclose(one, found[i], atol=1e-3)  # the state is heard


def test_facts_are_all_different_and_fit() -> None:
    tokenizer = recaller({}).tokenizer
    told = facts(tokenizer, np.random.default_rng(0), 1000)
    assert len(told) == 8
    assert len({tuple(fact.code) for fact in told}) == len({tuple(fact.beginning) for fact in told}) == 8
    assert tokenizer.decode([*told[0].beginning, *told[0].code]).startswith(" The code of the ")
    few = facts(tokenizer, np.random.default_rng(0), 40)
    assert 1 < len(few) < 8
    assert sum(len(part) for fact in few for part in fact) <= 40
    assert head_of(tokenizer) == []


def test_a_story_tells_its_facts_again() -> None:
    sentences = story(np.random.default_rng(0), 300).split(". ")
    assert len(sentences) > 60
    assert len({sentence.rstrip(".") for sentence in sentences}) == 12


def test_a_text_is_cut_into_pairs_that_share_nothing() -> None:
    pairs = cut(range(1000), 20, 100)
    assert len(pairs) == 25
    flat = [token for pair in pairs for window in pair for token in window]
    assert flat == list(range(1000))
    some = cut(range(1000), 20, 10)
    assert len(some) == 10
    assert some[0] == pairs[0]
    assert some[-1] == pairs[-1]
    assert len(cut(range(200), 20, 100)[0][0]) == 12  # shorter windows, so that there are enough


# Real models


@pytest.mark.slow
def test_a_random_hybrid_has_nothing_to_tell(tmp_path: Path) -> None:
    place = save_model("qwen3_5", tmp_path / "model")
    small = {"window": 96}
    document = probe_model(place, passes=(2,), samples=10, settings=small)  # it sees no UntrainedSleep either
    assert (document["verdict"], document["model"]) == (NOTHING, str(place))
    assert measure(document, "perplexity")["verdict"] == NOTHING
    assert document["feedback"] == "hidden"
    again = probe_model(place, passes=(2,), samples=10, settings=small | {"feedback": "tokens"})
    assert again["feedback"] == "tokens"
    ours, theirs = ([means(row) for row in found["measures"]] for found in (document, again))
    assert [row[1] for row in ours] == [row[1] for row in theirs]
    assert [row[2] for row in ours] != [row[2] for row in theirs]


def test_a_nap_without_a_record_is_read_text(untrained: Path) -> None:
    document = probe_model(untrained, passes=(2,), samples=10)
    assert document["decisive"] == "recall"
    assert probe(load_backend(untrained), passes=(2,), samples=10)["measures"] == document["measures"]


@pytest.mark.slow
def test_the_shipped_model_gains_on_its_own_task() -> None:
    document = probe_model(samples=40, passes=(1, 2, 4))
    assert (document["decisive"], document["verdict"], document["model"]) == ("rota", HELPS, "nap-mini")
    assert measure(document, "rota")["carries"]
    assert measure(document, "recall")["verdict"] == NOTHING  # codes in plain English mean nothing to it


# Bad paths


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"passes": ()}, "no passes to compare"),
        ({"passes": (1,)}, "passes is 1 alone"),
        ({"passes": (0, 2)}, "passes is 0"),
        ({"samples": 9}, "samples is 9"),
        ({"seed": -1}, "seed is -1"),
        ({"text": "too short"}, "too few for 8 pairs of windows; give at least 128"),
        ({"text": ""}, "the text has 0 tokens"),
    ],
)
def test_settings_out_of_range(asked: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        probe(recaller({1: 0.5, 2: 0.5}), **{"samples": 10, "passes": (2,)} | asked)


def test_a_window_too_small_for_two_facts() -> None:
    with pytest.raises(SettingsError, match="the window has 16 tokens, too few for two facts"):
        probe(recaller({1: 0.5, 2: 0.5}, window=16), samples=10)


@pytest.mark.parametrize("settings", [{"feedback": "tokens"}, {"loop": (0, 1)}])
def test_what_a_nap_would_pass_over_in_silence_is_refused(untrained: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="a nap model does not follow"):
        probe_model(untrained, samples=10, settings=settings)


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointMissing):
        probe_model(tmp_path / "none")


# The picture


def test_the_picture_has_a_panel_a_measure(tmp_path: Path) -> None:
    document = {"model": "m", **probe(recaller({1: 0.9, 2: None}), passes=(2,), samples=10)}
    figure = draw_probe(document)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title() for axes in shown] == ["recall", "log-odds", "perplexity"]
    assert [text.get_text() for text in shown[0].texts] == ["NaN"]
    plot_probe(document, tmp_path / "probe.png")
    assert (tmp_path / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["probe.png"]
    with pytest.raises(OSError, match="No such file"):
        plot_probe(document, tmp_path / "none" / "probe.png")
