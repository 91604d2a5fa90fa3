"""Evaluation on raw tasks: the bookkeeping with a stand-in for the model, and the whole with a tiny one."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from agentsleep.errors import SettingsError
from agentsleep.evals import raw
from agentsleep.evals.raw import EPISODES, evaluate_task
from agentsleep.models.nap import NapConfig, NapForCausalLM
from agentsleep.tasks import Depo, Difficulty, Rule110
from agentsleep.training.episode import Outcome

TASK = Depo(nodes=5, max_depth=3, symbols=6)
EASY = Difficulty(windows=1, depth=2)


@pytest.fixture(scope="module")
def model() -> NapForCausalLM:
    config = NapConfig(
        vocab_size=TASK.vocab_size,
        hidden_size=16,
        intermediate_size=16,
        pattern="as",
        num_attention_heads=2,
        linear_num_heads=2,
        linear_key_head_dim=4,
        linear_value_head_dim=4,
    )
    torch.manual_seed(0)
    return NapForCausalLM(config)


@pytest.fixture
def reads(monkeypatch) -> list:
    """In place of the model: right at depth 1 always, deeper with 4 passes alone, and never without a context."""
    seen: list = []
    evictions.clear()

    def read(model, batch, *, passes, rounds=1, eviction="window"):
        assert torch.is_inference_mode_enabled()
        assert not model.training
        evictions.append(eviction)
        seen.append((batch, passes, rounds))
        depth = torch.cat([window.depth[window.depth > 0] for window in batch.questions])
        row = torch.cat([(window.depth > 0).nonzero()[:, 0] for window in batch.questions])
        return Outcome(torch.zeros(()), ((depth == 1) | (passes == 4)) & bool(batch.context), depth, row)

    monkeypatch.setattr(raw, "read_batch", read)
    return seen


evictions: list[str] = []  # what the stand-in was told


def accuracies(document, **wanted) -> dict[int, float]:
    rows = document["results"] if "passes" in wanted else document["baselines"]
    return {row["depth"]: row["accuracy"] for row in rows if wanted.items() <= row.items()}


def test_hits_are_counted_by_depth_and_combination(model, reads) -> None:
    document = evaluate_task(model, TASK, difficulty=EASY, passes=(1, 4), rounds=(1, 2), questions=10)
    for rounds in (1, 2):
        assert accuracies(document, passes=1, rounds=rounds) == {1: 1.0, 2: 0.0}
        assert accuracies(document, passes=4, rounds=rounds) == {1: 1.0, 2: 1.0}
    assert accuracies(document, name="state-reset") == {1: 0.0, 2: 0.0}
    assert accuracies(document, name="chance") == {1: 0.25, 2: 0.25}
    assert document["difficulty"] == {"windows": 1, "depth": 2, "form": "plain"}


def test_every_combination_reads_the_same_episodes(model, reads) -> None:
    evaluate_task(model, TASK, difficulty=EASY, passes=(1, 4), rounds=(1, 2), questions=300)
    rounds_of_reading = [reads[i : i + 5] for i in range(0, len(reads), 5)]
    assert len(rounds_of_reading) > 1
    for group in rounds_of_reading:
        batch = group[0][0]
        assert [(n, r) for _, n, r in group[:4]] == [(1, 1), (1, 2), (4, 1), (4, 2)]
        assert all(read is batch for read, _, _ in group[:4])
        blank = group[4][0]
        assert not blank.context
        assert blank.questions is batch.questions
    assert not torch.equal(reads[0][0].context[0].ids, reads[5][0].context[0].ids)


def test_episodes_count_where_all_answers_are_right(model, monkeypatch) -> None:
    """In every batch the first answer of episode 0 is wrong, and all of episode 1; the others are right."""
    asked: Counter[int] = Counter()
    right: Counter[int] = Counter()

    def read(model, batch, *, passes, rounds=1, eviction="window"):
        (window,) = batch.questions
        row, place = (window.depth > 0).nonzero().unbind(1)
        depth = window.depth[row, place]
        correct = row != 1
        correct[0] = False
        if batch.context:
            for episode in range(EPISODES):
                for d in set(depth[row == episode].tolist()):
                    asked[d] += 1
                    right[d] += bool(correct[(row == episode) & (depth == d)].all())
        return Outcome(torch.zeros(()), correct, depth, row)

    monkeypatch.setattr(raw, "read_batch", read)
    document = evaluate_task(model, TASK, difficulty=EASY, passes=(1,), questions=300)
    for row in document["results"]:
        assert row["episodes"] == asked[row["depth"]] <= document["episodes"]
        assert row["exact"] == right[row["depth"]] / asked[row["depth"]]
        assert 0.9 < row["exact"] < row["accuracy"] < 1
    assert all("exact" not in row for row in document["baselines"])


@pytest.mark.parametrize("eviction", ["window", "never", "state"])
def test_what_is_evicted_is_for_the_model_to_be_measured_alone(model, reads, eviction) -> None:
    evaluate_task(model, TASK, difficulty=EASY, passes=(1,), questions=10, eviction=eviction)
    assert evictions == [eviction, "window"]  # and the baseline


def test_an_eviction_that_does_not_fit(model) -> None:
    with pytest.raises(SettingsError, match="eviction 'hard' is not one of"):
        evaluate_task(model, TASK, difficulty=EASY, eviction="hard")
    with pytest.raises(SettingsError, match="what is never evicted is read once"):
        evaluate_task(model, TASK, difficulty=EASY, passes=(1, 2), eviction="never")


def test_without_eviction_the_state_is_not_all_there_is(model) -> None:
    evicted, never, state = (
        evaluate_task(model, TASK, difficulty=EASY, passes=(1,), questions=200, eviction=eviction)
        for eviction in ("window", "never", "state")
    )
    assert accuracies(evicted, passes=1) != accuracies(never, passes=1)
    assert accuracies(state, passes=1) == accuracies(state, name="state-reset") == accuracies(never, name="state-reset")


@pytest.mark.parametrize("questions", [1, 81, 500])
def test_at_least_so_many_questions_of_every_depth(model, reads, questions) -> None:
    document = evaluate_task(model, TASK, difficulty=EASY, passes=(1,), questions=questions)
    asked = [row["questions"] for row in document["results"]]
    assert min(asked) >= questions
    assert sum(asked) == document["episodes"] * TASK.nodes
    assert document["episodes"] % EPISODES == 0
    assert document["episodes"] == EPISODES or min(asked) < questions + EPISODES * TASK.nodes


def test_the_best_constant_is_the_most_frequent_answer(model, reads) -> None:
    document = evaluate_task(model, TASK, difficulty=EASY, passes=(1,), questions=100)
    for depth in (1, 2):
        labels = Counter(
            int(label)
            for batch, _, _ in reads[::2]
            for window in batch.questions
            for label in window.labels[window.depth == depth]
        )
        assert accuracies(document, name="best-constant")[depth] == max(labels.values()) / labels.total()


def test_episodes_follow_from_the_seed_and_are_none_of_training(model, reads) -> None:
    def first(seed: int) -> torch.Tensor:
        reads.clear()
        evaluate_task(model, TASK, difficulty=EASY, passes=(1,), questions=1, seed=seed)
        return reads[0][0].context[0].ids

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))
    trained_on = TASK.batch(np.random.default_rng(3), EPISODES, EASY).context[0].ids
    assert not torch.equal(first(3), trained_on)


def test_progress_ends_at_one(model, reads) -> None:
    parts: list[float] = []
    evaluate_task(model, TASK, difficulty=EASY, passes=(1,), questions=500, progress=parts.append)
    assert parts == sorted(parts)
    assert parts[-1] == 1.0
    assert len(parts) > 1


@pytest.mark.parametrize("training", [True, False])
def test_a_real_model_keeps_its_mode_and_its_weights(model, training) -> None:
    model.train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    document = evaluate_task(
        model, TASK, difficulty=Difficulty(windows=2, depth=3), passes=(1, 2), rounds=(1, 2), questions=20
    )
    assert model.training == training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(document["results"]) == 2 * 2 * 3
    assert all(row["interval"][0] <= row["accuracy"] <= row["interval"][1] for row in document["results"])


def test_the_mode_is_restored_when_a_reading_fails(model, monkeypatch) -> None:
    def fail(*args, **settings):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(raw, "read_batch", fail)
    model.train(True)
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate_task(model, TASK, difficulty=EASY)
    assert model.training


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"passes": ()}, "no passes"),
        ({"rounds": ()}, "no rounds"),
        ({"passes": (0,)}, "passes is 0"),
        ({"rounds": (1, -1)}, "rounds is -1"),
        ({"questions": 0}, "questions is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"difficulty": Difficulty(windows=1, depth=4)}, "depth 4 is outside of 1..3"),
        ({"difficulty": Difficulty(windows=1, depth=0)}, "the depth is 0; depo asks from depth 1 on"),
    ],
)
def test_mistakes(model, settings, named) -> None:
    with pytest.raises(SettingsError, match=named):
        evaluate_task(model, TASK, **({"difficulty": EASY} | settings))


def test_a_depth_that_is_never_asked_ends_the_search(model, reads, monkeypatch) -> None:
    monkeypatch.setattr(raw, "PATIENCE", 3)
    task = Rule110(bits=4, max_depth=2)
    monkeypatch.setattr(Rule110, "depths", property(lambda self: (1, 2, 3)))
    shallow = Difficulty(windows=1, depth=2)
    monkeypatch.setattr(
        Rule110, "batch", lambda self, rng, size, difficulty, draw=Rule110.batch: draw(self, rng, size, shallow)
    )
    with pytest.raises(SettingsError, match=r"rule110 asks no question of depth \[3\]"):
        evaluate_task(model, task, difficulty=Difficulty(windows=1, depth=3), passes=(1,))
    assert len(reads) == 3 * 2
