from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from agentsleep.errors import SleepFailed
from agentsleep.evals.evicted import Scores
from agentsleep.evals.verdicts import HARM, HELPS, NO_GAIN, NOTHING, judged

ITEMS = 200


def rates(dropped: float, **right: float) -> Scores:
    """A share of right answers for each condition, the same items being right first."""
    rng = np.random.default_rng(0)
    luck = rng.random(ITEMS)
    shares: dict[int | None, float] = {None: dropped, **{int(name[1:]): share for name, share in right.items()}}
    values = {n: (luck < share).astype(float) for n, share in shares.items()}
    return Scores(name="recall", what="", unit="share", values=values, groups=np.arange(ITEMS), chance=0.1)


def logs(dropped: float, unit: str = "nats a token", **means: float) -> Scores:
    noise = np.random.default_rng(0).normal(scale=0.01, size=ITEMS)
    shares: dict[int | None, float] = {None: dropped, **{int(name[1:]): mean for name, mean in means.items()}}
    values = {n: mean + noise * (n or 0) for n, mean in shares.items()}
    return Scores(name="perplexity", what="", unit=unit, values=values, groups=np.arange(ITEMS))


def says(found: dict[str, Any]) -> str:
    return " | ".join(found["says"])


def test_a_second_pass_helps() -> None:
    found = judged(rates(0.1, n1=0.4, n2=0.7, n4=0.72))
    assert (found["verdict"], found["carries"]) == (HELPS, True)
    assert "a second pass helps: recall +" in says(found)
    assert "4 passes help: recall +" in says(found)
    second = next(row for row in found["differences"] if (row["passes"], row["against"]) == (2, 1))
    assert second["difference"] == pytest.approx(0.3, abs=0.07)
    assert second["interval"][0] < second["difference"] < second["interval"][1]


def test_no_gain_is_a_result() -> None:
    found = judged(rates(0.1, n1=0.4, n2=0.4, n4=0.401))
    assert (found["verdict"], found["carries"]) == (NO_GAIN, True)
    assert "no gain from a second pass: recall +0.0 points (95 % interval +0.0 to +0.0)" in says(found)
    assert "no gain from 4 passes" in says(found)
    assert "the state carries: N = 1 against S dropped, recall +" in says(found)


def test_harm() -> None:
    found = judged(rates(0.1, n1=0.7, n2=0.4, n4=0.7))
    assert found["verdict"] == HARM
    assert "a second pass does harm: recall -" in says(found)
    assert "no gain from 4 passes" in says(found)


def test_gain_at_one_number_of_passes_is_a_gain_though_another_does_harm() -> None:
    found = judged(rates(0.1, n1=0.4, n2=0.7, n4=0.2))
    assert found["verdict"] == HELPS
    assert "4 passes do harm" in says(found)


def test_a_state_that_carries_nothing() -> None:
    found = judged(rates(0.2, n1=0.2, n2=0.2, n4=0.2))
    assert (found["verdict"], found["carries"]) == (NOTHING, False)
    assert says(found).startswith("the state itself carries nothing: N = 1 against S dropped, recall +0.0 points")
    assert "nor is it better with 2 or 4 passes" in says(found)
    assert "harm" in says(judged(rates(0.5, n1=0.2, n2=0.2)))


def test_worse_than_dropped_and_deeper_worse_still_is_no_matter_of_depth() -> None:
    assert judged(rates(0.8, n1=0.5, n2=0.1))["verdict"] == NOTHING


def test_a_state_that_needs_a_second_pass_to_carry_anything() -> None:
    found = judged(rates(0.2, n1=0.2, n2=0.6))
    assert (found["verdict"], found["carries"]) == (HELPS, True)
    assert "after one pass the state carries nothing that can be measured" in says(found)


def test_a_perplexity_that_falls_helps_and_is_told_in_per_cent() -> None:
    found = judged(logs(-3.0, n1=-2.5, n2=-2.4), vocabulary=10_000)
    assert found["verdict"] == HELPS
    assert "a second pass helps: perplexity -9.5" in says(found)
    assert judged(logs(-3.0, n1=-2.4, n2=-2.5), vocabulary=10_000)["verdict"] == HARM


def test_a_model_that_only_guesses_has_no_verdict_on_its_noise() -> None:
    found = judged(logs(-9.0, n1=-8.0, n2=-7.5), vocabulary=100)
    assert (found["verdict"], found["carries"]) == (NOTHING, False)
    assert "no better than a uniform guess over its 100 tokens" in says(found)


def test_nats_are_told_as_nats() -> None:
    assert "log-odds" not in says(judged(logs(0.0, "nats", n1=1.0, n2=2.0)))
    assert "+1.000 nats" in says(judged(logs(0.0, "nats", n1=1.0, n2=2.0)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_passes_that_blow_up_do_harm_and_the_document_stays_json(bad: float) -> None:
    scores = rates(0.1, n1=0.5, n2=0.5, n4=0.5)
    scores.values[4][3] = bad
    found = judged(scores)
    assert found["verdict"] == HARM
    assert "4 passes do harm: they give NaN or Inf" in found["says"]
    assert [row["mean"] is None for row in found["conditions"]] == [False, False, False, True]
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("condition", [1, None])
def test_an_ordinary_pass_that_blows_up_is_no_result(condition: int | None) -> None:
    scores = rates(0.1, n1=0.5, n2=0.5)
    scores.values[condition][0] = np.nan
    with pytest.raises(SleepFailed, match="recall: the model's ordinary pass"):
        judged(scores)
